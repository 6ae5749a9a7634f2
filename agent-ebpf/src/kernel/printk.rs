//! What printk knows of a line beside its text.

use agent_common::{FLAG_CONTINUES, FLAG_NEWLINE, LEVEL_UNKNOWN};
use aya_ebpf::helpers::bpf_probe_read_kernel;

// enum printk_info_flags (kernel/printk/internal.h; kernel/printk/printk_ringbuffer.h before).
const LOG_NEWLINE: u32 = 1 << 1;
const LOG_CONT: u32 = 1 << 3;

/// KERN_SOH (include/linux/kern_levels.h): starts a level prefix.
const SOH: u8 = 1;

/// `FLAG_*` from the `enum printk_info_flags` at this address.
#[inline(always)]
pub fn flags(address: *const u32) -> u8 {
    // SAFETY: the helper fails, rather than faults, on a bad address.
    let value = unsafe { bpf_probe_read_kernel(address) }.unwrap_or(0);
    let mut flags = 0;
    if value & LOG_NEWLINE != 0 {
        flags |= FLAG_NEWLINE;
    }
    if value & LOG_CONT != 0 {
        flags |= FLAG_CONTINUES;
    }
    flags
}

/// The level that a format string begins with, or that its first argument is,
/// as in `printk("%s...", loglvl, ...)`: the stack dumps are written so.
#[inline(always)]
pub fn level(format: *const u8, arguments: *const u8) -> u8 {
    // SAFETY: as above.
    let Ok(head) = (unsafe { bpf_probe_read_kernel(format.cast::<[u8; 2]>()) }) else {
        return LEVEL_UNKNOWN;
    };
    if head == *b"%s" {
        return first_argument(arguments).map_or(LEVEL_UNKNOWN, prefix);
    }
    prefix(head)
}

/// A text with prefixes in front of it: where it begins, and what they say.
pub struct Prefixed {
    /// Kernel address of the text behind them.
    pub text: *const u8,
    /// The first level, or [`LEVEL_UNKNOWN`].
    pub level: u8,
    /// `FLAG_*`.
    pub flags: u8,
}

/// Takes off what `vprintk_store()` takes off: a level and `KERN_CONT`, in any
/// order.
#[inline(always)]
pub fn strip(address: *const u8) -> Prefixed {
    let mut stripped = Prefixed {
        text: address,
        level: LEVEL_UNKNOWN,
        flags: 0,
    };
    for _ in 0..2 {
        // SAFETY: the helper fails, rather than faults, on a bad address.
        match unsafe { bpf_probe_read_kernel(stripped.text.cast::<[u8; 2]>()) } {
            Ok([SOH, b'c']) => stripped.flags |= FLAG_CONTINUES,
            Ok([SOH, digit @ b'0'..=b'7']) => {
                if stripped.level == LEVEL_UNKNOWN {
                    stripped.level = digit - b'0';
                }
            }
            _ => break,
        }
        stripped.text = stripped.text.wrapping_add(2);
    }
    stripped
}

/// Whether a line that was printed as an emergency is the first of a hard lockup's
/// report: no function is called for it alone. `watchdog: Watchdog detected hard
/// LOCKUP`, `watchdog: CPU1: ...` (kernel/watchdog.c), `NMI watchdog: ...`
/// (kernel/watchdog_hld.c, to 6.4); a soft lockup's is `watchdog: BUG: ...`.
#[inline(always)]
pub fn tells_hard_lockup(text: *const u8) -> bool {
    // SAFETY: the helper fails, rather than faults, on a bad address.
    let Ok([first, second]) = (unsafe { bpf_probe_read_kernel(text.cast::<[u64; 2]>()) }) else {
        return false;
    };
    let behind = |bytes: u32| (second.to_le() >> (8 * bytes)) as u8;
    match &first.to_ne_bytes() {
        b"watchdog" => matches!(behind(2), b'W' | b'C'),
        b"NMI watc" => behind(6) == b'W',
        _ => false,
    }
}

#[inline(always)]
fn prefix(head: [u8; 2]) -> u8 {
    match head {
        [SOH, digit @ b'0'..=b'7'] => digit - b'0',
        _ => LEVEL_UNKNOWN,
    }
}

/// The first two bytes of the string that is the first variadic argument.
///
/// By the time a line is stored its `va_list` is used up, but what it points at
/// still stands. `_printk(fmt, ...)` has one named argument, so the first
/// variadic one is the second register saved (System V ABI, AMD64, 3.5.7:
/// `reg_save_area` at 16).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn first_argument(arguments: *const u8) -> Option<[u8; 2]> {
    // SAFETY: as above.
    unsafe {
        let saved = bpf_probe_read_kernel(arguments.wrapping_add(16).cast::<u64>()).ok()?;
        let text = bpf_probe_read_kernel(saved.wrapping_add(8) as *const u64).ok()?;
        bpf_probe_read_kernel(text as *const [u8; 2]).ok()
    }
}

/// The same for AAPCS64 (`__gr_top` at 8; seven registers saved below it).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn first_argument(arguments: *const u8) -> Option<[u8; 2]> {
    // SAFETY: as above.
    unsafe {
        let top = bpf_probe_read_kernel(arguments.wrapping_add(8).cast::<u64>()).ok()?;
        let text = bpf_probe_read_kernel(top.wrapping_sub(56) as *const u64).ok()?;
        bpf_probe_read_kernel(text as *const [u8; 2]).ok()
    }
}
