//! What became of every datagram.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_core::model::Timestamp;

use super::bounded::Bounded;

/// The enum of what may become of a datagram, each with its word for metrics.
macro_rules! outcomes {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$of:meta])* $outcome:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(usize)]
        pub enum $name { $($(#[$of])* $outcome,)* }

        impl $name {
            /// All outcomes.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$outcome),*];

            /// The word for metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$outcome => $word,)* }
            }
        }
    };
}
pub(crate) use outcomes;

outcomes! {
    /// What became of one datagram: each has exactly one.
    pub enum Outcome {
        /// Its message was handed on.
        Accepted = "accepted",
        /// It is a piece of a message that is not whole yet.
        Fragment = "fragment",
        /// It came a moment ago by another way.
        Duplicate = "duplicate",
        /// It was seen long ago, or is too old to know.
        Replay = "replay",
        /// Too short for a frame.
        Short = "short",
        /// Not ours.
        BadMagic = "bad_magic",
        /// A protocol version that we do not know.
        UnknownVersion = "unknown_version",
        /// A kind or notice that we do not know.
        UnknownKind = "unknown_kind",
        /// It contradicts itself.
        Malformed = "malformed",
        /// Sealed with a key id that we do not have.
        UnknownKey = "unknown_key",
        /// Not sealed with the key it names.
        WrongKey = "wrong_key",
        /// A heartbeat that gave way, because the queue was nearly full.
        HeartbeatDropped = "heartbeat_dropped",
        /// The queue was full.
        QueueFull = "queue_full",
        /// Nobody takes messages any more: we are stopping.
        Closed = "closed",
    }
}

/// Counts of one receiver, read from anywhere.
#[derive(Debug)]
pub struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Sessions that were forgotten because there were too many: their old
    /// frames would count as new.
    pub sessions_evicted: AtomicU64,
    /// Half-received hellos that were given up because there were too many.
    pub reassembly_evicted: AtomicU64,
    /// Sources of wrong keys that were forgotten because there were too many.
    pub sources_evicted: AtomicU64,
    /// Warnings about wrong keys that were not logged.
    pub warnings_suppressed: AtomicU64,
    /// Errors of the socket.
    pub receive_errors: AtomicU64,
    wrong_keys: Mutex<Bounded<IpAddr, Culprit>>,
}

/// A source of frames that no key proves.
#[derive(Clone, Copy, Debug, Default)]
struct Culprit {
    frames: u64,
    warned: Option<Timestamp>,
}

impl Counters {
    /// All zero; at most `sources` sources of wrong keys are told apart.
    pub fn new(sources: usize) -> Self {
        Self {
            outcomes: Default::default(),
            sessions_evicted: AtomicU64::new(0),
            reassembly_evicted: AtomicU64::new(0),
            sources_evicted: AtomicU64::new(0),
            warnings_suppressed: AtomicU64::new(0),
            receive_errors: AtomicU64::new(0),
            wrong_keys: Mutex::new(Bounded::new(sources)),
        }
    }

    /// Datagrams received: the sum of all outcomes.
    pub fn received(&self) -> u64 {
        Outcome::ALL
            .into_iter()
            .map(|outcome| self.of(outcome))
            .sum()
    }

    /// Datagrams with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// Frames with wrong or unknown keys by source, most first. Bounded.
    pub fn wrong_keys_by_source(&self) -> Vec<(IpAddr, u64)> {
        let table = self.culprits();
        let mut all: Vec<_> = table.iter().map(|(ip, c)| (*ip, c.frames)).collect();
        drop(table);
        all.sort_unstable_by_key(|(ip, frames)| (std::cmp::Reverse(*frames), *ip));
        all
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a frame that no key proves. Gives how many this source has sent
    /// if a warning about it is due: not within `quiet_ms` of the last one.
    pub(super) fn wrong_key(&self, source: IpAddr, now: Timestamp, quiet_ms: u64) -> Option<u64> {
        let mut table = self.culprits();
        let (culprit, evicted) = table.get_or_insert(&source, Culprit::default);
        culprit.frames += 1;
        let is_due = culprit.warned.is_none_or(|at| now.since(at) >= quiet_ms);
        if is_due {
            culprit.warned = Some(now);
        }
        let frames = culprit.frames;
        if evicted.is_some() {
            add(&self.sources_evicted);
        }
        is_due.then_some(frames)
    }

    fn culprits(&self) -> std::sync::MutexGuard<'_, Bounded<IpAddr, Culprit>> {
        // Counts stay good for reading whatever a holder did.
        self.wrong_keys
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Adds one.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_place_and_word() {
        let words: std::collections::HashSet<_> = Outcome::ALL
            .iter()
            .map(|outcome| outcome.as_str())
            .collect();
        assert_eq!(words.len(), Outcome::ALL.len());
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }

    #[test]
    fn a_source_is_warned_about_once_a_while_and_counted_always() {
        let counters = Counters::new(2);
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert_eq!(counters.wrong_key(ip(1), Timestamp(0), 60_000), Some(1));
        assert_eq!(counters.wrong_key(ip(1), Timestamp(59_999), 60_000), None);
        assert_eq!(
            counters.wrong_key(ip(2), Timestamp(59_999), 60_000),
            Some(1)
        );
        assert_eq!(
            counters.wrong_key(ip(1), Timestamp(60_000), 60_000),
            Some(3)
        );
        assert_eq!(counters.wrong_keys_by_source(), [(ip(1), 3), (ip(2), 1)]);
        counters.wrong_key(ip(3), Timestamp(60_001), 60_000);
        assert_eq!(counters.sources_evicted.load(Ordering::Relaxed), 1);
        assert_eq!(counters.wrong_keys_by_source().len(), 2);
    }
}
