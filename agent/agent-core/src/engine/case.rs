//! One death: its facts, the verdict on them, and what changed.

use super::{Action, Limits, Output, explain};
use crate::model::{
    Channel, Death, DeathName, DeathState, Evidence, Notice, Proof, Report, Timestamp, Word,
};

/// Distinct words kept per death. A machine that oopses again and again
/// fills this; the oldest that did not kill it goes first.
const WORDS_MAX: usize = 16;
/// Longest text of one entry in a timeline, in bytes.
const EVIDENCE_TEXT_MAX: usize = 512;
/// A shutdown runs on for a while with user space alive (`device_shutdown`),
/// so it takes this many times the margin of a panic to be refuted.
const SHUTDOWN_FACTOR: u64 = 6;

/// What had to be dropped for room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) evidence: u64,
    pub(super) words: u64,
}

/// What is known of the boot beside its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Newest sign of life by the node's own clock.
    pub(super) alive_ns: u64,
    /// Newest message that says outright that the kernel lived on.
    pub(super) survived_ns: u64,
    /// The last thing it said was a goodbye.
    pub(super) stopped: bool,
    /// When it was last heard, by the annotator's clock.
    pub(super) heard: Option<Timestamp>,
    pub(super) revoke_ms: u64,
}

impl Facts {
    /// Whether the boot demonstrably lived on after these words.
    pub(super) fn refute(&self, word: &Word) -> bool {
        let by_life = self.alive_ns > word.at_ns.saturating_add(margin_ns(word, self.revoke_ms));
        by_life || (!word.notice.is_final() && self.survived_ns > word.at_ns)
    }
}

fn margin_ns(word: &Word, revoke_ms: u64) -> u64 {
    let factor = match word.notice {
        Notice::Restart | Notice::Halt | Notice::PowerOff | Notice::Kexec => SHUTDOWN_FACTOR,
        Notice::Oops
        | Notice::Panic
        | Notice::EmergencyRestart
        | Notice::SoftLockup
        | Notice::HungTask
        | Notice::RcuStall
        | Notice::OutOfMemory => 1,
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
struct Heard {
    word: Word,
    happened: Timestamp,
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
            Notice::SoftLockup | Notice::HungTask | Notice::RcuStall | Notice::OutOfMemory => 3,
        };
        (weakness, w.at_ns, w.notice as u16, w.cpu, w.pid)
    }

    fn same_event(&self, other: &Word) -> bool {
        let w = &self.word;
        (w.notice, w.at_ns, w.cpu) == (other.notice, other.at_ns, other.cpu)
    }
}

/// One boot's end, as far as it is known.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts; each is set by another event"
)]
pub(super) struct Case {
    pub(super) death: Death,
    words: Vec<Heard>,
    /// What says most of all that was decoded, whether or not the words that
    /// count let it be the reason.
    best: Option<Report>,
    /// Since when nothing was heard, by the engine's clock.
    pub(super) quiet_since: u64,
    pub(super) silent: bool,
    pub(super) returned: bool,
    /// When it ended, if it did and no word says why.
    unheard: Option<Timestamp>,
    /// `ReportOops` was given out for what is reported now.
    reported: bool,
    /// `MarkNode` was given out and not revoked since.
    marked: bool,
    /// `AnnotatePods` was given out and not revoked since.
    annotated: bool,
    /// The return was acted on.
    welcomed: bool,
    recorded: bool,
    /// The record that was given out last is out of date.
    stale: bool,
}

struct Verdict {
    state: DeathState,
    proof: Proof,
    /// Words of a boot's end that nothing refutes.
    over: bool,
    chosen: Option<Heard>,
}

impl Case {
    pub(super) fn open(
        now: Timestamp,
        key: &super::Key,
        notice: Option<Notice>,
        happened: Timestamp,
        returned: bool,
    ) -> Self {
        let death = Death {
            name: DeathName::of(&key.0, key.1),
            node: key.0.clone(),
            node_uid: None,
            boot: key.1,
            state: DeathState::Suspected,
            proof: Proof::P1,
            notice,
            word: None,
            report: None,
            detected_at: now,
            happened_at: happened,
            evidence: Vec::new(),
            kernel_release: None,
        };
        Self {
            death,
            words: Vec::new(),
            best: None,
            quiet_since: 0,
            silent: false,
            returned,
            unheard: None,
            reported: false,
            marked: false,
            annotated: false,
            welcomed: returned,
            recorded: false,
            stale: true,
        }
    }

