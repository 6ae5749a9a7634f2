//! How the kernel says why: one table of wordings, old and current.

use agent_core::model::ReasonCode as Code;

/// How grave a cause is; later ones outweigh earlier ones.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Weight {
    /// The kernel complains and goes on.
    Warning,
    /// Something is stuck or broken; settings decide whether it goes on.
    Trouble,
    /// An oops or BUG(): this task or interrupt is lost.
    Oops,
}

/// What a line says happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause<'a> {
    /// It happened, and this line says what.
    Said(Code, Weight),
    /// `panic()`, with its text.
    Panic(&'a str),
}

/// A wording: what a line begins with, and what it must hold besides (empty:
/// nothing), so that firmware and applications that use the same word are not
/// taken for the kernel.
struct Wording(&'static str, &'static str, Code, Weight);

const WORDINGS: &[Wording] = {
    use Code as C;
    use Weight::{Oops, Trouble, Warning};
    &[
        // arch/x86/mm/fault.c, show_fault_oops(): 5.1 on, and before it.
        Wording(
            "BUG: kernel NULL pointer dereference",
            "",
            C::NullPointerDereference,
            Oops,
        ),
        Wording(
            "BUG: unable to handle kernel NULL pointer dereference",
            "",
            C::NullPointerDereference,
            Oops,
        ),
        Wording(
            "BUG: unable to handle page fault for address",
            "",
            C::PageFault,
            Oops,
        ),
        Wording(
            "BUG: unable to handle kernel paging request",
            "",
            C::PageFault,
            Oops,
        ),
        Wording(
            "kernel tried to execute NX-protected page",
            "",
            C::PageFault,
            Oops,
        ),
        // arch/arm64/mm/fault.c, die_kernel_fault().
        Wording(
            "Unable to handle kernel NULL pointer dereference",
            "",
            C::NullPointerDereference,
            Oops,
        ),
        Wording(
            "Unable to handle kernel ",
            "at virtual address",
            C::PageFault,
            Oops,
        ),
        Wording("Unable to handle kernel access", "", C::PageFault, Oops),
        // lib/bug.c, report_bug().
        Wording("kernel BUG at ", "", C::KernelBug, Oops),
        Wording("Kernel BUG at ", "", C::KernelBug, Oops),
        // arch/x86/kernel/traps.c.
        Wording(
            "general protection fault",
            "[#",
            C::GeneralProtectionFault,
            Oops,
        ),
        Wording(
            "general protection fault, ",
            " for ",
            C::GeneralProtectionFault,
            Oops,
        ),
        Wording("divide error: ", "[#", C::DivideError, Oops),
        Wording("invalid opcode: ", "[#", C::InvalidOpcode, Oops),
        Wording(
            "Internal error: Oops - Undefined instruction",
            "",
            C::InvalidOpcode,
            Oops,
        ),
        Wording("Internal error: Oops - BUG", "", C::KernelBug, Oops),
        Wording("BUG: stack guard page was hit", "", C::StackOverflow, Oops),
        Wording("BUG: ", "stack guard page was hit", C::StackOverflow, Oops),
        Wording("kernel stack overflow", "", C::StackOverflow, Oops),
        Wording(
            "Insufficient stack space to handle exception",
            "",
            C::StackOverflow,
            Oops,
        ),
        Wording("double fault: ", "[#", C::StackOverflow, Oops),
        Wording("PANIC: double fault", "", C::StackOverflow, Oops),
        Wording("traps: PANIC: double fault", "", C::StackOverflow, Oops),
        Wording("stack segment: ", "[#", C::Oops, Oops),
        Wording("int3: ", "[#", C::Oops, Oops),
        Wording("alignment check: ", "[#", C::Oops, Oops),
        Wording("Internal error: ", "[#", C::Oops, Oops),
        Wording("Oops: ", "[#", C::Oops, Oops),
        // kernel/watchdog.c, kernel/watchdog_perf.c and their ancestors.
        Wording("watchdog: BUG: soft lockup", "", C::SoftLockup, Trouble),
        Wording("NMI watchdog: BUG: soft lockup", "", C::SoftLockup, Trouble),
        Wording("BUG: soft lockup", "", C::SoftLockup, Trouble),
        Wording(
            "watchdog: ",
            "detected hard LOCKUP on cpu",
            C::HardLockup,
            Trouble,
        ),
        Wording(
            "NMI watchdog: ",
            "detected hard LOCKUP on cpu",
            C::HardLockup,
            Trouble,
        ),
        Wording(
            "Watchdog detected hard LOCKUP on cpu",
            "",
            C::HardLockup,
            Trouble,
        ),
        // kernel/hung_task.c.
        Wording(
            "INFO: task ",
            " blocked for more than ",
            C::HungTask,
            Trouble,
        ),
        // mm/oom_kill.c. A control group's own begins with "Memory cgroup".
        Wording(
            "Out of memory: Killed process ",
            "",
            C::OutOfMemory,
            Trouble,
        ),
        // kernel/rcu/tree_stall.h.
        Wording("rcu: INFO: ", "detected stall", C::RcuStall, Trouble),
        Wording("rcu: INFO: ", "self-detected stall", C::RcuStall, Trouble),
        Wording("INFO: rcu", "detected stall", C::RcuStall, Trouble),
        Wording("INFO: rcu", "self-detected stall", C::RcuStall, Trouble),
        // arch/x86/kernel/cpu/mce/core.c, print_mce().
        Wording(
            "mce: [Hardware Error]: ",
            "Machine Check Exception",
            C::MachineCheck,
            Trouble,
        ),
        Wording(
            "[Hardware Error]: ",
            "Machine Check Exception",
            C::MachineCheck,
            Trouble,
        ),
        Wording("SError Interrupt on CPU", "", C::MachineCheck, Trouble),
        // drivers/tty/sysrq.c.
        Wording("sysrq: Trigger a crash", "", C::SysrqCrash, Trouble),
        Wording("sysrq: SysRq : Trigger a crash", "", C::SysrqCrash, Trouble),
        Wording("SysRq : Trigger a crash", "", C::SysrqCrash, Trouble),
        // kernel/panic.c, __warn().
        Wording("WARNING: CPU: ", " at ", C::Warning, Warning),
        Wording("WARNING: ", ", CPU#", C::Warning, Warning),
        Wording("BUG: scheduling while atomic: ", "", C::Warning, Warning),
        Wording(
            "BUG: sleeping function called from invalid context",
            "",
            C::Warning,
            Warning,
        ),
        Wording("BUG: Bad page ", "", C::Warning, Warning),
        Wording("BUG: KASAN: ", "", C::Warning, Warning),
        Wording("BUG: KFENCE: ", "", C::Warning, Warning),
    ]
};

