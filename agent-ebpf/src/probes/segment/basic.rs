//! Through a list by turns that the verifier walks through, each one.

use agent_common::segment::{ELEMENTS_MAX, Segments};

/// Goes through a list.
///
/// # Safety
///
/// `seen` is a map value.
#[inline(always)]
pub(super) unsafe fn measure_all(seen: *mut Segments) {
    // SAFETY: the caller's promise.
    each(|| unsafe { super::measure(seen) });
}

/// Looks at each element.
///
/// # Safety
///
/// As [`measure_all`].
#[inline(always)]
pub(super) unsafe fn look_at_all(seen: *mut Segments) {
    // SAFETY: the caller's promise.
    each(|| unsafe { super::look(seen) });
}

/// Takes a step for each element, until one says that it was the last.
#[inline(always)]
fn each(step: impl Fn() -> bool) {
    let mut element = 0;
    while element < ELEMENTS_MAX {
        if step() {
            break;
        }
        element += 1;
    }
}
