//! Through a list by `bpf_loop` (5.17 on), whose body the verifier walks through once.

use core::ffi::c_void;
use core::ptr::null_mut;

use agent_common::segment::{ELEMENTS_MAX, Segments};
use aya_ebpf::helpers::generated::bpf_loop;

/// Goes through a list. The steps find `seen` again by themselves.
///
/// # Safety
///
/// `seen` is this CPU's.
#[inline(always)]
pub(super) unsafe fn measure_all(_seen: *mut Segments) {
    // SAFETY: `measure` has the signature that the helper calls.
    unsafe { bpf_loop(ELEMENTS_MAX, measure as *mut c_void, null_mut(), 0) };
}

/// Looks at each element.
///
/// # Safety
///
/// As [`measure_all`].
#[inline(always)]
pub(super) unsafe fn look_at_all(_seen: *mut Segments) {
    // SAFETY: `look` has the signature that the helper calls.
    unsafe { bpf_loop(ELEMENTS_MAX, look as *mut c_void, null_mut(), 0) };
}

/// 1 ends the loop, 0 goes on.
unsafe extern "C" fn measure(_element: u32, _context: *mut c_void) -> i64 {
    let Some(seen) = super::of_this_cpu() else {
        return 1;
    };
    // SAFETY: a map value.
    i64::from(unsafe { super::measure(seen) })
}

/// Likewise.
unsafe extern "C" fn look(_element: u32, _context: *mut c_void) -> i64 {
    let Some(seen) = super::of_this_cpu() else {
        return 1;
    };
    // SAFETY: a map value.
    i64::from(unsafe { super::look(seen) })
}
