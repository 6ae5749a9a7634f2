//! What the texts of panics stand for.

use crate::kind::Kind;

/// What the text of a panic stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PanicText {
    /// The end of what was said before: an oops.
    AfterOops,
    /// PID 1 is gone: by an oops of its own, or because it exited.
    InitExited,
    /// It names the kind, of which more was said before.
    Names(Kind),
    /// It names no kind but that of a warning, whichever that was.
    AfterWarning,
    /// It is the reason itself.
    Itself,
}

/// What the text of a panic stands for.
pub(crate) fn panic_text(text: &str) -> PanicText {
    use PanicText::{AfterOops, AfterWarning, InitExited, Itself, Names};
    const TEXTS: &[(&str, PanicText)] = &[
        ("Aiee, killing interrupt handler", AfterOops),
        ("Attempted to kill the idle task", AfterOops),
        ("Attempted to kill init!", InitExited),
        ("sysrq triggered crash", Names(Kind::SysrqCrash)),
        ("softlockup: hung tasks", Names(Kind::SoftLockup)),
        ("Hard LOCKUP", Names(Kind::HardLockup)),
        ("Watchdog detected hard LOCKUP", Names(Kind::HardLockup)),
        ("NMI Watchdog detected LOCKUP", Names(Kind::HardLockup)),
        ("hung_task: blocked tasks", Names(Kind::HungTask)),
        ("RCU Stall", Names(Kind::RcuStall)),
        ("Out of memory", Names(Kind::OomPanic)),
        ("out of memory", Names(Kind::OomPanic)),
        ("System is deadlocked on memory", Names(Kind::OomPanic)),
        ("Machine check", Names(Kind::MachineCheck)),
        ("Fatal machine check", Names(Kind::MachineCheck)),
        ("Fatal Machine check", Names(Kind::MachineCheck)),
        ("Fatal local machine check", Names(Kind::MachineCheck)),
        (
            "Timeout: Not all CPUs entered broadcast exception handler",
            Names(Kind::MachineCheck),
        ),
        (
            "Timeout synchronizing machine check",
            Names(Kind::MachineCheck),
        ),
        ("Unrecovered machine check", Names(Kind::MachineCheck)),
        ("Uncorrected machine check", Names(Kind::MachineCheck)),
        ("Fatal hardware error", Names(Kind::HardwareError)),
        ("EDAC ", Names(Kind::HardwareError)),
        ("Uncorrected hardware", Names(Kind::HardwareError)),
        ("Memory failure", Names(Kind::HardwareError)),
        ("NMI: IOCK error", Names(Kind::HardwareError)),
        ("NMI IOCK error", Names(Kind::HardwareError)),
        ("NMI: PCI system error", Names(Kind::HardwareError)),
        ("Asynchronous SError Interrupt", Names(Kind::SError)),
        ("asynchronous SError Interrupt", Names(Kind::SError)),
        ("bad mode", AfterOops),
        ("NMI: Not continuing", Names(Kind::UnknownNmi)),
        ("kernel: panic_on_warn set", AfterWarning),
        ("KASAN: panic_on_warn set", Names(Kind::Kasan)),
        ("KFENCE: panic_on_warn set", Names(Kind::Kfence)),
        ("KCSAN: panic_on_warn set", Names(Kind::Kcsan)),
        ("KMSAN: panic_on_warn set", Names(Kind::Kmsan)),
        ("kmsan.panic set", Names(Kind::Kmsan)),
        ("UBSAN: panic_on_warn set", Names(Kind::Ubsan)),
        ("UBSAN: ", Names(Kind::Ubsan)),
        ("panic_on_warn set", AfterWarning),
        (
            "scheduling while atomic",
            Names(Kind::SchedulingWhileAtomic),
        ),
        ("kernel stack overflow", Names(Kind::StackOverflow)),
        ("double fault", Names(Kind::DoubleFault)),
        ("Machine halted: double fault", Names(Kind::DoubleFault)),
        ("corrupted stack end detected", Names(Kind::StackOverflow)),
        (
            "stack-protector: Kernel stack is corrupted",
            Names(Kind::StackOverflow),
        ),
        ("Software Watchdog Timer expired", Names(Kind::Watchdog)),
        ("watchdog pretimeout event", Names(Kind::Watchdog)),
        ("An NMI occurred", Names(Kind::Watchdog)),
        ("detected buffer overflow", Names(Kind::Fortify)),
        ("CFI failure", AfterOops),
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
