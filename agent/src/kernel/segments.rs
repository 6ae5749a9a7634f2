//! What was seen of packets that the kernel takes apart, and what looking at them costs:
//! read without a system call, as the agent has no capability any more.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::segment::Segments;

use super::ring::Mapping;

/// What a call of an empty program costs, in nanoseconds: the program cannot measure it.
const ENTRY_NS: u64 = 20;

/// The counts of all CPUs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Packets that were taken apart.
    pub packets: u64,
    /// That had a list, and were judged by it.
    pub judged: u64,
    /// Not judged: their list was too long, or they came while another was looked at.
    pub unjudged: u64,
    /// That the kernel would stop at.
    pub foreseen: u64,
    /// Those of which the time was taken.
    pub sampled: u64,
    /// And how much that was, in nanoseconds.
    pub sampled_ns: u64,
}

impl Seen {
    /// What was added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(before.packets),
            judged: self.judged.saturating_sub(before.judged),
            unjudged: self.unjudged.saturating_sub(before.unjudged),
            foreseen: self.foreseen.saturating_sub(before.foreseen),
            sampled: self.sampled.saturating_sub(before.sampled),
            sampled_ns: self.sampled_ns.saturating_sub(before.sampled_ns),
        }
    }

    /// What all of it cost, in nanoseconds of CPU; as much as the samples tell.
    pub fn cost_ns(self) -> u64 {
        self.packets.saturating_mul(self.each_ns())
    }

    /// What one of them cost, likewise.
    pub fn each_ns(self) -> u64 {
        let inside = self.sampled_ns.checked_div(self.sampled).unwrap_or(0);
        inside + ENTRY_NS
    }
}

/// The memory that it is kept in.
pub struct SegmentCounts {
    memory: Mapping,
    cpus: u32,
}

// SAFETY: the mapping lives as long as this value, and all access is by atomics.
unsafe impl Send for SegmentCounts {}

impl SegmentCounts {
    /// Maps the array of the object, which has an entry for each of `cpus`.
    pub fn map(segments: &impl AsFd, cpus: u32) -> io::Result<Self> {
        let memory = Mapping::new(segments, cpus as usize * size_of::<Segments>(), false)?;
        Ok(Self { memory, cpus })
    }

    /// All counts, as of now.
    pub fn seen(&self) -> Seen {
        let mut all = Seen::default();
        for cpu in 0..self.cpus {
            // SAFETY: below the number of entries mapped; a mapping begins at a page.
            let of = unsafe { self.memory.start.cast::<Segments>().add(cpu as usize) }.as_ptr();
            // SAFETY: aligned numbers of the mapping. It is mapped read-only, and a load
            // does not write.
            let read =
                |count: *mut u64| unsafe { AtomicU64::from_ptr(count) }.load(Ordering::Relaxed);
            // SAFETY: places of fields within the entry.
            unsafe {
                all.packets += read(&raw mut (*of).packets);
                all.judged += read(&raw mut (*of).judged);
                all.unjudged += read(&raw mut (*of).unjudged);
                all.foreseen += read(&raw mut (*of).foreseen);
                all.sampled += read(&raw mut (*of).sampled);
                all.sampled_ns += read(&raw mut (*of).sampled_ns);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_that_of_the_samples_for_all_packets() {
        let before = Seen {
            packets: 1000,
            sampled: 4,
            sampled_ns: 9_000_000,
            ..Seen::default()
        };
        let now = Seen {
            packets: 513_000,
            sampled: 2004,
            sampled_ns: 9_160_000,
            ..before
        };
        let added = now.since(before);
        // 80 ns each, and the entry.
        assert_eq!(added.cost_ns(), 512_000 * (80 + ENTRY_NS));
        assert_eq!(now.since(now).cost_ns(), 0);
        // Fewer than are sampled.
        let few = Seen {
            packets: 10,
            ..Seen::default()
        };
        assert_eq!(few.cost_ns(), 10 * ENTRY_NS);
    }
}
