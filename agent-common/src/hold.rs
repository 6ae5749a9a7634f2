//! Where the kernel is held, and for how long. The numbers are also those of the gasp
//! protocol.

#![expect(
    clippy::inline_always,
    reason = "in an eBPF program, what is not inlined is a call with limits of its own"
)]

/// `__crash_kexec()`: `panic()` is about to stop the other CPUs, or a crash
/// kernel to take over.
pub const CRASH_KEXEC: u8 = 1;
/// `crash_smp_send_stop()`: the same, with `crash_kexec_post_notifiers`.
pub const CRASH_STOP: u8 = 2;
/// Whoever stops the other CPUs.
pub const STOP_OTHERS: u8 = 3;
/// `machine_emergency_restart()`: the reset itself.
pub const RESET: u8 = 4;
/// An ordered end, before `device_shutdown()`.
pub const ORDER: u8 = 5;
/// Before a `BUG_ON` that is about to be hit.
pub const PREDICTION: u8 = 6;

/// A turn of a hold takes some microseconds. One that took longer than this many
/// nanoseconds was not run meanwhile: a hypervisor had taken the CPU, or all of them.
pub const AWAY_NS: u64 = 2_000_000;
/// Most of that time that a hold does not count, in nanoseconds: where each turn takes
/// so long for another reason, it ends all the same.
pub const AWAY_MAX_NS: u64 = 1_000_000_000;

/// How long a CPU has waited, by the clock, without the time that it was not run.
/// Nothing could be sent either while its whole machine stood still.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When it began.
    pub start_ns: u64,
    /// The same, later by the time that the CPU was not run.
    since_ns: u64,
    seen_ns: u64,
}

impl Waiting {
    /// Since now.
    #[inline(always)]
    pub const fn new(now_ns: u64) -> Self {
        Self {
            start_ns: now_ns,
            since_ns: now_ns,
            seen_ns: now_ns,
        }
    }

    /// Looks at the clock, and gives the nanoseconds waited. `negative` gives all ones
    /// for a number whose highest bit is set, else zero: without a branch, as a verifier
    /// may have to walk through each.
    #[inline(always)]
    pub fn look(&mut self, now_ns: u64, negative: impl Fn(u64) -> u64) -> u64 {
        let gap = now_ns.wrapping_sub(self.seen_ns);
        self.seen_ns = now_ns;
        let is_away = negative((AWAY_NS - 1).wrapping_sub(gap));
        let away = self.since_ns.wrapping_sub(self.start_ns);
        let counts = negative(away.wrapping_sub(AWAY_MAX_NS));
        self.since_ns = self.since_ns.wrapping_add(gap & is_away & counts);
        now_ns.wrapping_sub(self.since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(waiting: &mut Waiting, now_ns: u64) -> u64 {
        waiting.look(now_ns, |number| 0_u64.wrapping_sub(number >> 63))
    }

    /// Looks every ten microseconds until so much was waited; gives the clock then.
    fn until(waiting: &mut Waiting, mut now_ns: u64, waited_ns: u64) -> u64 {
        while look(waiting, now_ns) < waited_ns {
            now_ns += 10_000;
        }
        now_ns
    }

    #[test]
    fn what_a_hypervisor_takes_away_is_not_waited() {
        let (start, limit) = (5_000_000_000, 50_000_000);
        let mut waiting = Waiting::new(start);
        assert_eq!(until(&mut waiting, start, limit), start + limit);

        let mut waiting = Waiting::new(start);
        let away = until(&mut waiting, start, 3_000_000) + 45_000_000;
        assert_eq!(look(&mut waiting, away), 3_000_000);
        assert_eq!(until(&mut waiting, away, limit), start + limit + 45_000_000);
    }

    #[test]
    fn where_each_turn_takes_long_it_ends_too() {
        let mut waiting = Waiting::new(0);
        let mut now = 0;
        while look(&mut waiting, now) < 50_000_000 {
            now += 3_000_000;
        }
        assert!(now <= AWAY_MAX_NS + 60_000_000, "{now}");
    }
}