const PANICS: [&str; 3] = [
    "Kernel panic - not syncing: ",
    "Kernel panic - syncing: ",
    "---[ end Kernel panic - not syncing: ",
];

/// By its first byte, the second bytes (the lower six bits of them) that a line which says
/// something may have. Most lines are none of those, and are not looked at any further.
const STARTS: [u64; 256] = {
    const fn with(mut starts: [u64; 256], text: &str) -> [u64; 256] {
        let bytes = text.as_bytes();
        starts[bytes[0] as usize] |= 1 << (bytes[1] & 63);
        starts
    }
    let mut starts = with([0; 256], "Oops: ");
    let mut at = 0;
    while at < WORDINGS.len() {
        starts = with(starts, WORDINGS[at].0);
        at += 1;
    }
    at = 0;
    while at < PANICS.len() {
        starts = with(starts, PANICS[at]);
        at += 1;
    }
    starts
};

fn may_say(line: &str) -> bool {
    match line.as_bytes() {
        [first, second, ..] => STARTS[usize::from(*first)] & (1 << (second & 63)) != 0,
        _ => false,
    }
}

/// What this line says happened, if anything. The line is stripped of what its
/// transport put before it.
pub(crate) fn of(line: &str) -> Option<Cause<'_>> {
    if !may_say(line) {
        return None;
    }
    if let Some(text) = PANICS.iter().find_map(|p| line.strip_prefix(p)) {
        let text = text.trim_end();
        return Some(Cause::Panic(text.strip_suffix(" ]---").unwrap_or(text)));
    }
    let find = |line: &str| {
        WORDINGS
            .iter()
            .find(|w| line.starts_with(w.0) && (w.1.is_empty() || line[w.0.len()..].contains(w.1)))
            .map(|w| Cause::Said(w.2, w.3))
    };
    // From 6.10 on traps are named behind the word: `Oops: divide error: 0000 [#1]`.
    line.strip_prefix("Oops: ")
        .and_then(find)
        .or_else(|| find(line))
}

/// What the text of a panic stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PanicText {
    /// The end of what was said before: an oops.
    AfterOops,
    /// PID 1 is gone: by an oops of its own, or because it exited.
    InitExited,
    /// It names the kind, of which more was said before.
    Names(Code),
    /// It is the reason itself.
    Itself,
}

