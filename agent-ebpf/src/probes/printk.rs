//! Every line of the kernel log.
//!
//! `printk_sprint` (kernel/printk/printk.c, 5.15 on) formats each line into the
//! log, in any context, before any console sees it. The tracepoint
//! `printk:console` is the stand-in where fexit is refused. Before 5.15 it is
//! `vprintk_store`, whose buffer still holds the line when it returns; in an NMI
//! those kernels put lines aside instead, by `printk_safe_log_store`.

use agent_common::{FLAG_NEWLINE, LEVEL_UNKNOWN, notice};
use aya_ebpf::{
    EbpfContext,
    helpers::bpf_probe_read_kernel,
    macros::{btf_tracepoint, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RetProbeContext},
};
use aya_log_ebpf::warn;

use crate::{
    emit::{self, Text},
    kernel::printk,
    maps::{self, SPRINT, Sprint},
};

/// `LOG_KERN` (include/linux/syslog.h): by the kernel. What is written to `/dev/kmsg`
/// never has it (`devkmsg_write`, kernel/printk/printk.c).
const FACILITY_KERNEL: i32 = 0;

/// Keeps a line; where it is the first of a report that no hook tells of, that too.
#[inline(always)]
fn keep(text: &Text, facility: i32) {
    emit::line(text);
    let by_kernel = facility == FACILITY_KERNEL;
    if by_kernel && text.level == 0 && printk::tells_hard_lockup(text.address) {
        emit::mark(notice::HARD_LOCKUP);
    }
}

/// `u16 printk_sprint(char *text, u16 size, int facility, enum
/// printk_info_flags *flags, const char *fmt, va_list args)`: user space checks
/// the number of arguments in BTF.
#[fexit]
pub fn fx_printk_sprint(context: FExitContext) -> i32 {
    let address: *const u8 = context.arg(0);
    let len: u32 = context.arg(6);
    if maps::verbose() != 0 && len == 0 {
        warn!(&context, "printk_sprint stored an empty line");
    }
    keep(
        &Text {
            address,
            len: len & 0xffff,
            level: printk::level(context.arg(4), address_in(&context, 5)),
            flags: printk::flags(address_in(&context, 3).cast()),
        },
        context.arg(2),
    );
    0
}

/// The same where it takes no fexit (on arm64 `va_list` is a structure): what the
/// arguments were is kept until it returns.
#[kprobe]
pub fn kp_printk_sprint(context: ProbeContext) -> u32 {
    if let Some(sprint) = SPRINT.get_ptr_mut(0) {
        let argument = |n| context.arg::<u64>(n).unwrap_or(0);
        // SAFETY: a map value of this CPU.
        unsafe {
            *sprint = Sprint {
                text: argument(0),
                facility: argument(2),
                flags: argument(3),
                format: argument(4),
                arguments: argument(5),
            };
        }
    }
    0
}

#[kretprobe]
pub fn kr_printk_sprint(context: RetProbeContext) -> u32 {
    let Some(sprint) = SPRINT.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a map value of this CPU.
    let of = unsafe { *sprint };
    if of.text == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*sprint).text = 0 };
    let len: u64 = context.ret();
    keep(
        &Text {
            address: of.text as *const u8,
            len: len as u32 & 0xffff,
            level: printk::level(of.format as *const u8, of.arguments as *const u8),
            flags: printk::flags(of.flags as *const u32),
        },
        of.facility as i32,
    );
    0
}

/// An argument that is an address. Verifiers know what such arguments point at:
/// old ones refuse a pointer to an enum or to an array type such as va_list, and
/// reckoning with one. What a helper reads is a number.
#[inline(always)]
fn address_in(context: &FExitContext, n: usize) -> *const u8 {
    let at = context.as_ptr().cast::<u64>().wrapping_add(n);
    // SAFETY: an argument of the traced function, below its return value.
    let address = unsafe { bpf_probe_read_kernel(at) }.unwrap_or(0);
    address as *const u8
}

/// `int vprintk_store(int facility, int level, const struct dev_printk_info
/// *dev_info, const char *fmt, va_list args)`: the length of what it stored.
#[fexit]
pub fn fx_vprintk_store(context: FExitContext) -> i32 {
    let buffer = maps::printk_text();
    let level: i32 = context.arg(1);
    let len: i32 = context.arg(5);
    if buffer == 0 || len <= 0 {
        return 0;
    }
    let line = printk::strip(buffer as *const u8);
    keep(
        &Text {
            address: line.text,
            len: len as u32,
            // LOGLEVEL_DEFAULT is -1: the text says it.
            level: if level < 0 { line.level } else { level as u8 },
            flags: line.flags,
        },
        context.arg(0),
    );
    0
}

/// `int printk_safe_log_store(struct printk_safe_seq_buf *s, const char *fmt,
/// va_list args)`: the length of what it put behind what is in the buffer.
#[fexit]
pub fn fx_printk_safe_log_store(context: FExitContext) -> i32 {
    let aside = address_in(&context, 0);
    let len: i32 = context.arg(3);
    let buffer = maps::printk_aside();
    if buffer == 0 || len <= 0 {
        return 0;
    }
    // SAFETY: the helper fails, rather than faults, on a bad address. The length
    // is the structure's first field.
    let filled = unsafe { bpf_probe_read_kernel(aside.cast::<u32>()) }.unwrap_or(0);
    let end = aside.wrapping_add(buffer as usize + filled as usize);
    let line = printk::strip(end.wrapping_sub(len as usize));
    // SAFETY: as above.
    let newline = unsafe { bpf_probe_read_kernel(end.wrapping_sub(1)) } == Ok(b'\n');
    keep(
        &Text {
            address: line.text,
            len: (end as u64 - line.text as u64 - u64::from(newline)) as u32,
            level: line.level,
            flags: line.flags,
        },
        FACILITY_KERNEL,
    );
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
