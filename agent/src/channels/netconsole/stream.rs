//! The text of one node, in order and once, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;

use agent_core::model::{BootId, Line, Report, Timestamp};

use super::record::Head;

/// Lines kept: a report with the stacks of some CPUs.
const LINES: usize = 256;
/// Bytes of these.
const BYTES: usize = 64 << 10;
/// How far behind the newest a record may come, in records.
const WINDOW: u64 = 1_024;
/// How far behind it is missing, not only late.
const REORDERED: u64 = 64;
/// How long a report goes on after its first line, in microseconds.
const REPORT_US: u64 = 30_000_000;
/// Crashes told in a minute; a report is told anew each time it says more.
const TOLD_MAX: u32 = 16;
const MINUTE_MS: u64 = 60_000;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Copy,
    Late,
}

/// One node's text.
#[derive(Debug, Default)]
pub(super) struct Stream {
    boot: Option<BootId>,
    /// By number of the record.
    lines: BTreeMap<u64, Line>,
    bytes: usize,
    /// The lowest number that came.
    first: u64,
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
    /// Since when, and how often it told.
    tellings: (Timestamp, u32),
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
        let newest = self.newest();
        if newest.is_some_and(|newest| head.seq + WINDOW <= newest) {
            return Taken::Late;
        }
        if self.lines.contains_key(&head.seq) {
            return Taken::Copy;
        }
        match newest {
            None => self.first = head.seq,
            Some(newest) if head.seq > newest => self.pass_over(newest, head.seq),
            // Nobody knows that the first to come is not the first that was sent.
            Some(_) if head.seq < self.first && self.first - head.seq <= REORDERED => {
                self.gaps.extend(head.seq + 1..self.first);
                self.first = head.seq;
            }
            // It was counted as missing, or made room for others.
            Some(_) if !self.gaps.remove(&head.seq) => return Taken::Late,
            Some(_) => {}
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
            let last = self.newest();
            if std::mem::take(&mut self.unfinished)
                && let Some(line) = last.and_then(|last| self.lines.get_mut(&last))
                && line.text.len() + piece.len() <= super::record::RECORD_MAX
            {
                line.text.push_str(piece);
                self.bytes += piece.len();
                let (seq, text) = (line.seq, line.text.clone());
                self.look(seq, 0, &text);
                continue;
            }
            self.put(Line {
                seq: last.map_or(0, |last| last.saturating_add(1)),
                mono_ns: 0,
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
        let lines = self.lines.range(self.open?..);
        let mut whole: Vec<Line> = Vec::new();
        for (_, line) in lines {
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

    /// Whether there is room for another telling in this minute.
    pub(super) fn may_tell(&mut self, now: Timestamp) -> bool {
        let (since, count) = &mut self.tellings;
        if now.since(*since) >= MINUTE_MS {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= TOLD_MAX
    }

    fn newest(&self) -> Option<u64> {
        self.lines.keys().next_back().copied()
    }

    /// A boot counts its records, and its time, from zero.
    fn is_of_another_boot(&self, head: Head, boot: Option<BootId>) -> bool {
        let other = |(a, b): (BootId, BootId)| a != b;
        let mono_ns = head.time_us.saturating_mul(1_000);
        self.boot.zip(boot).is_some_and(other)
            || self
                .lines
                .get(&head.seq)
                .is_some_and(|line| line.mono_ns != mono_ns)
            || self.lines.last_key_value().is_some_and(|(newest, line)| {
                head.seq.saturating_add(WINDOW) <= *newest && mono_ns < line.mono_ns
            })
    }

    /// Another boot speaks.
    fn begin(&mut self) {
        *self = Self {
            missing: self.missing + self.gaps.len() as u64,
            tellings: self.tellings,
            ..Self::default()
        };
    }

    fn pass_over(&mut self, newest: u64, seq: u64) {
        let first = (newest + 1).max(seq.saturating_sub(REORDERED));
        self.missing += first - (newest + 1);
        self.gaps.extend(first..seq);
        let kept = self.gaps.split_off(&seq.saturating_sub(REORDERED));
        self.missing += self.gaps.len() as u64;
        self.gaps = kept;
    }

    fn put(&mut self, line: Line) {
        let (seq, mono_ns, text) = (line.seq, line.mono_ns, line.text.clone());
        self.bytes += cost(&line);
        self.lines.insert(seq, line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some((_, line)) = self.lines.pop_first() else {
                break;
            };
            self.bytes -= cost(&line);
        }
        self.look(seq, mono_ns, &text);
    }

    /// Whether a report begins or goes on with this line. Most text of a node
    /// that is well is read once and by itself.
    fn look(&mut self, seq: u64, mono_ns: u64, text: &str) {
        let goes_on = self.open.is_some_and(|open| {
            let first = self.lines.get(&open);
            first.is_some_and(|first| mono_ns <= first.mono_ns + REPORT_US * 1_000)
        });
        let begins = || {
            let mut decoder = agent_decode::Decoder::default();
            for line in text.split('\n') {
                decoder.line(line);
            }
            decoder.finish().is_some()
        };
        if !goes_on && !begins() {
            return;
        }
        // Its first lines may come behind others.
        let is_first = self.open.is_none_or(|open| seq < open) && begins();
        if !goes_on {
            self.told = None;
        }
        if !goes_on || is_first {
            self.open = Some(seq);
        }
        self.changed = true;
    }
}

/// Bytes that a line takes.
fn cost(line: &Line) -> usize {
    line.text.len() + size_of::<Line>()
}
