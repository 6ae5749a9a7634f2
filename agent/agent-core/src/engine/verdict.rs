//! From the facts of one boot's end to the verdict on it.

use super::case::Case;
use super::fleet::Life;
use super::{Limits, explain};
use crate::model::{Channel, DeathState, Notice, Opinion, Proof, Timestamp, Word};

/// A shutdown runs on for a while with user space alive (`device_shutdown`),
/// so it takes this many times the margin of a panic to be refuted.
const SHUTDOWN_FACTOR: u64 = 6;

/// Why a boot that ended without a word was no death.
pub(super) const GOODBYE_LATE: &str = "its goodbye came late: it was stopped in an orderly way";
/// The same, where it lives.
const GOES_ON: &str = "the same boot goes on: it runs beside the one that spoke";

/// That a boot was quiet for as long as it takes.
pub(super) fn quiet_text(limits: &Limits) -> String {
    format!("no sign of life for {} ms", limits.silence_ms)
}

/// What is known of the boot beside its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) life: Life,
    /// When it was last heard, by the annotator's clock.
    pub(super) heard: Option<Timestamp>,
    pub(super) revoke_ms: u64,
}

impl Facts {
    /// A sign of life later than this shows that the boot did not end at `at_ns`.
    pub(super) fn revoking_ns(&self, at_ns: u64) -> u64 {
        at_ns.saturating_add(self.revoke_ms.saturating_mul(1_000_000))
    }

    /// Whether the boot demonstrably lived on after these words.
    pub(super) fn refute(&self, word: &Word) -> bool {
        let life = self.life.newest_ns();
        let by_life = life > word.at_ns.saturating_add(margin_ns(word, self.revoke_ms));
        by_life || (!word.notice.is_final() && self.life.survived_ns > word.at_ns)
    }
}

fn margin_ns(word: &Word, revoke_ms: u64) -> u64 {
    let factor = match word.notice {
        Notice::Restart | Notice::Halt | Notice::PowerOff | Notice::Kexec => SHUTDOWN_FACTOR,
        Notice::Oops
        | Notice::Panic
        | Notice::EmergencyRestart
        | Notice::SoftLockup
        | Notice::HardLockup
        | Notice::HungTask
        | Notice::RcuStall
        | Notice::OutOfMemory
        | Notice::Prediction => 1,
    };
    revoke_ms.saturating_mul(factor).saturating_mul(1_000_000)
}

/// The earliest sign of life that revokes these words.
pub(super) fn revoking_ns(word: &Word, limits: &Limits) -> u64 {
    word.at_ns
        .saturating_add(margin_ns(word, limits.revoke_ms))
        .saturating_add(1)
}

#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) word: Word,
    pub(super) happened: Timestamp,
}

impl Heard {
    /// The strongest first, of those the earliest: what came later is mostly
    /// its consequence. The rest only makes the order total.
    fn order(&self) -> impl Ord {
        let w = &self.word;
        let weakness = match w.outcome() {
            Notice::Panic => 0,
            Notice::Restart
            | Notice::Halt
            | Notice::PowerOff
            | Notice::Kexec
            | Notice::EmergencyRestart => 1,
            Notice::Oops => 2,
            Notice::SoftLockup
            | Notice::HardLockup
            | Notice::HungTask
            | Notice::RcuStall
            | Notice::OutOfMemory => 3,
            // It says what may come, and anything else what came.
            Notice::Prediction => 4,
        };
        (weakness, w.at_ns, w.notice as u16, w.cpu, w.pid)
    }

    pub(super) fn same_event(&self, other: &Word) -> bool {
        let w = &self.word;
        (w.notice, w.at_ns, w.cpu) == (other.notice, other.at_ns, other.cpu)
    }
}

/// What the facts come to.
pub(super) struct Verdict {
    pub(super) state: DeathState,
    pub(super) proof: Proof,
    /// Words of a boot's end that nothing refutes.
    pub(super) over: bool,
    /// The words that count.
    pub(super) chosen: Option<Heard>,
}

