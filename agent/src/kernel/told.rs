//! Who told PID 1 to stop the machine, as the eBPF side keeps it: read without a
//! system call, as the agent has no capability any more when it wants to know.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use agent_common::asked::{PATIENCE_NS, TOLD_ENTRIES, TOLD_SLOTS, Told, means};

use super::ring::Mapping;

/// The newest who told, by each means.
pub struct Tellers(Mapping);

// SAFETY: the mapping lives as long as this value; what is read of it is checked for
// tearing.
unsafe impl Send for Tellers {}

impl Tellers {
    /// Maps the array of the object.
    pub fn map(told: &impl AsFd) -> io::Result<Self> {
        let len = TOLD_ENTRIES as usize * size_of::<Told>();
        Mapping::new(told, len, false).map(Self)
    }

    /// Who told PID 1 last, not long before `now_ns` (`CLOCK_MONOTONIC`): by a signal,
    /// which it acts on itself, else by a command that was started.
    pub fn newest(&self, now_ns: u64) -> Option<Told> {
        let since = now_ns.saturating_sub(PATIENCE_NS);
        [means::SIGNAL, means::COMMAND].into_iter().find_map(|how| {
            let first = u32::from(how) * TOLD_SLOTS;
            let all = (first..first + TOLD_SLOTS).filter_map(|entry| self.read(entry));
            all.filter(|told| told.at_ns > since)
                .max_by_key(|told| told.at_ns)
        })
    }

    /// One entry; `None`: nobody, or it is being written.
    fn read(&self, entry: u32) -> Option<Told> {
        assert!(entry < TOLD_ENTRIES, "no such entry");
        // SAFETY: below the number of entries mapped; a mapping begins at a page.
        let told = unsafe { self.0.start.cast::<Told>().add(entry as usize) }.as_ptr();
        // SAFETY: an aligned u64 of the mapping. It is mapped read-only, and a load
        // does not write.
        let at_ns = unsafe { AtomicU64::from_ptr(&raw mut (*told).at_ns) };
        let before = at_ns.load(Ordering::Acquire);
        // SAFETY: plain numbers, for which every bit pattern is valid; whether they
        // were torn by a writer is checked below.
        let copy = unsafe { told.cast_const().read() };
        fence(Ordering::Acquire);
        (before != 0 && at_ns.load(Ordering::Relaxed) == before).then_some(copy)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn the_newest_signal_counts_then_the_newest_command_and_neither_for_long() {
        let map = tempfile::tempfile().expect("a temporary file");
        map.set_len(64 * 1024).expect("room for it");
        let tellers = Tellers::map(&map).expect("a mapping");
        let tell = |how: u8, slot: u32, at_ns: u64| {
            let entry = u32::from(how) * TOLD_SLOTS + slot;
            let at = u64::from(entry) * size_of::<Told>() as u64;
            let written = map.write_all_at(&at_ns.to_le_bytes(), at);
            written.expect("the array");
        };
        let newest = |now_ns| tellers.newest(now_ns).map(|told| told.at_ns);
        assert_eq!(newest(5), None);
        tell(means::COMMAND, 0, 7);
        tell(means::COMMAND, 3, 9);
        tell(means::SYSRQ, 0, 100);
        assert_eq!(newest(200), Some(9));
        tell(means::SIGNAL, 1, 8);
        assert_eq!(newest(200), Some(8));
        assert_eq!(newest(8 + PATIENCE_NS), Some(9));
        assert_eq!(newest(9 + PATIENCE_NS), None);
    }
}
