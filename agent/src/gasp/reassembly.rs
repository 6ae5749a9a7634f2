//! Putting the fragments of a hello or a record together.

use agent_core::model::BootId;

use super::bounded::Bounded;
use super::protocol::{Frame, MAX_MESSAGE};

/// What a fragment led to.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// More must come.
    Kept,
    /// It was the last that was missing: the whole message.
    Whole(Vec<u8>),
    /// It contradicts the others, or the message is too long: all is dropped.
    Refused,
}

/// Boot, session, and sequence number of the first fragment.
type Name = (BootId, u64, u64);

/// The messages under way.
#[derive(Debug)]
pub(super) struct Reassembly(Bounded<Name, Partial>);

#[derive(Debug)]
struct Partial {
    parts: Vec<Option<Box<[u8]>>>,
    missing: usize,
    bytes: usize,
}

impl Reassembly {
    /// At most `max` messages under way.
    pub(super) fn new(max: usize) -> Self {
        Self(Bounded::new(max))
    }

    /// Takes the fragment of a proven frame. The second value is true if
    /// another message was given up for it.
    pub(super) fn take(&mut self, frame: &Frame<'_>) -> (Step, bool) {
        let (index, count) = frame.fragment();
        let name = (
            frame.boot(),
            frame.session(),
            frame.seq() - u64::from(index),
        );
        let (partial, evicted) = self.0.get_or_insert(&name, || Partial::new(count));
        let step = partial.take(index, count, frame.payload());
        if step != Step::Kept {
            self.0.remove(&name);
        }
        (step, evicted.is_some())
    }
}

impl Partial {
    fn new(count: u16) -> Self {
        let count = usize::from(count);
        Self {
            parts: (0..count).map(|_| None).collect(),
            missing: count,
            bytes: 0,
        }
    }

    fn take(&mut self, index: u16, count: u16, payload: &[u8]) -> Step {
        if self.parts.len() != usize::from(count) {
            return Step::Refused;
        }
        let part = &mut self.parts[usize::from(index)];
        if part.is_some() {
            return Step::Kept;
        }
        self.bytes += payload.len();
        if self.bytes > MAX_MESSAGE {
            return Step::Refused;
        }
        *part = Some(payload.into());
        self.missing -= 1;
        if self.missing > 0 {
            return Step::Kept;
        }
        Step::Whole(self.parts.iter().flatten().flatten().copied().collect())
    }
}
