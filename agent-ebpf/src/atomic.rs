//! Read-modify-write on map values that several CPUs write.
//!
//! `core::sync::atomic` offers loads and stores only on this target, because
//! not every BPF CPU version has more. Version 3 has (kernel 5.12 on), and
//! `cargo xtask build-ebpf` asks for it, but for the `basic` object.

#[cfg(not(feature = "basic"))]
use core::intrinsics::atomic_xchg;
use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds one and returns what was there.
///
/// Old kernels can add, but do not say what was there: two CPUs at the same
/// instant may get the same number, which costs a line of the log. Mostly they
/// do not, as printk of those kernels stores lines under a lock.
///
/// # Safety
///
/// `value` is valid and aligned, and is only ever accessed atomically.
#[inline(always)]
pub unsafe fn increment(value: *mut u64) -> u64 {
    #[cfg(not(feature = "basic"))]
    // SAFETY: the caller's promise.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1)
    }
    #[cfg(feature = "basic")]
    // SAFETY: the caller's promise.
    unsafe {
        let _ = atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, 1);
        value.read_volatile().wrapping_sub(1)
    }
}

/// Writes `new`; what was written before is visible before it, on any CPU.
///
/// Old kernels have no barrier either. x86 needs none; elsewhere the reader may
/// see a line that is not whole yet.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub unsafe fn publish(value: *mut u64, new: u64) {
    #[cfg(not(feature = "basic"))]
    // SAFETY: the caller's promise.
    unsafe {
        atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(value, new);
    }
    #[cfg(feature = "basic")]
    // SAFETY: the caller's promise.
    unsafe {
        value.write_volatile(new);
    }
}
