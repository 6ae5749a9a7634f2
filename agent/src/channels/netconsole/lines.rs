//! The lines of one node that are kept: the newest, in the order of their numbers.

use std::collections::VecDeque;
use std::mem::size_of;

use agent_core::model::Line;

/// Lines kept: a report with the stacks of some CPUs.
const LINES: usize = 256;
/// Bytes of these.
const BYTES: usize = 64 << 10;

/// Lines by number, each once. Mostly the next is the newest, and is put at the end.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Lines {
    /// The line with this number.
    pub(super) fn get(&self, seq: u64) -> Option<&Line> {
        let at = self.find(seq).ok()?;
        self.lines.get(at)
    }

    /// The line with the highest number.
    pub(super) fn last(&self) -> Option<&Line> {
        self.lines.back()
    }

    /// Adds to the line with the highest number, which may become `most` bytes long;
    /// gives it then.
    pub(super) fn add_to_last(&mut self, text: &str, most: usize) -> Option<&Line> {
        let last = self.lines.back_mut()?;
        if last.text.len() + text.len() > most {
            return None;
        }
        last.text.push_str(text);
        self.bytes += text.len();
        self.lines.back()
    }

    /// Puts a line in its place, and gives up those with the lowest numbers if there are
    /// too many; `gone` is told their numbers.
    pub(super) fn put(&mut self, line: Line, mut gone: impl FnMut(u64)) {
        self.bytes += cost(&line);
        match self.find(line.seq) {
            Ok(at) => self.bytes -= cost(&std::mem::replace(&mut self.lines[at], line)),
            Err(at) => self.lines.insert(at, line),
        }
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(line) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= cost(&line);
            gone(line.seq);
        }
    }

    /// Those from this number on.
    pub(super) fn from(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Line> {
        let (Ok(at) | Err(at)) = self.find(seq);
        self.lines.range(at..)
    }

    /// Those before this number.
    pub(super) fn before(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Line> {
        let (Ok(at) | Err(at)) = self.find(seq);
        self.lines.range(..at)
    }

    /// Where a number is, or would be.
    fn find(&self, seq: u64) -> Result<usize, usize> {
        match self.lines.back() {
            Some(last) if seq > last.seq => Err(self.lines.len()),
            _ => self.lines.binary_search_by_key(&seq, |line| line.seq),
        }
    }
}

/// Bytes that a line takes.
fn cost(line: &Line) -> usize {
    line.text.len() + size_of::<Line>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_in_order_and_once_and_no_more_than_there_is_room_for(
            all in prop::collection::vec((0u64..400, 0usize..600), 0..700),
        ) {
            let (mut lines, mut model) = (Lines::default(), BTreeMap::new());
            for (seq, length) in all {
                let text = "x".repeat(length);
                model.insert(seq, length);
                let line = Line { seq, mono_ns: 0, cpu: 0, level: None, continues: false, text };
                lines.put(line, |seq| {
                    assert!(model.remove(&seq).is_some(), "{seq} was not there");
                });
                let have: Vec<_> = lines.from(0).map(|line| (line.seq, line.text.len())).collect();
                let want: Vec<_> = model.iter().map(|(seq, length)| (*seq, *length)).collect();
                prop_assert_eq!(have, want);
                let bytes: usize = lines.from(0).map(cost).sum();
                prop_assert!(model.len() <= LINES && bytes <= BYTES && bytes == lines.bytes);
                let parts = lines.before(200).chain(lines.from(200)).count();
                prop_assert_eq!(parts, model.len());
            }
        }
    }
}
