//! What can happen to a kernel, as its log tells it.

use agent_core::model::ReasonCode;
use serde::{Deserialize, Serialize};

/// How grave something is; later ones outweigh earlier ones.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Weight {
    /// The kernel complains and goes on.
    Warning,
    /// Something is stuck or broken; settings decide whether it goes on.
    Trouble,
    /// An oops or BUG(): this task or interrupt is lost.
    Oops,
}

/// Makes the enum, and the list and the words that must name each of its kinds once.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $weight:ident, $reason:ident, $phrase:literal;)*) => {
        /// The kind of a report.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word, as it is written: `NullPointerDereference`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What to call it before "in this function".
            pub fn phrase(self) -> &'static str {
                match self { $(Self::$name => $phrase,)* }
            }

            /// The reason of a death that it led to.
            pub fn reason(self) -> ReasonCode {
                match self { $(Self::$name => ReasonCode::$reason,)* }
            }

            pub(crate) fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)* }
            }
        }
    };
}

kinds! {
    /// `panic()` with a text that names nothing more precise.
    Panic: Oops, KernelPanic, "Kernel panic";
    /// sysrq-c.
    SysrqCrash: Trouble, SysrqCrash, "Crash asked for by sysrq";
    /// PID 1 exited.
    InitExited: Oops, InitExited, "PID 1 exited";
    /// `BUG()` or `BUG_ON()`.
    Bug: Oops, KernelBug, "Kernel BUG";
    /// NULL pointer dereference.
    NullPointerDereference: Oops, NullPointerDereference, "NULL pointer dereference";
    /// Any other bad kernel memory access.
    PageFault: Oops, PageFault, "Bad memory access";
    /// General protection fault: a wild pointer, mostly.
    GeneralProtectionFault: Oops, GeneralProtectionFault, "General protection fault";
    /// Division by zero, or its overflow.
    DivideError: Oops, DivideError, "Division by zero";
    /// Invalid opcode that is no `BUG()`.
    InvalidOpcode: Oops, InvalidOpcode, "Invalid opcode";
    /// Double fault.
    DoubleFault: Oops, StackOverflow, "Double fault";
    /// The kernel's stack is used up, or was overwritten.
    StackOverflow: Oops, StackOverflow, "Kernel stack overflow";
    /// Any other trap in the kernel.
    Oops: Oops, Oops, "Kernel oops";
    /// `WARN()`.
    Warning: Warning, Warning, "Kernel warning";
    /// A CPU ran the kernel for too long without letting others run.
    SoftLockup: Trouble, SoftLockup, "Soft lockup";
    /// A CPU had its interrupts off for too long.
    HardLockup: Trouble, HardLockup, "Hard lockup";
    /// A task waited for too long without a way to be interrupted.
    HungTask: Trouble, HungTask, "Hung task";
    /// A CPU or task held up the end of RCU's grace period.
    RcuStall: Trouble, RcuStall, "RCU stall";
    /// The workers of a queue did not get on.
    WorkqueueLockup: Trouble, SoftLockup, "Workqueue lockup";
    /// Memory ran out, and a process was killed for it.
    OomKill: Trouble, OutOfMemory, "Process killed for want of memory";
    /// The memory of a control group (a container) ran out, and a process of it was
    /// killed: nothing that the machine dies of.
    CgroupOomKill: Warning, OutOfMemory, "Process killed at its control group's limit";
    /// Memory ran out, and the kernel panicked for it.
    OomPanic: Oops, OutOfMemory, "Out of memory";
    /// Machine check exception.
    MachineCheck: Trouble, MachineCheck, "Machine check";
    /// An error that hardware or firmware reported (APEI, PCIe AER, EDAC, memory failure).
    HardwareError: Trouble, MachineCheck, "Hardware error";
    /// arm64's system error interrupt: mostly hardware.
    SError: Trouble, MachineCheck, "SError interrupt";
    /// arm64's external abort of an access: mostly hardware.
    ExternalAbort: Oops, MachineCheck, "Synchronous external abort";
    /// A non-maskable interrupt that nobody knows.
    UnknownNmi: Warning, KernelPanic, "NMI without a known reason";
    /// Address sanitizer.
    Kasan: Warning, Warning, "KASAN";
    /// Sampling detector of bad memory accesses.
    Kfence: Warning, Warning, "KFENCE";
    /// Detector of data races.
    Kcsan: Warning, Warning, "KCSAN";
    /// Detector of uses of uninitialised memory.
    Kmsan: Warning, Warning, "KMSAN";
    /// Detector of undefined behaviour.
    Ubsan: Warning, Warning, "UBSAN";
    /// Memory that nobody points at any more (kmemleak).
    MemoryLeak: Warning, Warning, "Memory leak";
    /// Lock order, lock context or RCU use that may deadlock (lockdep).
    Lockdep: Warning, Warning, "Locking error";
    /// A lock whose own bytes are wrong, or that is taken twice.
    LockCorruption: Warning, Warning, "Broken lock";
    /// Slept, or was about to, where that is not allowed.
    SleepInAtomic: Warning, Warning, "Sleep in atomic context";
    /// Scheduled where that is not allowed.
    SchedulingWhileAtomic: Warning, Warning, "Scheduling while atomic";
    /// A page or its counters are in an impossible state.
    BadPage: Warning, Warning, "Bad page state";
    /// A slab object or its red zone was overwritten.
    SlabCorruption: Warning, Warning, "Slab corruption";
    /// The links of a list do not fit together.
    ListCorruption: Oops, KernelBug, "List corruption";
    /// A reference counter went below zero, or over its end.
    Refcount: Warning, Warning, "Reference count error";
    /// A copy to or from user space that leaves its object.
    Usercopy: Oops, KernelBug, "Bad usercopy";
    /// A string or memory function told to leave its object (FORTIFY_SOURCE).
    Fortify: Oops, KernelBug, "Buffer overflow";
    /// A hardware or software watchdog was not served, or did fire.
    Watchdog: Trouble, KernelPanic, "Watchdog";
    /// A kernel module could not be loaded.
    ModuleLoad: Warning, Warning, "Module not loaded";
    /// The BPF verifier refused a program.
    BpfVerifier: Warning, Warning, "BPF program refused";
    /// The table of connections is full; new ones are dropped.
    ConntrackFull: Warning, Warning, "Connection table full";
    /// A network device does not send any more.
    NetdevWatchdog: Warning, Warning, "Transmit queue timed out";
    /// A network device is still in use and cannot go.
    UnregisterNetdevice: Warning, Warning, "Network device held";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique() {
        let words = |word: fn(Kind) -> &'static str| {
            let all = Kind::ALL.iter().map(|kind| word(*kind));
            all.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(words(Kind::as_str), Kind::ALL.len());
        assert_eq!(words(Kind::phrase), Kind::ALL.len());
    }
}
