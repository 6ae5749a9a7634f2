//! How far one death has been told.

/// An entry that stays unfinished this long is not waited for: its CPU is dead, or
/// is a virtual one that the host does not run just now.
const UNFINISHED_NS: u64 = 2_000_000;

/// Most entries that were passed and may yet be finished. There is one a CPU.
const HOLES: usize = 16;

/// Entries that were passed unfinished, and may be finished later.
#[derive(Default)]
pub(super) struct Holes {
    seqs: [u64; HOLES],
    len: usize,
}

impl Holes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Keeps those for which `keep` says so, in their order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        let mut kept = 0;
        for i in 0..self.len {
            if keep(self.seqs[i]) {
                self.seqs[kept] = self.seqs[i];
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// Adds one, once; the oldest goes where there is no room.
    fn add(&mut self, seq: u64) {
        if self.seqs[..self.len].contains(&seq) {
            return;
        }
        if self.len == HOLES {
            self.seqs.rotate_left(1);
            self.len -= 1;
        }
        self.seqs[self.len] = seq;
        self.len += 1;
    }
}

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
    /// What was passed, and may still come.
    pub(super) holes: Holes,
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
            holes: Holes::default(),
            stuck_ns: 0,
        }
    }

    /// Everything below `to` was sent.
    pub(super) fn advance(&mut self, to: u64, now: u64) {
        self.cursor = to;
        self.active_ns = now;
        self.stuck_ns = 0;
    }

    /// Whether to go on behind the unfinished entry at `seq`, as it has been so for
    /// too long. It is remembered then.
    pub(super) fn pass(&mut self, seq: u64, now: u64) -> bool {
        if seq != self.cursor {
            // Send what is before it first.
            return false;
        }
        if self.stuck_ns == 0 {
            self.stuck_ns = now;
        }
        let is_stuck = now.saturating_sub(self.stuck_ns) > UNFINISHED_NS;
        if is_stuck {
            self.holes.add(seq);
        }
        is_stuck
    }
}
