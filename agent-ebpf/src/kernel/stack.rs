//! Which functions led to where a program is.

use agent_common::segment::STACK_MAX;
use aya_ebpf::EbpfContext;

/// Most functions: what one call of the helper takes (`MAX_BPRINTF_VARARGS`).
#[cfg(not(feature = "basic"))]
const FUNCTIONS: usize = 12;

/// Name and offset of each.
#[cfg(not(feature = "basic"))]
#[unsafe(link_section = ".rodata")]
static FORMAT: [u8; FUNCTIONS * 4 + 1] =
    *b"\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\n%pB\0";

/// Writes them down, with the kernel's own names; `caller` instead of the innermost one,
/// unless it is zero.
///
/// # Safety
///
/// `into` is in a map value.
#[cfg(not(feature = "basic"))]
#[inline(always)]
pub unsafe fn write<C: EbpfContext>(context: &C, caller: u64, into: *mut [u8; STACK_MAX]) {
    use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_snprintf};

    let mut addresses = [0_u64; FUNCTIONS];
    let len = size_of_val(&addresses) as u32;
    // SAFETY: the caller's promise; the helpers write at most as many bytes as they are
    // told, and the format is read-only and takes as many numbers as there are.
    unsafe {
        (*into)[0] = 0;
        let stack = addresses.as_mut_ptr();
        if bpf_get_stack(context.as_ptr(), stack.cast(), len, 0) > 0 {
            if caller != 0 {
                stack.write(caller);
            }
            bpf_snprintf(
                into.cast(),
                STACK_MAX as u32,
                FORMAT.as_ptr().cast(),
                stack,
                len,
            );
        }
    }
}

/// The helper that knows the names is there from 5.13 on.
///
/// # Safety
///
/// `into` is in a map value.
#[cfg(feature = "basic")]
#[inline(always)]
pub unsafe fn write<C: EbpfContext>(_context: &C, _caller: u64, into: *mut [u8; STACK_MAX]) {
    // SAFETY: the caller's promise.
    unsafe { (*into)[0] = 0 };
}
