//! Every line of the kernel log.
//!
//! `printk_sprint` (kernel/printk/printk.c, 5.15 on) formats each line into the
//! log, in any context, before any console sees it. The tracepoint
//! `printk:console` is the stand-in where fexit is refused.

use agent_common::{FLAG_NEWLINE, LEVEL_UNKNOWN};
use aya_ebpf::{
    EbpfContext,
    helpers::bpf_probe_read_kernel,
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use aya_log_ebpf::warn;

use crate::{
    emit::{self, Text},
    kernel::printk,
    maps,
};

/// `u16 printk_sprint(char *text, u16 size, int facility, enum
/// printk_info_flags *flags, const char *fmt, va_list args)`: user space checks
/// the number of arguments in BTF.
#[fexit]
pub fn fx_printk_sprint(context: FExitContext) -> i32 {
    let address: *const u8 = context.arg(0);
    let len: u32 = context.arg(6);
    // Old verifiers refuse to load a pointer to an enum, or to an array type
    // such as va_list, out of the context; a helper may.
    let pointer = |n: usize| -> u64 {
        let at = context.as_ptr().cast::<u64>().wrapping_add(n);
        // SAFETY: an argument of the traced function, below its return value.
        unsafe { bpf_probe_read_kernel(at) }.unwrap_or(0)
    };
    if maps::verbose() != 0 && len == 0 {
        warn!(&context, "printk_sprint stored an empty line");
    }
    emit::line(&Text {
        address,
        len: len & 0xffff,
        level: printk::level(context.arg(4), pointer(5) as *const u8),
        flags: printk::flags(pointer(3) as *const u32),
    });
    0
}

/// `TP_PROTO(const char *text, size_t len)` (include/trace/events/printk.h).
#[btf_tracepoint]
pub fn tp_console(context: BtfTracePointContext) -> i32 {
    let address: *const u8 = context.arg(0);
    let len: u32 = context.arg(1);
    emit::line(&Text {
        address,
        len,
        level: LEVEL_UNKNOWN,
        flags: FLAG_NEWLINE,
    });
    0
}
