//! Packets that a kernel dropped: what grew, what it sums up to, what it means.
//!
//! Counts come in as [`Reading`]s, each of all that was counted so far; [`Tally`] says what
//! came between two of them. What reads them out of the kernel is elsewhere.

mod advice;
mod filter;
mod flow;
mod owner;
mod reasons;
mod totals;

use std::collections::BTreeMap;

pub use advice::{Advice, advice};
pub use filter::{Filter, Protocol, UnknownProtocol};
pub use flow::{Flow, flow};
pub use owner::Owner;
pub use reasons::{Class, Reasons};
pub use totals::{Total, totals};

/// What packets have in common that are counted together.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// Why, as the kernel numbers it; zero where it gives no reasons.
    pub reason: u32,
    /// Where in the kernel, an address.
    pub location: u64,
    /// The network namespace; zero: not known.
    pub netns: u32,
    /// Index of the device; zero: not known.
    pub device: u32,
    /// Protocol of Ethernet.
    pub protocol: u16,
    /// Protocol of IP, if it is IP.
    pub transport: u16,
}

impl Key {
    /// `tcp`, `udp`, `arp`, …; a number for what has no common name.
    pub fn protocol_name(&self) -> String {
        filter::name(self.protocol, self.transport)
    }
}

/// All that was counted so far. Every packet that was seen is in `counts` or in `no_room`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// By key, over all CPUs.
    pub counts: BTreeMap<Key, u64>,
    /// By reason, what no key had room for. Reasons that nobody knows are [`u32::MAX`].
    pub no_room: BTreeMap<u32, u64>,
    /// Samples that had no room; their packets are counted all the same.
    pub samples_lost: u64,
    /// Packets that were not seen, as the program was at work on that CPU already.
    pub missed: u64,
}

impl Reading {
    /// All packets that were counted.
    pub fn packets(&self) -> u64 {
        self.counts.values().chain(self.no_room.values()).sum()
    }

    /// The same by reason.
    pub fn by_reason(&self) -> BTreeMap<u32, u64> {
        let mut all = self.no_room.clone();
        for (key, packets) in &self.counts {
            *all.entry(key.reason).or_default() += packets;
        }
        all
    }
}

/// A key with more packets than before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grown {
    /// Which.
    pub key: Key,
    /// By how many.
    pub packets: u64,
    /// To how many.
    pub total: u64,
    /// How many a second that is.
    pub rate: f64,
}

/// What was read last, to tell what came since.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    last: Reading,
}

impl Tally {
    /// The keys that grew in these nanoseconds, most packets first.
    pub fn step(&mut self, now: Reading, in_ns: u64) -> Vec<Grown> {
        let before = |key| self.last.counts.get(key).copied().unwrap_or(0);
        let seconds = in_ns.max(1) as f64 / 1e9;
        let mut grown: Vec<Grown> = now
            .counts
            .iter()
            .filter_map(|(key, &total)| {
                let packets = total.saturating_sub(before(key));
                (packets > 0).then(|| Grown {
                    key: *key,
                    packets,
                    total,
                    rate: packets as f64 / seconds,
                })
            })
            .collect();
        grown.sort_by_key(|grown| (std::cmp::Reverse(grown.packets), grown.key));
        self.last = now;
        grown
    }

    /// What was read last.
    pub fn last(&self) -> &Reading {
        &self.last
    }
}
