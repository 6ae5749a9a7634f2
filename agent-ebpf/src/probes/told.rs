//! Who tells a service manager to stop the machine: a signal to PID 1
//! (`signal_generate`, kernel/signal.c), or a command that asks for it
//! (`sched_process_exec`, fs/exec.c); and who uses sysrq (`__handle_sysrq`,
//! drivers/tty/sysrq.c). Mostly nothing follows. Both tracepoints are on busy
//! paths, so the first thing each program does is to be done.

use agent_common::{CONTEXT_PROCESS, asked::means};
use aya_ebpf::{
    helpers::{
        bpf_get_current_comm,
        generated::{bpf_get_current_uid_gid, bpf_get_smp_processor_id},
    },
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};

use crate::{
    kernel::{preempt, task},
    told,
};

const SIGINT: i32 = 2;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGPWR: i32 = 30;

/// `SIGRTMIN` as the C library of service managers counts.
const SIGRTMIN: i32 = 34;

/// include/trace/events/signal.h: neither `TRACE_SIGNAL_IGNORED` nor
/// `TRACE_SIGNAL_OVERFLOW_FAIL`.
const ARRIVED: [i32; 3] = [0, 2, 4];

/// `SEND_SIG_PRIV` (include/linux/sched/signal.h): by the kernel itself.
const FROM_KERNEL: u64 = 1;

/// Whether this asks systemd to stop the machine (systemd(1), "SIGNALS").
#[inline(always)]
fn asks_systemd(signal: i32) -> bool {
    matches!(signal - SIGRTMIN, 3..=6 | 13..=16)
}

/// The same for simpler ones; systemd takes some of them for something else.
#[inline(always)]
fn asks_others(signal: i32) -> bool {
    signal == SIGTERM || signal == SIGUSR1 || signal == SIGUSR2
}

/// `signal_generate(sig, info, task, group, result)`
#[btf_tracepoint]
pub fn tp_signal_generate(context: BtfTracePointContext) -> i32 {
    let signal: i32 = context.arg(0);
    let any = signal == SIGINT || signal == SIGPWR || asks_systemd(signal);
    if !any && !asks_others(signal) {
        return 0;
    }
    let target = context.arg::<*const u8>(2) as u64;
    if task::process_id(target) != 1 {
        return 0;
    }
    let result: i32 = context.arg(4);
    let arrived = ARRIVED.contains(&result);
    if arrived && (any || task::name_begin(target) != *b"systemd\0") {
        let by_process = context.arg::<*const u8>(1) as u64 != FROM_KERNEL;
        told::keep(means::SIGNAL, signal as u8, by_process, None);
    }
    0
}

/// What a command line has among its arguments.
struct Arguments(u32);

/// `reboot`, `poweroff`, `halt` or `kexec`.
const END: u32 = 1;
/// Runlevel 0 or 6.
const RUNLEVEL: u32 = 2;
/// `-c`: what was asked for is called off.
const CANCEL: u32 = 4;
/// `-w`: only a note in a log. `-k`: only a message to who is logged in.
const NOTE: u32 = 8;

impl Arguments {
    /// Looks at the first four arguments behind a command's name.
    #[inline(always)]
    fn of(line: &task::CommandLine) -> Self {
        let mut found = Self(0);
        // Ends where the line does.
        let _ = found.look(line);
        found
    }

    #[inline(always)]
    fn look(&mut self, line: &task::CommandLine) -> Option<()> {
        // Not in a loop, for the reason in `task::describe`.
        let (_, name) = line.argument(line.start)?;
        let at = self.take(line, line.start + name)?;
        let at = self.take(line, at)?;
        let at = self.take(line, at)?;
        self.take(line, at).map(drop)
    }

    /// Looks at the argument that begins here; gives where the next one does.
    #[inline(always)]
    fn take(&mut self, line: &task::CommandLine, at: u64) -> Option<u64> {
        let (begin, len) = line.argument(at)?;
        match &begin.to_le_bytes() {
            b"reboot\0\0" | b"halt\0\0\0\0" | b"kexec\0\0\0" => self.0 |= END,
            b"poweroff" if len == 9 => self.0 |= END,
            b"0\0\0\0\0\0\0\0" | b"6\0\0\0\0\0\0\0" => self.0 |= RUNLEVEL,
            b"-c\0\0\0\0\0\0" => self.0 |= CANCEL,
            b"-w\0\0\0\0\0\0" | b"-k\0\0\0\0\0\0" => self.0 |= NOTE,
            _ => {}
        }
        Some(at + len)
    }
}

/// `sched_process_exec(task, old_pid, bprm)`: the task has its new name and memory.
#[btf_tracepoint]
pub fn tp_sched_process_exec(_context: BtfTracePointContext) -> i32 {
    let Ok(name) = bpf_get_current_comm() else {
        return 0;
    };
    let mut begin = [0; 8];
    begin.copy_from_slice(&name[..8]);
    let (must, must_not) = match &begin {
        b"systemct" => (END, 0),
        b"init\0\0\0\0" | b"telinit\0" => (RUNLEVEL, 0),
        b"shutdown" => (0, CANCEL | NOTE),
        b"reboot\0\0" | b"poweroff" | b"halt\0\0\0\0" => (0, NOTE),
        _ => return 0,
    };
    // A container that stops itself stops nobody else.
    if !task::is_of_the_machine() {
        return 0;
    }
    let line = task::CommandLine::of_current();
    let Arguments(found) = Arguments::of(&line);
    if found & must == must && found & must_not == 0 {
        told::keep(means::COMMAND, 0, true, Some(&line));
    }
    if begin == *b"shutdown" && found & CANCEL != 0 {
        // SAFETY: a helper without arguments.
        let uid = unsafe { bpf_get_current_uid_gid() } as u32;
        // Whoever may not call it off must not hide who asked for it.
        if uid == 0 {
            told::forget(means::COMMAND);
        }
    }
    0
}

/// `void __handle_sysrq(u8 key, bool check_mask)`
#[inline(always)]
fn sysrq(key: u8) {
    if key == b'c' || key == b'o' {
        // SAFETY: a helper without arguments.
        let context = preempt::context(unsafe { bpf_get_smp_processor_id() }.into());
        told::keep(means::SYSRQ, key, context == CONTEXT_PROCESS, None);
    }
}

#[fentry]
pub fn fe_handle_sysrq(context: FEntryContext) -> i32 {
    sysrq(context.arg::<u64>(0) as u8);
    0
}

#[kprobe]
pub fn kp_handle_sysrq(context: ProbeContext) -> u32 {
    sysrq(context.arg::<u64>(0).unwrap_or(0) as u8);
    0
}
