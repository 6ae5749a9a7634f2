//! The hold: the dying CPU waits here, bounded, until user space on another
//! CPU says that everything is out, and has come back from the driver.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use agent_common::{Control, SENDERS, hold};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};

use crate::{atomic, maps::CONTROL};

#[cfg(feature = "basic")]
mod basic;
#[cfg(not(feature = "basic"))]
mod looped;

#[cfg(feature = "basic")]
use basic::spin;
#[cfg(not(feature = "basic"))]
use looped::spin;

/// A prediction leaves one in so many of the time that a death may be held for to the
/// death. The threads are awake then, and their way out is warm.
const DEATH_SHARE: u64 = 5;

/// One hold.
struct Wait {
    /// What must be acknowledged.
    until: u64,
    /// The drain threads that must not be sending, a bit each.
    senders: u64,
    clock: hold::Waiting,
    budget_ns: u64,
    waited_ns: u64,
    /// One until it is acknowledged.
    expired: u64,
}

/// Waits until all that is in the ring is acknowledged and nobody sends, or the
/// budget of this death is used up. Does nothing while no death is declared. `point`
/// is one of `agent_common::hold`.
#[inline(always)]
pub fn until_acked(point: u8) {
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a map value; user space writes `acked`, `cleared` and
    // `hold_max_ns` at any time, hence volatile.
    let (head, acked, active, limit, used) = unsafe {
        (
            read_volatile(&raw const (*control).head),
            read_volatile(&raw const (*control).acked),
            (*control).declared > read_volatile(&raw const (*control).cleared),
            read_volatile(&raw const (*control).hold_max_ns),
            (*control).hold_used_ns,
        )
    };
    let limit = if point == hold::PREDICTION {
        limit - limit / DEATH_SHARE
    } else {
        limit
    };
    let budget = limit.saturating_sub(used);
    if !active || budget == 0 {
        return;
    }
    // Neither an order nor a prediction stops a CPU yet: what is printed from now on may
    // go as well.
    let senders = if point == hold::ORDER || point == hold::PREDICTION {
        0
    } else {
        senders_elsewhere(control)
    };
    // SAFETY: a map value.
    unsafe {
        if acked < head {
            // There is something to send, even if the others were to be stopped before.
            write_volatile(&raw mut (*control).closed, 0);
        } else if is_quiet(control, senders) {
            return;
        }
    }
    let mut wait = Wait {
        // SAFETY: a map value. Read again, as the verifier would else walk through
        // the wait once for each of the two cases above.
        until: unsafe { read_volatile(&raw const (*control).head) },
        senders,
        // SAFETY: a helper without arguments.
        clock: hold::Waiting::new(unsafe { bpf_ktime_get_ns() }),
        budget_ns: budget,
        waited_ns: 0,
        expired: 1,
    };
    // SAFETY: map values.
    unsafe {
        write_volatile(&raw mut (*control).hold_point, point.into());
        write_volatile(&raw mut (*control).hold_since_ns, wait.clock.start_ns);
    }
    spin(&mut wait);
    // SAFETY: as above.
    unsafe {
        if wait.senders != 0 {
            // Also where it took too long.
            write_volatile(&raw mut (*control).closed, 1);
        }
        write_volatile(
            &raw mut (*control).hold_used_ns,
            (*control).hold_used_ns + wait.waited_ns,
        );
        write_volatile(&raw mut (*control).hold_since_ns, 0);
        (*control).holds_expired += wait.expired;
    }
}

/// The drain threads on other CPUs than this one, a bit each. One on this CPU was
/// interrupted by the death, and cannot go on. Without a branch, for the verifier.
#[inline(always)]
fn senders_elsewhere(control: *const Control) -> u64 {
    // SAFETY: a helper without arguments.
    let own = u64::from(unsafe { bpf_get_smp_processor_id() }) + 1;
    let mut senders = 0;
    let mut thread = 0;
    while thread < SENDERS {
        // SAFETY: a map value that user space writes; the index is below its length.
        let cpu = unsafe { read_volatile(&raw const (*control).sender_cpus[thread]) };
        senders |= (1 << thread) & is_some(cpu) & is_some(cpu ^ own);
        thread += 1;
    }
    senders
}

/// All ones, or zero for zero. Numbers are below 2^63.
#[inline(always)]
fn is_some(number: u64) -> u64 {
    negative(0_u64.wrapping_sub(number))
}

/// All ones if the number is negative, else zero. In assembly, because the
/// compiler would make a branch of it.
#[inline(always)]
fn negative(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: one arithmetic shift.
    unsafe { asm!("{0} s>>= 63", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// Has none of `senders` begin to send any more; true if none is at it.
///
/// # Safety
///
/// `control` is the map value.
#[inline(always)]
unsafe fn is_quiet(control: *mut Control, senders: u64) -> bool {
    // SAFETY: the caller's promise. The exchange is a full barrier, as is the
    // sender's: it sees that it is closed, or it is seen sending.
    unsafe {
        if senders != 0 {
            atomic::publish(&raw mut (*control).closed, 1);
        }
        read_volatile(&raw const (*control).sending) & senders == 0
    }
}
