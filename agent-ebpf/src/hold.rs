//! The hold: the dying CPU waits here, bounded, until user space on another
//! CPU says that everything is out.

use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_loop};

use crate::maps::CONTROL;

/// Most turns of one hold: the kernel's own limit (`BPF_MAX_LOOPS`). The clock
/// ends a hold long before; this ends it if the clock stands still.
const TURNS_MAX: u32 = 1 << 23;

/// Looks at the acknowledgement between two at the clock. Where the clock is a
/// device (HPET, ACPI PM timer), as on many virtual machines, each look at it
/// stops what the sending CPU does with devices of its own.
const LOOKS: u32 = 128;

struct Wait {
    /// What must be acknowledged.
    until: u64,
    start_ns: u64,
    budget_ns: u64,
    waited_ns: u64,
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
    // SAFETY: `turn` has the signature that the helper calls, and `wait`
    // outlives the call.
    unsafe {
        write_volatile(&raw mut (*control).hold_point, point.into());
        write_volatile(&raw mut (*control).hold_since_ns, wait.start_ns);
        bpf_loop(TURNS_MAX, turn as *mut c_void, (&raw mut wait).cast(), 0);
        write_volatile(
            &raw mut (*control).hold_used_ns,
            (*control).hold_used_ns + wait.waited_ns,
        );
        write_volatile(&raw mut (*control).hold_since_ns, 0);
        (*control).holds_expired += wait.expired;
    }
}

/// One turn: looks for the acknowledgement many times, then at the clock once. 1
/// ends the loop, 0 goes on.
unsafe extern "C" fn turn(_index: u32, context: *mut c_void) -> i64 {
    let wait: *mut Wait = context.cast();
    // SAFETY: `context` is the `Wait` of the caller above, and `look` has the
    // signature that the helper calls.
    unsafe {
        bpf_loop(LOOKS, look as *mut c_void, context, 0);
        (*wait).waited_ns = bpf_ktime_get_ns() - (*wait).start_ns;
        i64::from((*wait).expired == 0 || (*wait).waited_ns >= (*wait).budget_ns)
    }
}

/// One look: 1 if everything is acknowledged.
unsafe extern "C" fn look(_index: u32, context: *mut c_void) -> i64 {
    let wait: *mut Wait = context.cast();
    let Some(control) = CONTROL.get_ptr(0) else {
        return 1;
    };
    // SAFETY: `context` is the `Wait` of the caller above; `control` is a map
    // value that user space writes.
    unsafe {
        if read_volatile(&raw const (*control).acked) < (*wait).until {
            return 0;
        }
        (*wait).expired = 0;
    }
    1
}
