//! Adding to what user space reads meanwhile.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds one. The value belongs to this CPU, but an interrupt may add to it between any two
/// instructions; so not in several. What was there is not asked for: kernels before 5.12
/// would refuse the instruction.
///
/// # Safety
///
/// `value` is aligned and in a map value.
#[inline(always)]
pub unsafe fn one_more(value: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, 1);
    }
}
