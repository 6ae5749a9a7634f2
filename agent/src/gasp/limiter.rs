//! So many within a time, and no more.

use agent_core::model::Timestamp;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) max: u32,
    /// In milliseconds.
    pub(crate) within_ms: u64,
}

/// Counts what it allows; nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    since: Timestamp,
    count: u32,
}

impl Limiter {
    /// Whether there is room for another one.
    pub(crate) fn allows(&mut self, rate: Rate, now: Timestamp) -> bool {
        if now.since(self.since) >= rate.within_ms {
            (self.since, self.count) = (now, 0);
        }
        let is_room = self.count < rate.max;
        self.count += u32::from(is_room);
        is_room
    }
}
