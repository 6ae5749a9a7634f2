//! Atomic read-modify-write on map values.
//!
//! `core::sync::atomic` offers loads and stores only on this target, because
//! not every BPF CPU version has more. Version 3 has (kernel 5.12 on), and
//! `.cargo/config.toml` asks for it.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};

/// Adds one and returns what was there.
///
/// # Safety
///
/// `value` is valid and aligned, and is only ever accessed atomically.
#[inline(always)]
pub unsafe fn increment(value: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1) }
}

/// Writes `new`; what was written before is visible before it, on any CPU.
///
/// # Safety
///
/// As [`increment`].
#[inline(always)]
pub unsafe fn exchange(value: *mut u64, new: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(value, new) }
}