/// What the text of a panic stands for.
pub(crate) fn panic_text(text: &str) -> PanicText {
    use PanicText::{AfterOops, InitExited, Itself, Names};
    const TEXTS: &[(&str, PanicText)] = &[
        ("Aiee, killing interrupt handler", AfterOops),
        ("Attempted to kill the idle task", AfterOops),
        ("Attempted to kill init!", InitExited),
        ("sysrq triggered crash", Names(Code::SysrqCrash)),
        ("softlockup: hung tasks", Names(Code::SoftLockup)),
        ("Hard LOCKUP", Names(Code::HardLockup)),
        ("hung_task: blocked tasks", Names(Code::HungTask)),
        ("RCU Stall", Names(Code::RcuStall)),
        ("Out of memory", Names(Code::OutOfMemory)),
        ("out of memory", Names(Code::OutOfMemory)),
        ("System is deadlocked on memory", Names(Code::OutOfMemory)),
        ("Machine check", Names(Code::MachineCheck)),
        ("Fatal machine check", Names(Code::MachineCheck)),
        ("Fatal local machine check", Names(Code::MachineCheck)),
        ("Fatal hardware error", Names(Code::MachineCheck)),
        ("Uncorrected hardware", Names(Code::MachineCheck)),
        ("Memory failure", Names(Code::MachineCheck)),
        ("Asynchronous SError Interrupt", Names(Code::MachineCheck)),
        ("asynchronous SError Interrupt", Names(Code::MachineCheck)),
        ("panic_on_warn set", Names(Code::Warning)),
        ("kernel: panic_on_warn set", Names(Code::Warning)),
        ("KASAN: panic_on_warn set", Names(Code::Warning)),
        ("KFENCE: panic_on_warn set", Names(Code::Warning)),
        ("scheduling while atomic", Names(Code::Warning)),
        ("kernel stack overflow", Names(Code::StackOverflow)),
        ("double fault", Names(Code::StackOverflow)),
        ("corrupted stack end detected", Names(Code::StackOverflow)),
    ];
    // arm64 puts the oops' name before it.
    if text.contains("Fatal exception") {
        return AfterOops;
    }
    TEXTS
        .iter()
        .find(|(start, _)| text.starts_with(start))
        .map_or(Itself, |(_, meaning)| *meaning)
}

/// What to call it before "in this function".
pub(crate) fn phrase(code: Code) -> &'static str {
    match code {
        Code::KernelPanic => "Kernel panic",
        Code::SysrqCrash => "Crash asked for by sysrq",
        Code::NullPointerDereference => "NULL pointer dereference",
        Code::PageFault => "Bad memory access",
        Code::KernelBug => "Kernel BUG",
        Code::GeneralProtectionFault => "General protection fault",
        Code::DivideError => "Division by zero",
        Code::InvalidOpcode => "Invalid opcode",
        Code::StackOverflow => "Kernel stack overflow or double fault",
        Code::InitExited => "PID 1 exited",
        Code::SoftLockup => "Soft lockup",
        Code::HardLockup => "Hard lockup",
        Code::HungTask => "Hung task",
        Code::RcuStall => "RCU stall",
        Code::OutOfMemory => "Out of memory",
        Code::MachineCheck => "Machine check",
        Code::Warning => "Kernel warning",
        Code::Oops => "Kernel oops",
        Code::Restart => "Restart",
        Code::Halt => "Halt",
        Code::PowerOff => "Power off",
        Code::Kexec => "Start of another kernel",
        Code::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wording_is_reached() {
        for Wording(start, needs, code, weight) in WORDINGS {
            let line = format!("{start} {needs} ");
            let Some(Cause::Said(got, got_weight)) = of(&line) else {
                panic!("{line} says nothing")
            };
            assert_eq!(got_weight, *weight, "{line}");
            // A more precise wording may stand before a general one.
            assert!(got == *code || *code == Code::Oops, "{line}: {got:?}");
        }
    }

    #[test]
    fn what_only_looks_alike_says_nothing() {
        for line in [
            "WARNING: the firmware is old",
            "BUG: in my application",
            "general protection fault in my notes",
            "traps: app[12] general protection fault ip:1 sp:2 error:0 in app",
            "Kernel panic on my mind",
            "panic: runtime error",
            "INFO: task list:",
            "rcu: INFO: all is well",
            "mce: [Hardware Error]: Machine check events logged",
            "watchdog: Delayed init of the lockup detector failed: -19",
            "Oops, I did it again",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
