//! The hold: the dying CPU waits here, bounded, until user space on another
//! CPU says that everything is out.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::maps::CONTROL;

#[cfg(feature = "basic")]
mod basic;
#[cfg(not(feature = "basic"))]
mod looped;

#[cfg(feature = "basic")]
use basic::spin;
#[cfg(not(feature = "basic"))]
use looped::spin;

/// One hold.
struct Wait {
    /// What must be acknowledged.
    until: u64,
    start_ns: u64,
    budget_ns: u64,
    waited_ns: u64,
    /// One until it is acknowledged.
    expired: u64,
}

/// Waits until all that is in the ring is acknowledged, or the budget of this
/// death is used up. Does nothing while no death is declared. `point` is one of
/// `agent_common::hold`.
#[inline(always)]
pub fn until_acked(point: u8) {
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a map value; user space writes `acked`, `cleared` and
    // `hold_max_ns` at any time, hence volatile.
    let (head, acked, active, budget) = unsafe {
        (
            read_volatile(&raw const (*control).head),
            read_volatile(&raw const (*control).acked),
            (*control).declared > read_volatile(&raw const (*control).cleared),
            read_volatile(&raw const (*control).hold_max_ns)
                .saturating_sub((*control).hold_used_ns),
        )
    };
    if !active || acked >= head || budget == 0 {
        return;
    }
    let mut wait = Wait {
        until: head,
        // SAFETY: a helper without arguments.
        start_ns: unsafe { bpf_ktime_get_ns() },
        budget_ns: budget,
        waited_ns: 0,
        expired: 1,
    };
    // SAFETY: map values.
    unsafe {
        write_volatile(&raw mut (*control).hold_point, point.into());
        write_volatile(&raw mut (*control).hold_since_ns, wait.start_ns);
    }
    spin(&mut wait);
    // SAFETY: as above.
    unsafe {
        write_volatile(
            &raw mut (*control).hold_used_ns,
            (*control).hold_used_ns + wait.waited_ns,
        );
        write_volatile(&raw mut (*control).hold_since_ns, 0);
        (*control).holds_expired += wait.expired;
    }
}