    pub(super) fn restore(death: Death, clock_ms: u64) -> Self {
        // That it ended without a word was known because another boot spoke.
        let returned = death.proof == Proof::P4 || death.notice.is_none();
        let over = matches!(death.state, DeathState::Dead | DeathState::Returned);
        let told_itself = death.notice.is_some_and(Notice::is_final);
        let words = death.word.iter().map(|word| Heard {
            word: word.clone(),
            happened: death.happened_at,
        });
        let mut case = Self {
            words: words.collect(),
            best: death.report.clone(),
            quiet_since: clock_ms,
            silent: death.proof >= Proof::P3,
            returned,
            unheard: (death.notice.is_none() || over && !told_itself).then_some(death.happened_at),
            reported: !over,
            marked: over,
            annotated: false,
            welcomed: returned,
            recorded: true,
            stale: false,
            death,
        };
        case.annotated = over && case.has_a_reason();
        case
    }

    /// Whether nothing was given out on it yet.
    pub(super) fn is_new(&self) -> bool {
        !self.recorded
    }

    /// Whether more is to come: such a death is evicted last.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.death.state, DeathState::Suspected | DeathState::Dead)
    }

    /// Whether a word that stands says how the boot ended.
    pub(super) fn has_last_word(&self) -> bool {
        matches!(self.death.state, DeathState::Dead | DeathState::Returned)
            && self.death.notice.is_some_and(Notice::is_final)
    }

    /// Takes words in. False if they say nothing new.
    pub(super) fn hear(
        &mut self,
        word: Word,
        happened: Timestamp,
        facts: &Facts,
        cut: &mut Cut,
    ) -> bool {
        if let Some(known) = self.words.iter_mut().find(|h| h.same_event(&word)) {
            // The same event again; a later copy may carry the line.
            let richer = word.line.len() > known.word.line.len();
            if richer {
                known.word = word;
            }
            return richer;
        }
        if self.words.len() >= WORDS_MAX {
            let oldest = (0..self.words.len())
                .filter(|i| facts.refute(&self.words[*i].word))
                .min_by_key(|i| self.words[*i].word.at_ns);
            cut.words += 1;
            match oldest {
                Some(i) => drop(self.words.remove(i)),
                None if word.is_final() && self.words.iter().all(|h| !h.word.is_final()) => {
                    self.words.pop();
                }
                None => return false,
            }
        }
        self.words.push(Heard { word, happened });
        true
    }

    /// The boot ended, last heard at `at`: another one runs. If no word that
    /// stands says why, it ended without one.
    pub(super) fn end_unheard(&mut self, at: Timestamp) {
        self.unheard = Some(at);
        self.returned = true;
    }

    /// The machine lived on after all that was said: what comes now is
    /// another event with a reason of its own.
    pub(super) fn begin_again(&mut self, now: Timestamp) {
        self.best = None;
        self.death.detected_at = now;
        self.reported = false;
    }

    /// Takes a report if it says more than the one there is.
    pub(super) fn improve(&mut self, report: Report) -> bool {
        let better = match &self.best {
            Some(old) => explain::quality(&report) > explain::quality(old),
            None => true,
        };
        if better {
            if report.kernel_release.is_some() {
                self.death.kernel_release.clone_from(&report.kernel_release);
            }
            self.best = Some(report);
        }
        better
    }

    /// What happened, as the words that count have it.
    fn explain(&self, word: &Word) -> Option<Report> {
        let believed = |report: &&Report| explain::may_be_why(report, word.notice);
        let report = self.best.as_ref().filter(believed).cloned();
        report.or_else(|| Some(explain::provisional(word)))
    }

    /// Adds to the timeline. When it is full the middle goes: how it began
    /// and where it stands are what people read.
    pub(super) fn note(
        &mut self,
        at: Timestamp,
        channel: Channel,
        mut text: String,
        limits: &Limits,
        cut: &mut Cut,
    ) {
        text.truncate(text.floor_char_boundary(EVIDENCE_TEXT_MAX));
        let evidence = &mut self.death.evidence;
        let max = limits.evidence.max(2);
        while evidence.len() >= max {
            evidence.remove(max / 2);
            cut.evidence += 1;
        }
        evidence.push(Evidence { channel, at, text });
        self.stale = true;
    }

    fn judge(&self, facts: &Facts) -> Verdict {
        let stands = |h: &&Heard| !facts.refute(&h.word);
        let any_final = self.words.iter().any(|h| h.word.is_final());
        let last_word = if any_final {
            DeathState::Revoked
        } else {
            DeathState::Survived
        };
        let best = self.words.iter().filter(stands).min_by_key(|h| h.order());
        let Some(best) = best else {
            if self.unheard.is_some() {
                let (state, proof) = if facts.stopped {
                    // The goodbye came late: it was stopped in an orderly way.
                    (DeathState::Revoked, Proof::P1)
                } else {
                    (DeathState::Returned, Proof::P4)
                };
                return Verdict {
                    state,
                    proof,
                    over: !facts.stopped,
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
        let (state, proof) = match (over, self.returned, self.silent) {
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

    /// Judges, and gives out the record and the actions that follow from what
    /// changed.
    pub(super) fn settle(
        &mut self,
        now: Timestamp,
        facts: &Facts,
        limits: &Limits,
        cut: &mut Cut,
        out: &mut Vec<Output>,
    ) {
        let before = (self.death.state, self.death.proof);
        let verdict = self.judge(facts);
        self.death.state = verdict.state;
        self.death.proof = verdict.proof;
        self.stale |= before != (verdict.state, verdict.proof);
        let mut better = false;
        if self.death.notice.is_none() && verdict.chosen.is_some() {
            // Its word comes after all, and pods were told that there is none.
            self.annotated = false;
        }
        if let Some(heard) = verdict.chosen {
            let report = self.explain(&heard.word);
            better = report != self.death.report;
            self.stale |= better;
            self.death.report = report;
            self.stale |= self.death.word.as_ref() != Some(&heard.word);
            self.death.notice = Some(heard.word.outcome());
            self.death.happened_at = heard.happened;
            self.death.word = Some(heard.word);
        } else if let Some(at) = self.unheard {
            // What was survived before is not why it ended.
            self.stale |= self.death.notice.is_some();
            self.death.notice = None;
            self.death.word = None;
            self.death.report = None;
            self.death.happened_at = at;
        }
        if before.0 != verdict.state && self.recorded {
            let text = match verdict.state {
                DeathState::Survived => Some("the kernel lived on"),
                DeathState::Revoked if self.unheard.is_some() => {
                    Some("its goodbye came late: it was stopped in an orderly way")
                }
                DeathState::Revoked => Some("the same boot spoke again: it was no death"),
                _ => None,
            };
            if let Some(text) = text {
                self.note(now, Channel::Heartbeat, text.to_owned(), limits, cut);
            }
        }
        let actions = self.actions(verdict.over, better);
        if self.stale || !actions.is_empty() {
            self.stale = false;
            self.recorded = true;
            out.push(Output::Record(Box::new(self.death.clone())));
            out.extend(actions.into_iter().map(Output::Act));
        }
    }

    fn actions(&mut self, over: bool, better: bool) -> Vec<Action> {
        let name = || self.death.name.clone();
        let mut actions = Vec::new();
        if over {
            let tell = if self.annotated {
                // Pods that came after the node's return are none of this death's.
                better && !self.returned
            } else {
                self.has_a_reason()
            };
            if !self.returned && (tell || !self.marked) {
                actions.push(Action::MarkNode(name()));
                self.marked = true;
            }
            if tell {
                actions.push(Action::AnnotatePods(name()));
                self.annotated = true;
            }
        } else if self.marked || self.annotated {
            actions.push(Action::Revoke(name()));
            (self.marked, self.annotated) = (false, false);
        }
        let oops = matches!(
            self.death.state,
            DeathState::Suspected | DeathState::Survived
        );
        if oops && !self.returned && (better || !self.reported) {
            actions.push(Action::ReportOops(name()));
            self.reported = true;
        }
        if self.returned && !self.welcomed {
            // A revoked death left no mark to lift.
            if self.death.state != DeathState::Revoked {
                actions.push(Action::NodeReturned(name()));
            }
            self.welcomed = true;
        }
        actions
    }

    /// Whether there is something to tell the pods: the place of the fault, or
    /// all that the kernel will say. A fatal oops names its place some lines
    /// after its first; pods are written once, and not before.
    fn has_a_reason(&self) -> bool {
        let report = self.death.report.as_ref();
        self.returned
            || self.silent
            || self.words.iter().any(|h| h.word.notice.is_final())
            || report.is_some_and(|report| report.fault_function.is_some())
    }
}
