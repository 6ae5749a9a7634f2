//! What was lost on the way out.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of it. The agent's log says so.
#[derive(Debug, Default)]
pub struct Losses {
    /// Frames that AF_PACKET refused.
    pub packet_errors: AtomicU64,
    /// Frames that UDP refused.
    pub udp_errors: AtomicU64,
    /// Entries of the ring that were overwritten before they were read.
    pub overwritten: AtomicU64,
    /// Entries that were still unfinished when what they told of was over.
    pub unfinished: AtomicU64,
}

impl Losses {
    /// How much so far, by name.
    pub fn all(&self) -> [(&'static str, u64); 4] {
        [
            ("frames refused below UDP", &self.packet_errors),
            ("frames refused by UDP", &self.udp_errors),
            ("log lines overwritten", &self.overwritten),
            ("log lines unfinished", &self.unfinished),
        ]
        .map(|(what, count)| (what, count.load(Ordering::Relaxed)))
    }
}
