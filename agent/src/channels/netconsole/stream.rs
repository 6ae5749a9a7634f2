//! The text of one node, in order and once, and what it says.

use std::collections::BTreeSet;

use agent_core::model::{BootId, Line, Report, Timestamp};

use super::lines::Lines;
use super::record::{Head, RECORD_MAX};
use crate::gasp::limiter::{Limiter, Rate};

/// How far behind the newest a record may come, in records; farther behind it is
/// of another text.
const WINDOW: u64 = 1_024;
/// How far behind it is missing, not only late.
const REORDERED: u64 = 64;
/// How long a report goes on after its first line, in microseconds.
const REPORT_US: u64 = 30_000_000;
/// Most that are counted as missing at once: whoever sends a number may send any.
const MISSING_MAX: u64 = 1 << 16;
/// Crashes told in a minute; a report is told anew each time it says more.
const TOLD: Rate = Rate {
    max: 16,
    within_ms: 60_000,
};

/// Lines in front of a report that are kept with it.
const CONTEXT: usize = 32;
/// How long lines are kept after a report was told, in milliseconds.
const KEEP_MS: u64 = 60_000;
/// How much earlier a line was printed than the one before it, if they are of two
/// boots and nothing else tells them apart.
const BACK_NS: u64 = 30_000_000_000;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Copy,
    Late,
    FromProgram,
}

/// One node's text.
#[derive(Debug, Default)]
pub(super) struct Stream {
    boot: Option<BootId>,
    lines: Lines,
    /// The lowest number that came, and the highest.
    span: Option<(u64, u64)>,
    /// Numbers that were passed over, and may still come.
    gaps: BTreeSet<u64>,
    missing: u64,
    /// The last line of the basic format has no end yet.
    unfinished: bool,
    /// The first line of what is reported now.
    open: Option<u64>,
    /// Something came since that was asked for.
    changed: bool,
    told: Option<Report>,
    tellings: Limiter,
    /// Until when lines are to be kept.
    keep_until: Timestamp,
    /// The lines that were given to be kept.
    kept: BTreeSet<u64>,
    keeping: Limiter,
}

impl Stream {
    /// Numbers of records that never came.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Takes a record in extended format.
    pub(super) fn record(&mut self, head: Head, text: String, boot: Option<BootId>) -> Taken {
        if self.is_of_another_boot(head, boot) {
            self.begin();
        }
        self.boot = self.boot.or(boot);
        if self.lines.get(head.seq).is_some() {
            return Taken::Copy;
        }
        let is_new = self.number(head.seq);
        if head.facility != 0 {
            return Taken::FromProgram;
        }
        if !is_new {
            return Taken::Late;
        }
        self.put(Line {
            seq: head.seq,
            mono_ns: head.time_us.saturating_mul(1_000),
            cpu: 0,
            level: Some(head.level),
            continues: head.continues,
            text,
        });
        Taken::New
    }

    /// Takes text in basic format, which has no numbers: in the order it comes.
    pub(super) fn plain(&mut self, text: &str) -> Taken {
        let whole = text.ends_with('\n');
        for piece in text.lines() {
            if std::mem::take(&mut self.unfinished)
                && let Some(line) = self.lines.add_to_last(piece, RECORD_MAX)
            {
                let line = line.clone();
                self.look(&line);
                continue;
            }
            let mono_ns = agent_decode::printed_ns(piece).unwrap_or(0);
            let before = self.lines.last().map_or(0, |line| line.mono_ns);
            if mono_ns > 0 && mono_ns.saturating_add(BACK_NS) < before {
                self.begin();
            }
            let next = |(_, newest): (u64, u64)| newest.saturating_add(1);
            let seq = self.span.map_or(0, next);
            self.number(seq);
            self.put(Line {
                seq,
                mono_ns,
                cpu: 0,
                level: None,
                continues: false,
                text: agent_decode::strip(piece).to_owned(),
            });
        }
        self.unfinished = !whole;
        Taken::New
    }

