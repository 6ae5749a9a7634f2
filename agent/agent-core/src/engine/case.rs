//! One death: its facts, the verdict on them, and what changed.

use super::fleet::Life;
use super::verdict::{self, Facts, Heard};
use super::{Action, Limits, Output, explain};
use crate::model::{
    Account, Channel, Death, DeathState, Evidence, Notice, Opinion, Proof, Report, Step, Timestamp,
    Word,
};

/// Distinct words kept per death. A machine that oopses again and again
/// fills this; the oldest that did not kill it goes first.
const WORDS_MAX: usize = 16;
/// Longest text of one entry in a timeline, in bytes.
const EVIDENCE_TEXT_MAX: usize = 512;
/// Most steps of proof kept per death. A boot that is revoked and dies again
/// and again fills this; the middle goes first.
const STEPS_MAX: usize = 16;
/// What had to be dropped for room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) evidence: u64,
    pub(super) words: u64,
}

/// One boot's end, as far as it is known.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts; each is set by another event"
)]
pub(super) struct Case {
    pub(super) death: Death,
    pub(super) words: Vec<Heard>,
    /// What its boot has shown of its life: the fleet forgets boots, this does not.
    pub(super) life: Life,
    /// What says most of all that was decoded, whether or not the words that
    /// count let it be the reason.
    best: Option<Report>,
    /// Since when nothing was heard, by the engine's clock.
    pub(super) quiet_since: u64,
    pub(super) silent: bool,
    pub(super) returned: bool,
    /// By what that is known.
    pub(super) returned_by: Option<(Channel, String)>,
    /// When it ended, if it did and no word says why.
    pub(super) unheard: Option<Timestamp>,
    /// Its newest sign of life until a while after that, or the first one ever, by
    /// its own clock.
    pub(super) unheard_ns: u64,
    /// When that was found out, by the engine's clock.
    unheard_ms: u64,
    /// What each channel showed of that.
    unheard_by: Vec<Account>,
    /// `ReportOops` was given out for what is reported now.
    reported: bool,
    /// `MarkNode` was given out and not revoked since.
    marked: bool,
    /// `AnnotatePods` was given out and not revoked since.
    annotated: bool,
    /// The return was acted on.
    welcomed: bool,
    recorded: bool,
    /// The `NodeDeath` lacks something that no verdict shows.
    pub(super) touched: bool,
    /// The record that was given out last is out of date.
    stale: bool,
}

impl Case {
    pub(super) fn open(
        now: Timestamp,
        key: &super::Key,
        notice: Option<Notice>,
        happened: Timestamp,
        returned: bool,
    ) -> Self {
        let death = Death::opened(now, &key.0, key.1, Proof::P1, notice, happened);
        Self {
            death,
            words: Vec::new(),
            life: Life::default(),
            best: None,
            quiet_since: 0,
            silent: false,
            returned,
            returned_by: None,
            unheard: None,
            unheard_ns: 0,
            unheard_ms: 0,
            unheard_by: Vec::new(),
            reported: false,
            marked: false,
            annotated: false,
            welcomed: returned,
            recorded: false,
            touched: false,
            stale: true,
        }
    }

    pub(super) fn restore(death: Death, clock_ms: u64, limits: &Limits) -> Self {
        let returned = death.proof == Proof::P4;
        // What refuted these words is not stored, only that something did.
        let mut life = Life::default();
        match (&death.word, death.state) {
            (Some(word), DeathState::Revoked) => {
                life.alive_ns = verdict::revoking_ns(word, limits);
            }
            (Some(word), DeathState::Survived) => life.survived_ns = word.at_ns.saturating_add(1),
            _ => {}
        }
        let over = matches!(death.state, DeathState::Dead | DeathState::Returned);
        let told_itself = death.notice.is_some_and(Notice::is_final);
        let words = death.word.iter().map(|word| Heard {
            word: word.clone(),
            happened: death.happened_at,
        });
        let mut case = Self {
            words: words.collect(),
            life,
            best: death.report.clone(),
            quiet_since: clock_ms,
            silent: death.proof >= Proof::P3,
            returned,
            returned_by: None,
            unheard: (over && !told_itself).then_some(death.happened_at),
            // Where that was is not stored: no sign of life refutes it any more.
            unheard_ns: u64::MAX,
            unheard_ms: 0,
            unheard_by: death.channels.clone(),
            reported: !over,
            marked: over,
            annotated: false,
            welcomed: returned,
            recorded: true,
            touched: false,
            stale: false,
            death,
        };
        case.annotated = over && case.has_a_reason();
        case
    }

