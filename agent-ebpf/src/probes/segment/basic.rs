//! Through a list by turns that the verifier walks through, each one.

use agent_common::segment::{ELEMENTS_MAX, Segments};

/// Goes through a list.
///
/// # Safety
///
/// `seen` is a map value.
#[inline(always)]
pub(super) unsafe fn measure_all(seen: *mut Segments) {
    let mut element = 0;
    while element < ELEMENTS_MAX {
        // SAFETY: the caller's promise.
        if unsafe { super::measure(seen) } {
            break;
        }
        element += 1;
    }
}

/// Looks at each element.
///
/// # Safety
///
/// As [`measure_all`].
#[inline(always)]
pub(super) unsafe fn look_at_all(seen: *mut Segments) {
    let mut element = 0;
    while element < ELEMENTS_MAX {
        // SAFETY: the caller's promise.
        if unsafe { super::look(seen) } {
            break;
        }
        element += 1;
    }
}