    /// What the text says, if that is a crash and was not given before.
    pub(super) fn news(&mut self) -> Option<Report> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut whole: Vec<Line> = Vec::new();
        for line in self.lines.from(self.open?) {
            match whole.last_mut() {
                Some(last) if line.continues => last.text.push_str(&line.text),
                _ => whole.push(line.clone()),
            }
        }
        let report = agent_decode::decode(&whole)?;
        if self.told.as_ref() == Some(&report) {
            return None;
        }
        self.told = Some(report.clone());
        Some(report)
    }

    /// Whether there is room for another telling in this minute. If so, the lines
    /// around it are to be kept.
    pub(super) fn may_tell(&mut self, now: Timestamp) -> bool {
        let may = self.tellings.allows(TOLD, now);
        if may {
            self.keep_until = now.plus(KEEP_MS);
        }
        may
    }

    /// Whether lines are to be kept now.
    pub(super) fn keeps(&self, now: Timestamp) -> bool {
        now < self.keep_until
    }

    /// The boot that the text names, if it does.
    pub(super) fn boot(&self) -> Option<BootId> {
        self.boot
    }

    /// Whether there is room for another line in this minute.
    pub(super) fn may_keep(&mut self, rate: Rate, now: Timestamp) -> bool {
        self.keeping.allows(rate, now)
    }

    /// The lines that are to be kept and were not given before.
    pub(super) fn lines_to_keep(&mut self, now: Timestamp) -> Vec<Line> {
        let Some(open) = self.open.filter(|_| self.keeps(now)) else {
            return Vec::new();
        };
        let context = self.lines.before(open).rev().take(CONTEXT).last();
        let first = context.map_or(open, |line| line.seq);
        // More of the last one may come.
        let last = self.lines.last().map(|line| line.seq);
        let unfinished = last.filter(|_| self.unfinished);
        let mut fresh = Vec::new();
        for line in self.lines.from(first) {
            if Some(line.seq) != unfinished && self.kept.insert(line.seq) {
                fresh.push(line.clone());
            }
        }
        fresh
    }

    /// Takes a number in; false if it came before, or was given up.
    fn number(&mut self, seq: u64) -> bool {
        match self.span {
            None => self.span = Some((seq, seq)),
            Some((first, newest)) if seq > newest => {
                self.pass_over(newest, seq);
                self.span = Some((first, seq));
            }
            // Nobody knows that the first to come is not the first that was sent.
            Some((first, newest)) if seq < first && first - seq <= REORDERED => {
                self.gaps.extend(seq + 1..first);
                self.span = Some((seq, newest));
            }
            Some(_) => return self.gaps.remove(&seq),
        }
        true
    }

    /// A boot counts its records, and its time, from zero; and what one forged
    /// number was ahead of must not be mute for it.
    fn is_of_another_boot(&self, head: Head, boot: Option<BootId>) -> bool {
        let other = |(a, b): (BootId, BootId)| a != b;
        let mono_ns = head.time_us.saturating_mul(1_000);
        self.boot.zip(boot).is_some_and(other)
            || self
                .lines
                .get(head.seq)
                .is_some_and(|line| line.mono_ns != mono_ns)
            || self
                .span
                .is_some_and(|(_, newest)| head.seq.saturating_add(WINDOW) <= newest)
    }

    /// Another boot speaks.
    fn begin(&mut self) {
        *self = Self {
            missing: self.missing.saturating_add(self.gaps.len() as u64),
            tellings: std::mem::take(&mut self.tellings),
            keeping: std::mem::take(&mut self.keeping),
            ..Self::default()
        };
    }

    fn pass_over(&mut self, newest: u64, seq: u64) {
        let next = newest.saturating_add(1);
        if seq == next && self.gaps.is_empty() {
            return;
        }
        let first = next.max(seq.saturating_sub(REORDERED));
        self.gaps.extend(first..seq);
        let kept = self.gaps.split_off(&seq.saturating_sub(REORDERED));
        let given_up = std::mem::replace(&mut self.gaps, kept).len() as u64;
        let missing = given_up.saturating_add(first - next).min(MISSING_MAX);
        self.missing = self.missing.saturating_add(missing);
    }

    fn put(&mut self, line: Line) {
        self.look(&line);
        let kept = &mut self.kept;
        self.lines.put(line, |seq| {
            kept.remove(&seq);
        });
    }

    /// Whether a report begins or goes on with this line. Most text of a node
    /// that is well is read once and by itself.
    fn look(&mut self, line: &Line) {
        let until = |first: &Line| first.mono_ns.saturating_add(REPORT_US * 1_000);
        let goes_on = self.open.is_some_and(|open| {
            let first = self.lines.get(open);
            first.is_some_and(|first| line.mono_ns <= until(first))
        });
        let begins = || line.text.split('\n').any(agent_decode::begins);
        if !goes_on && !begins() {
            return;
        }
        // Its first lines may come behind others.
        let is_first = self.open.is_none_or(|open| line.seq < open) && begins();
        if !goes_on {
            self.told = None;
        }
        if !goes_on || is_first {
            self.open = Some(line.seq);
        }
        self.changed = true;
    }
}
