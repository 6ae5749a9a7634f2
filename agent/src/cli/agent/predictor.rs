//! What looking at packets costs, and whether that is too much.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::kernel::segments::{Seen, SegmentCounts};

/// Looks in a row above the limit after which it is too much; one look a second.
const PATIENCE: u32 = 10;

/// What the numbers are of.
const SAID: &str = "packets that skb_segment took apart";

/// What was not judged is said this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The counts, and what was thought of them.
pub(super) struct Predictor {
    counts: SegmentCounts,
    /// In percent of one CPU.
    max: u32,
    meter: Meter,
    said: (Instant, Seen),
}

impl Predictor {
    pub(super) fn new(counts: SegmentCounts, max: u32) -> Self {
        let (now, seen) = (Instant::now(), counts.seen());
        Self {
            counts,
            max,
            meter: Meter {
                at: now,
                seen,
                above: 0,
            },
            said: (now, seen),
        }
    }

    /// How many packets the kernel would have stopped at, in all.
    pub(super) fn foreseen(&self) -> u64 {
        self.counts.seen().foreseen
    }

    /// Says what it came to, in all.
    pub(super) fn sum(&self) {
        let seen = self.counts.seen();
        if seen.packets > 0 {
            let Seen {
                packets,
                judged,
                unjudged,
                foreseen,
                ..
            } = seen;
            let each_ns = seen.each_ns();
            info!(packets, judged, unjudged, foreseen, each_ns, "{SAID}");
        }
    }

    /// One look. `Some`: it costs too much; why, for people.
    pub(super) fn look(&mut self) -> Option<String> {
        let (now, seen) = (Instant::now(), self.counts.seen());
        let (at, before) = self.said;
        if now.duration_since(at) > SAY_EVERY {
            let more = seen.since(before);
            if more.unjudged > 0 || more.foreseen > 0 {
                let (unjudged, foreseen) = (more.unjudged, more.foreseen);
                warn!(unjudged, foreseen, "{SAID}");
            }
            self.said = (now, seen);
        }
        let percent = self.meter.too_much(now, seen, self.max)?;
        let max = self.max;
        Some(format!(
            "it took {percent:.1} % of a CPU, more than --predict-cost-max {max}"
        ))
    }
}

/// Decides; pure.
struct Meter {
    at: Instant,
    seen: Seen,
    above: u32,
}

impl Meter {
    /// The share of one CPU, in percent, if it was above `max` in all of the last looks.
    fn too_much(&mut self, now: Instant, seen: Seen, max: u32) -> Option<f64> {
        let passed = now.duration_since(self.at).as_nanos() as f64;
        let cost = seen.since(self.seen).cost_ns() as f64;
        (self.at, self.seen) = (now, seen);
        let percent = if passed > 0.0 {
            cost / passed * 100.0
        } else {
            0.0
        };
        self.above = if percent > f64::from(max) {
            self.above + 1
        } else {
            0
        };
        (self.above >= PATIENCE).then_some(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_costs_too_much_for_long_is_too_much() {
        let start = Instant::now();
        let mut meter = Meter {
            at: start,
            seen: Seen::default(),
            above: 0,
        };
        let mut seen = Seen::default();
        let mut look = |second: u64, packets: u64| {
            seen.packets += packets;
            seen.sampled += packets / 256;
            // 80 ns each, and 20 for the entry.
            seen.sampled_ns += packets / 256 * 80;
            meter.too_much(start + Duration::from_secs(second), seen, 2)
        };
        // 2 % of a CPU are 20 ms a second, which 200,000 packets take.
        for second in 1..=9 {
            assert_eq!(look(second, 256_000), None);
        }
        assert_eq!(look(10, 128_000), None);
        for second in 11..=19 {
            assert_eq!(look(second, 256_000), None, "{second}");
        }
        let percent = look(20, 256_000).expect("too much");
        assert!((2.5..2.6).contains(&percent), "{percent}");
    }
}
