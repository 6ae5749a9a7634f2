//! Turns of `bpf_loop` (5.17 on).

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_loop};

use super::{Wait, is_quiet, negative};
use crate::maps::CONTROL;

/// Most turns of one hold: the kernel's own limit (`BPF_MAX_LOOPS`). The clock
/// ends a hold long before; this ends it if the clock stands still.
const TURNS_MAX: u32 = 1 << 23;

/// Looks at what is waited for between two at the clock. Where the clock is a
/// device (HPET, ACPI PM timer), as on many virtual machines, each look at it
/// stops what the sending CPU does with devices of its own.
const LOOKS: u32 = 128;

/// Waits for what the hold is for, or for the end of the budget.
#[inline(always)]
pub(super) fn spin(wait: &mut Wait) {
    // SAFETY: `turn` has the signature that the helper calls, and `wait`
    // outlives the call.
    unsafe {
        bpf_loop(TURNS_MAX, turn as *mut c_void, (&raw mut *wait).cast(), 0);
    }
}

/// One turn: looks for it many times, then at the clock once. 1
/// ends the loop, 0 goes on.
unsafe extern "C" fn turn(_index: u32, context: *mut c_void) -> i64 {
    let wait: *mut Wait = context.cast();
    // SAFETY: `context` is the `Wait` of the caller above, and `look` has the
    // signature that the helper calls.
    unsafe {
        bpf_loop(LOOKS, look as *mut c_void, context, 0);
        (*wait).waited_ns = (*wait).clock.look(bpf_ktime_get_ns(), negative);
        i64::from((*wait).expired == 0 || (*wait).waited_ns >= (*wait).budget_ns)
    }
}

/// One look: 1 if everything is acknowledged, and nobody sends.
unsafe extern "C" fn look(_index: u32, context: *mut c_void) -> i64 {
    let wait: *mut Wait = context.cast();
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: `context` is the `Wait` of the caller above; `control` is a map
    // value that user space writes.
    unsafe {
        if read_volatile(&raw const (*control).acked) < (*wait).until
            || !is_quiet(control, (*wait).senders)
        {
            return 0;
        }
        (*wait).expired = 0;
    }
    1
}
