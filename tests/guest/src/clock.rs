//! Whether `CLOCK_MONOTONIC` is one clock, whatever CPU reads it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::machine;

/// Readings of two CPUs in turn, for this long: fails if one is before another
/// that was taken before it.
pub(crate) fn check(time: Duration) -> Result<String> {
    let (latest, worst, readings) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (latest, worst, readings) = (&latest, &worst, &readings);
            scope.spawn(move || {
                machine::pin(cpu);
                while Instant::now() < end {
                    let before = latest.load(Ordering::SeqCst);
                    let now = machine::monotonic_ns();
                    worst.fetch_max(before.saturating_sub(now), Ordering::SeqCst);
                    latest.fetch_max(now, Ordering::SeqCst);
                    readings.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let worst = worst.into_inner();
    if worst > 0 {
        bail!("the clock went back by {worst} ns from one CPU to the other");
    }
    Ok(format!("readings={}", readings.into_inner()))
}