impl Case {
    pub(super) fn judge(&self, facts: &Facts) -> Verdict {
        let stands = |h: &&Heard| !facts.refute(&h.word);
        let any_final = self.words.iter().any(|h| h.word.is_final());
        // Without words: it goes on after it was said to have ended.
        let last_word = if any_final || self.words.is_empty() {
            DeathState::Revoked
        } else {
            DeathState::Survived
        };
        let best = self.words.iter().filter(stands).min_by_key(|h| h.order());
        let Some(best) = best else {
            if self.unheard.is_some() {
                let (state, proof) = if facts.life.stopped() {
                    // The goodbye came late: it was stopped in an orderly way.
                    (DeathState::Revoked, Proof::P1)
                } else {
                    (DeathState::Returned, Proof::P4)
                };
                return Verdict {
                    state,
                    proof,
                    over: !facts.life.stopped(),
                    chosen: None,
                };
            }
            // All of it is refuted. The newest words are those that count.
            let newest = self.words.iter().max_by_key(|h| (h.word.at_ns, h.order()));
            let proof = match (last_word, self.returned) {
                (DeathState::Survived, true) => Proof::P4,
                _ => Proof::P1,
            };
            return Verdict {
                state: last_word,
                proof,
                over: false,
                chosen: newest.cloned(),
            };
        };
        // What may be survived was not, if the boot ended then and nobody says why.
        let over = best.word.is_final() || self.unheard.is_some();
        let silent = self.silent
            && match self.death.lease {
                Opinion::NotRenewed { .. } | Opinion::Nobody(_) => true,
                Opinion::Open | Opinion::Renewed { .. } => false,
            };
        let (state, proof) = match (over, self.returned, silent) {
            (true, true, _) => (DeathState::Returned, Proof::P4),
            (true, false, true) => (DeathState::Dead, Proof::P3),
            (true, false, false) => (DeathState::Dead, Proof::P2),
            // Until the new boot says how this one ended.
            (false, true, _) => (DeathState::Suspected, Proof::P4),
            (false, false, _) => (DeathState::Suspected, Proof::P1),
        };
        Verdict {
            state,
            proof,
            over,
            chosen: Some(best.clone()),
        }
    }

    /// By whose evidence a verdict stands, and why, for people.
    pub(super) fn because(
        &self,
        verdict: &Verdict,
        limits: &Limits,
        facts: &Facts,
    ) -> (Channel, String) {
        let word = verdict.chosen.as_ref().map(|heard| &heard.word);
        let said = word.map_or_else(String::new, explain::word_text);
        let after = |ns: u64| {
            let after_ns = ns.saturating_sub(word.map_or(0, |word| word.at_ns));
            format!("{} s after its words", after_ns / 1_000_000_000)
        };
        match (verdict.state, verdict.proof) {
            (DeathState::Revoked, _) if self.unheard.is_some() => {
                (Channel::Gasp, GOODBYE_LATE.to_owned())
            }
            (DeathState::Revoked, _) if word.is_none() => (Channel::Heartbeat, GOES_ON.to_owned()),
            (DeathState::Revoked, _) => {
                let text = format!(
                    "the same boot spoke again, {}",
                    after(facts.life.newest_ns())
                );
                (Channel::Heartbeat, text)
            }
            (DeathState::Survived, _) if facts.life.survived_ns == u64::MAX => {
                let text = "its agent was told to stop later, by what is on the node's disk";
                (Channel::PreviousBoot, text.to_owned())
            }
            (DeathState::Survived, _) => {
                let lived_ns = facts.life.newest_ns().max(facts.life.survived_ns);
                (
                    Channel::Heartbeat,
                    format!("the kernel lived on, {}", after(lived_ns)),
                )
            }
            (_, Proof::P4) => {
                let known = self.returned_by.clone();
                known.unwrap_or_else(|| (Channel::Heartbeat, "another boot runs".to_owned()))
            }
            (_, Proof::P3) => {
                let quiet = quiet_text(limits);
                match &self.death.lease {
                    Opinion::NotRenewed { for_ms, .. } => {
                        let text =
                            format!("{quiet}, and its Lease was not renewed for {for_ms} ms");
                        (Channel::Lease, text)
                    }
                    Opinion::Nobody(why) => (
                        Channel::Heartbeat,
                        format!("{quiet}; silence alone, because {why}"),
                    ),
                    Opinion::Open | Opinion::Renewed { .. } => (Channel::Heartbeat, quiet),
                }
            }
            (_, Proof::P2) if self.death.proof == Proof::P3 => match self.death.lease {
                Opinion::Renewed { .. } => {
                    let text = "its Lease is renewed: this boot or another one lives";
                    (Channel::Lease, text.to_owned())
                }
                _ => (Channel::Heartbeat, "it was heard once more".to_owned()),
            },
            (_, Proof::P2) => {
                let text = format!("an authenticated word that no kernel comes back from: {said}");
                (Channel::Gasp, text)
            }
            (_, Proof::P0 | Proof::P1) => {
                let text = format!("an authenticated word that a kernel may survive: {said}");
                (Channel::Gasp, text)
            }
        }
    }
}