    /// What the node's Lease says now.
    pub(super) fn take_lease(&mut self, lease: Opinion) {
        self.stale |= self.death.lease != lease;
        self.death.lease = lease;
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

    /// The boot ended, last heard at `at` and by its own clock at `alive_ns`:
    /// another one runs, since `clock_ms`. If no word that stands says why, it ended
    /// without one.
    pub(super) fn end_unheard(
        &mut self,
        at: Timestamp,
        alive_ns: u64,
        clock_ms: u64,
        channels: Vec<Account>,
    ) {
        self.unheard = Some(at);
        (self.unheard_ns, self.unheard_ms) = (alive_ns, clock_ms);
        self.returned = true;
        self.unheard_by = channels;
    }

    /// A channel has brought something after its account was given.
    pub(super) fn amend(&mut self, channel: Channel, did: String) {
        let account = self.unheard_by.iter_mut().find(|a| a.channel == channel);
        if let Some(account) = account {
            account.did = did;
        }
    }

    /// Whether it lives on after it was said to have ended without a word: then
    /// it runs beside the boot that spoke, and nothing of that end is left.
    pub(super) fn goes_on(&mut self, facts: &Facts, clock_ms: u64) -> bool {
        let alive_ns = facts.life.alive_ns;
        // What was sent before the end may be read after it: datagrams wait, heartbeats
        // apart from the rest.
        let may_be_late = clock_ms.saturating_sub(self.unheard_ms) < facts.revoke_ms;
        if may_be_late || self.unheard_ns == 0 {
            // From here on it is measured.
            self.unheard_ns = self.unheard_ns.max(alive_ns);
        }
        let goes_on = self.unheard.is_some() && alive_ns > facts.revoking_ns(self.unheard_ns);
        if goes_on {
            self.unheard = None;
            (self.returned, self.welcomed) = (false, false);
        }
        goes_on
    }

    /// Another boot runs, by this evidence.
    pub(super) fn end_known(&mut self, by: Channel, text: &str) {
        self.returned = true;
        self.returned_by = Some((by, text.to_owned()));
    }

    /// If the machine lived on after all that was said, words that are not
    /// refuted are of another event, with a reason of its own.
    pub(super) fn begin_again_if_over(&mut self, now: Timestamp, word: &Word, facts: &Facts) {
        let over = matches!(self.death.state, DeathState::Survived | DeathState::Revoked);
        if !over || self.is_new() || facts.refute(word) {
            return;
        }
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

    /// Adds to the timeline. When it is full, what is without proof goes first, then
    /// the middle: how it began and where it stands are what people read.
    pub(super) fn note(
        &mut self,
        at: Timestamp,
        channel: Channel,
        mut text: String,
        limits: &Limits,
        cut: &mut Cut,
    ) {
        cut_text(&mut text);
        let evidence = &mut self.death.evidence;
        let max = limits.evidence.max(2);
        while evidence.len() >= max {
            let unproven = evidence
                .iter()
                .position(|e| e.channel == Channel::Netconsole);
            evidence.remove(unproven.unwrap_or(max / 2));
            cut.evidence += 1;
        }
        evidence.push(Evidence { channel, at, text });
        self.stale = true;
    }

    /// Whether the timeline has this already.
    pub(super) fn has_noted(&self, channel: Channel, text: &str) -> bool {
        let mut text = text.to_owned();
        cut_text(&mut text);
        let mut evidence = self.death.evidence.iter();
        evidence.any(|e| e.channel == channel && e.text == text)
    }

    /// Says why a level was reached. When there are too many the middle goes,
    /// as in the timeline.
    fn take_step(
        &mut self,
        at: Timestamp,
        proof: Proof,
        by: Channel,
        mut text: String,
        cut: &mut Cut,
    ) {
        cut_text(&mut text);
        let steps = &mut self.death.steps;
        while steps.len() >= STEPS_MAX {
            steps.remove(STEPS_MAX / 2);
            cut.evidence += 1;
        }
        steps.push(Step {
            proof,
            at,
            by,
            text,
        });
        self.stale = true;
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
        self.life = facts.life;
        let before = (self.death.state, self.death.proof);
        let verdict = self.judge(facts);
        if self.death.steps.is_empty() || before != (verdict.state, verdict.proof) {
            let (by, text) = self.because(&verdict, limits, facts);
            self.take_step(now, verdict.proof, by, text, cut);
        }
        self.death.state = verdict.state;
        self.death.proof = verdict.proof;
        self.stale |= before != (verdict.state, verdict.proof);
        let mut better = false;
        if self.death.notice.is_none() && verdict.over && verdict.chosen.is_some() {
            // Its word comes after all, and pods were told that there is none.
            self.annotated = false;
        }
        if verdict.chosen.is_some() || !verdict.over {
            self.death.channels.clear();
        } else if self.death.channels != self.unheard_by {
            self.death.channels.clone_from(&self.unheard_by);
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
            let mut words = self.words.iter().rev();
            let packet = words.find_map(|heard| heard.word.packet.clone());
            self.stale |= self.death.packet != packet;
            self.death.packet = packet;
        } else if let Some(at) = self.unheard {
            // What was survived before is not why it ended.
            self.stale |= self.death.notice.is_some();
            self.death.notice = None;
            self.death.word = None;
            self.death.packet = None;
            self.death.report = None;
            self.death.happened_at = at;
        }
        if before.0 != verdict.state && self.recorded {
            let text = match verdict.state {
                DeathState::Survived => Some("the kernel lived on"),
                DeathState::Revoked if self.unheard.is_some() => Some(verdict::GOODBYE_LATE),
                DeathState::Revoked => Some("the same boot spoke again: it was no death"),
                _ => None,
            };
            if let Some(text) = text {
                self.note(now, Channel::Heartbeat, text.to_owned(), limits, cut);
            }
        }
        let moved = std::mem::take(&mut self.touched) || before != (verdict.state, verdict.proof);
        let actions = self.actions(verdict.over, better, moved);
        if self.stale || !actions.is_empty() {
            self.stale = false;
            self.recorded = true;
            out.push(Output::Record(Box::new(self.death.clone())));
            out.extend(actions.into_iter().map(Output::Act));
        }
    }

    fn actions(&mut self, over: bool, better: bool, moved: bool) -> Vec<Action> {
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
            } else if self.annotated && moved && (self.welcomed || !self.returned) {
                // A return is written with what it lifts.
                actions.push(Action::UpdateRecord(name()));
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

fn cut_text(text: &mut String) {
    text.truncate(text.floor_char_boundary(EVIDENCE_TEXT_MAX));
}
