//! Turns of a loop that the verifier walks through, each one.
//!
//! Kernels before 5.17 have no helper that loops. They take a loop if its end is
//! plain, but every turn counts against the million instructions that a program
//! may have, and every branch in it multiplies them. So there is none: what ends
//! the wait is arithmetic, the turns that are left run out at once, and a turn is
//! made long by having the kernel copy memory.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_kernel};

use super::{Wait, is_some, negative};
use crate::maps::{CONTROL, PAD, PAD_HALF};

/// What fits the verifier's limit. A turn takes the time of copying
/// [`PAD_HALF`], 4 us and more.
const TURNS: u32 = 16_000;

/// Waits for what the hold is for, for the end of the budget, or for all turns.
///
/// There is no barrier between closing and the look at who sends, but every turn
/// that is left looks again.
#[inline(always)]
pub(super) fn spin(wait: &mut Wait) {
    let (Some(control), Some(pad)) = (CONTROL.get_ptr_mut(0), PAD.get_ptr_mut(0)) else {
        return;
    };
    let pad: *mut u8 = pad.cast();
    let closes = is_some(wait.senders) & 1;
    let mut turn = 0;
    while turn < TURNS {
        // SAFETY: a map value that user space writes; the helper copies one half
        // of another one onto the other half.
        unsafe {
            let acked = read_volatile(&raw const (*control).acked);
            let unacked = negative(acked.wrapping_sub(wait.until));
            write_volatile(&raw mut (*control).closed, closes & !unacked);
            let sending = read_volatile(&raw const (*control).sending) & wait.senders;
            // By way of the map: the verifier follows the size below back to where it
            // came from, and would go through all turns before.
            let waited = wait.clock.look(bpf_ktime_get_ns(), negative);
            write_volatile(pad.cast(), waited);
            let waited: u64 = read_volatile(pad.cast());
            let waits =
                (unacked | is_some(sending)) & negative(waited.wrapping_sub(wait.budget_ns));
            bpf_probe_read_kernel(
                pad.add(PAD_HALF as usize).cast(),
                PAD_HALF & waits as u32,
                pad.cast_const().cast(),
            );
        }
        turn += 1;
    }
    // SAFETY: as above.
    unsafe {
        wait.waited_ns = wait.clock.look(bpf_ktime_get_ns(), negative);
        let is_out = read_volatile(&raw const (*control).acked) >= wait.until
            && read_volatile(&raw const (*control).sending) & wait.senders == 0;
        wait.expired = u64::from(!is_out);
    }
}
