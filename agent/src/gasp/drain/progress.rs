//! How far one death has been told.

/// An entry that stays unfinished this long was left so by a dead CPU.
const UNFINISHED_NS: u64 = 2_000_000;

/// How far the present death has been told.
pub(super) struct Progress {
    /// Sequence number of the mark that declared it.
    pub(super) declared: u64,
    /// When the hook fired, as far as the mark can be read.
    pub(super) marked_ns: u64,
    /// When this thread saw it.
    pub(super) seen_ns: u64,
    /// Everything below was sent or given up.
    pub(super) cursor: u64,
    /// How far the search for the cause has come.
    pub(super) searched: u64,
    /// How much the best line so far says; zero: there is none.
    pub(super) weight: u8,
    /// What the last word said.
    pub(super) told: Option<(u16, u8)>,
    /// When the last entry came.
    pub(super) active_ns: u64,
    /// How far all was with the device when the last word was said, and when.
    pub(super) closing: Option<(u64, u64)>,
    /// Since when the entry at `cursor` is unfinished.
    stuck_ns: u64,
}

impl Progress {
    /// Nothing is told yet of the death whose mark is `declared`; what there is
    /// to tell begins at `start`.
    pub(super) fn new(declared: u64, start: u64, marked_ns: u64, now: u64) -> Self {
        Self {
            declared,
            marked_ns,
            seen_ns: now,
            cursor: start,
            searched: start,
            weight: 0,
            told: None,
            active_ns: now,
            closing: None,
            stuck_ns: 0,
        }
    }

    /// Everything below `to` was sent.
    pub(super) fn advance(&mut self, to: u64, now: u64) {
        self.cursor = to;
        self.active_ns = now;
        self.stuck_ns = 0;
    }

    /// Whether the unfinished entry at `seq` has been so for too long.
    pub(super) fn give_up(&mut self, seq: u64, now: u64) -> bool {
        if seq != self.cursor {
            // Send what is before it first.
            return false;
        }
        if self.stuck_ns == 0 {
            self.stuck_ns = now;
        }
        now.saturating_sub(self.stuck_ns) > UNFINISHED_NS
    }
}
