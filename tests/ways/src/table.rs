//! Every way. What is expected was seen on the lab's kernels.

use agent_core::model::{Check, Context, Notice, ReasonCode};

use super::{By, Demand, End, Foreseen, Step, Way};

const PANIC_ON_OOPS: Step = Step::Write("/proc/sys/kernel/panic_on_oops", "1");
const OOPS_IS_SURVIVED: Step = Step::Write("/proc/sys/kernel/panic_on_oops", "0");

/// The console shows all that is printed, as it does once a kernel panics.
const SHOW_ALL: Step = Step::Write("/proc/sys/kernel/printk", "8");

/// A CPU that runs one task for twice this many seconds is locked up.
const WATCHDOG_SOON: Step = Step::Write("/proc/sys/kernel/watchdog_thresh", "1");

const HUNG_SOON: Step = Step::Write("/proc/sys/kernel/hung_task_timeout_secs", "1");
const HUNG_LOOK_OFTEN: Step = Step::Write("/proc/sys/kernel/hung_task_check_interval_secs", "1");
/// One report is enough; each makes the agent wait anew for the end.
const HUNG_SAID_ONCE: Step = Step::Write("/proc/sys/kernel/hung_task_warnings", "1");

/// The kernel takes no less than three seconds.
const RCU_STALL_SOON: Step =
    Step::Write("/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "3");

const fn sysrq(key: &'static str) -> Step {
    Step::Write("/proc/sysrq-trigger", key)
}

const fn module(kind: &'static str, how: &'static str) -> Step {
    Step::Module { kind, how }
}

const fn in_child(kind: &'static str, how: &'static str) -> Step {
    Step::ModuleInChild { kind, how }
}

/// A fault that the crash module causes.
struct Fault {
    kind: &'static str,
    code: ReasonCode,
    line: &'static str,
    function: Option<&'static str>,
}

const NULL: Fault = Fault {
    kind: "null",
    code: ReasonCode::NullPointerDereference,
    line: "BUG: kernel NULL pointer dereference|Unable to handle kernel NULL pointer dereference",
    function: Some("boom_null"),
};

const BUG: Fault = Fault {
    kind: "bug",
    code: ReasonCode::KernelBug,
    line: "kernel BUG at ",
    function: Some("boom_bug"),
};

/// A packet that the kernel stops at.
const fn packet(kind: &'static str) -> Fault {
    Fault {
        kind,
        function: Some("skb_segment"),
        ..BUG
    }
}

const SEGMENT_LONG: Fault = packet("segment-long");
const SEGMENT_SHORT: Fault = packet("segment-short");
const SEGMENT_EMPTY: Fault = packet("segment-empty");
const SEGMENT_COPIED: Fault = packet("segment-copied");

/// One of the crash module.
const fn made(kind: &'static str, check: Check, gso_size: u32, list: &'static [u32]) -> Foreseen {
    Foreseen {
        kind,
        check,
        gso_size,
        list,
        device: ("eth0", "virtio_net"),
        caller: "boom_segment",
    }
}

/// The packets that kernels die of.
pub(crate) const FORESEEN: &[Foreseen] = &[
    made("segment-long", Check::HeadTooLong, 75, &[125]),
    made("segment-short", Check::TooShort, 450, &[400, 400]),
    made("segment-empty", Check::Empty, 75, &[0, 125]),
    made("segment-copied", Check::NotInAPage, 75, &[125]),
    Foreseen {
        kind: "traffic",
        check: Check::HeadTooLong,
        gso_size: 75,
        list: &[125],
        device: ("tap1", "tun"),
        caller: "tcp_gso_segment",
    },
];

const GPF: Fault = Fault {
    kind: "gpf",
    code: ReasonCode::GeneralProtectionFault,
    line: "general protection fault",
    function: Some("boom_gpf"),
};

const DIV: Fault = Fault {
    kind: "div",
    code: ReasonCode::DivideError,
    line: "divide error: ",
    function: Some("boom_div"),
};

/// Data is run: the instruction pointer is in no function.
const EXEC: Fault = Fault {
    kind: "exec",
    code: ReasonCode::PageFault,
    line: "BUG: unable to handle page fault for address|Unable to handle kernel execute from non-executable memory",
    function: None,
};

/// A fault kills the machine: always in an interrupt, in a process if it is set so.
macro_rules! fault {
    ($name:literal, $fault:ident, process) => {
        fault!(
            $name,
            $fault,
            Panic,
            Process,
            &[PANIC_ON_OOPS, module($fault.kind, "process")]
        )
    };
    ($name:literal, $fault:ident, survived) => {
        fault!(
            $name,
            $fault,
            Oops,
            Process,
            &[OOPS_IS_SURVIVED, in_child($fault.kind, "process")]
        )
    };
    ($name:literal, $fault:ident, softirq) => {
        fault!(
            $name,
            $fault,
            Panic,
            Softirq,
            &[module($fault.kind, "softirq")]
        )
    };
    ($name:literal, $fault:ident, hardirq) => {
        fault!(
            $name,
            $fault,
            Panic,
            Hardirq,
            &[module($fault.kind, "hardirq")]
        )
    };
    ($name:literal, $fault:ident, nmi) => {
        fault!($name, $fault, Panic, Nmi, &[module($fault.kind, "nmi")])
    };
    ($name:literal, $fault:ident, $notice:ident, $context:ident, $steps:expr) => {
        Way {
            name: $name,
            steps: $steps,
            notice: Notice::$notice,
            code: $fault.code,
            line: $fault.line,
            function: $fault.function,
            context: Context::$context,
            demand: Demand::Everything,
        }
    };
}

/// An order to stop, of which the kernel prints nothing.
const fn order(
    name: &'static str,
    steps: &'static [Step],
    notice: Notice,
    code: ReasonCode,
) -> Way {
    Way {
        name,
        steps,
        notice,
        code,
        line: "",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    }
}

/// Every way.
pub static ALL: &[Way] = &[
    Way {
        name: "sysrq-c",
        steps: &[sysrq("c")],
        notice: Notice::Panic,
        code: ReasonCode::SysrqCrash,
        line: "Kernel panic - not syncing: sysrq triggered crash",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    fault!("null-process", NULL, process),
    fault!("null-softirq", NULL, softirq),
    fault!("null-hardirq", NULL, hardirq),
    fault!("null-nmi", NULL, nmi),
    fault!("oops-survived", NULL, survived),
    fault!("bug-process", BUG, process),
    fault!("bug-softirq", BUG, softirq),
    fault!("bug-hardirq", BUG, hardirq),
    fault!("bug-nmi", BUG, nmi),
    fault!("bug-survived", BUG, survived),
    fault!("gpf-process", GPF, process),
    fault!("gpf-softirq", GPF, softirq),
    fault!("gpf-hardirq", GPF, hardirq),
    fault!("gpf-nmi", GPF, nmi),
    fault!("gpf-survived", GPF, survived),
    fault!("div-process", DIV, process),
    fault!("div-softirq", DIV, softirq),
    fault!("div-hardirq", DIV, hardirq),
    fault!("div-nmi", DIV, nmi),
    fault!("div-survived", DIV, survived),
    fault!("exec-process", EXEC, process),
    fault!("exec-softirq", EXEC, softirq),
    fault!("exec-hardirq", EXEC, hardirq),
    fault!("exec-nmi", EXEC, nmi),
    fault!("exec-survived", EXEC, survived),
    Way {
        name: "stack-overflow",
        steps: &[module("stack", "process")],
        notice: Notice::Panic,
        code: ReasonCode::StackOverflow,
        line: "BUG: TASK stack guard page was hit at |BUG: stack guard page was hit at |Insufficient stack space to handle exception!",
        function: Some("boom_stack"),
        // The double fault is served on a stack of its own, as an NMI is.
        context: Context::Nmi,
        demand: Demand::Everything,
    },
    Way {
        name: "double-fault",
        steps: &[module("df", "process")],
        notice: Notice::Panic,
        code: ReasonCode::StackOverflow,
        line: "traps: PANIC: double fault, error_code: ",
        function: Some("boom_df"),
        context: Context::Nmi,
        demand: Demand::Everything,
    },
    Way {
        name: "warn-panic",
        steps: &[
            SHOW_ALL,
            Step::Write("/proc/sys/kernel/panic_on_warn", "1"),
            module("warn", "process"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::Warning,
        line: "Kernel panic - not syncing: ",
        function: Some("boom_warn"),
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "init-exit",
        steps: &[Step::Exit],
        notice: Notice::Panic,
        code: ReasonCode::InitExited,
        line: "Kernel panic - not syncing: Attempted to kill init! exitcode=",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "panic-hardirq",
        steps: &[module("panic", "hardirq")],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom in hardirq context",
        function: None,
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "panic-nmi",
        steps: &[module("panic", "nmi")],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom in nmi context",
        function: None,
        context: Context::Nmi,
        demand: Demand::Everything,
    },
    Way {
        name: "nmi-unknown",
        steps: &[
            Step::Write("/proc/sys/kernel/unknown_nmi_panic", "1"),
            Step::Monitor("nmi"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: NMI: Not continuing",
        function: None,
        context: Context::Nmi,
        demand: Demand::Everything,
    },
    Way {
        // An error that no CPU may go on after, reported to one of them.
        name: "machine-check",
        steps: &[
            Step::Write(
                "/sys/devices/system/machinecheck/machinecheck0/ignore_ce",
                "0",
            ),
            Step::Monitor("mce 0 1 0xbe00000000000000 0x5 0x1234 0x8c"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::MachineCheck,
        line: "Kernel panic - not syncing: Fatal local machine check",
        function: None,
        context: Context::Nmi,
        demand: Demand::Everything,
    },
    // The four BUG_ON of skb_segment, as its caller a packet in a softirq.
    fault!("segment-long", SEGMENT_LONG, softirq),
    fault!("segment-short", SEGMENT_SHORT, softirq),
    fault!("segment-empty", SEGMENT_EMPTY, softirq),
    fault!("segment-copied", SEGMENT_COPIED, softirq),
    // The first of them, by nothing but traffic, on the last Debian kernel before the fix.
    fault!(
        "segment-traffic",
        SEGMENT_LONG,
        Panic,
        Softirq,
        &[
            Step::NeedPart("/proc/version", "Debian 5.10.223-1"),
            Step::Traffic
        ]
    ),
    order(
        "reboot-f",
        &[Step::ByPod(By::Process(End::Restart))],
        Notice::Restart,
        ReasonCode::Restart,
    ),
    order(
        "poweroff-f",
        &[Step::ByPod(By::Process(End::PowerOff))],
        Notice::PowerOff,
        ReasonCode::PowerOff,
    ),
    order(
        "halt-f",
        &[Step::ByPod(By::Process(End::Halt))],
        Notice::Halt,
        ReasonCode::Halt,
    ),
    // SIGRTMIN+5, as the C library of systemd counts.
    order(
        "init-signal",
        &[Step::ByPod(By::Signal(39))],
        Notice::Restart,
        ReasonCode::Restart,
    ),
    order(
        "init-command",
        &[
            Step::ByPod(By::Command("systemctl --no-block reboot")),
            Step::Order(End::Restart),
        ],
        Notice::Restart,
        ReasonCode::Restart,
    ),
    order(
        "kexec",
        &[Step::LoadKernel, Step::ByPod(By::Process(End::Kexec))],
        Notice::Kexec,
        ReasonCode::Kexec,
    ),
    order(
        "sysrq-b",
        &[sysrq("b")],
        Notice::EmergencyRestart,
        ReasonCode::Restart,
    ),
    order(
        "sysrq-o",
        &[sysrq("o")],
        Notice::PowerOff,
        ReasonCode::PowerOff,
    ),
    // What stands still: survived, or the end where a switch says so.
    Way {
        name: "soft-lockup",
        steps: &[SHOW_ALL, WATCHDOG_SOON, module("spin", "process")],
        notice: Notice::SoftLockup,
        code: ReasonCode::SoftLockup,
        line: "watchdog: BUG: soft lockup - CPU#",
        function: Some("boom_spin"),
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "soft-lockup-panic",
        steps: &[
            SHOW_ALL,
            Step::Write("/proc/sys/kernel/softlockup_panic", "1"),
            WATCHDOG_SOON,
            module("spin", "process"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::SoftLockup,
        line: "watchdog: BUG: soft lockup - CPU#",
        function: Some("boom_spin"),
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "hard-lockup",
        steps: &[
            Step::Need("/proc/sys/kernel/nmi_watchdog", "1"),
            SHOW_ALL,
            WATCHDOG_SOON,
            module("spin", "hardirq"),
        ],
        notice: Notice::HardLockup,
        code: ReasonCode::HardLockup,
        line: "watchdog: Watchdog detected hard LOCKUP on cpu ",
        function: None,
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        // Another CPU finds it. With two, the one that would send is the one that is
        // locked up; with more it may be.
        name: "hard-lockup-panic",
        steps: &[
            // No detector without counters of the processor, or a CPU that watches another.
            Step::Need("/proc/sys/kernel/nmi_watchdog", "1"),
            SHOW_ALL,
            Step::Write("/proc/sys/kernel/hardlockup_panic", "1"),
            WATCHDOG_SOON,
            module("spin", "hardirq"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::HardLockup,
        line: "watchdog: Watchdog detected hard LOCKUP on cpu ",
        function: None,
        context: Context::Hardirq,
        demand: Demand::End,
    },
    Way {
        name: "hung-task",
        steps: &[
            SHOW_ALL,
            HUNG_SAID_ONCE,
            HUNG_LOOK_OFTEN,
            HUNG_SOON,
            module("hang", "process"),
        ],
        notice: Notice::HungTask,
        code: ReasonCode::HungTask,
        line: "INFO: task ",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "hung-task-panic",
        steps: &[
            SHOW_ALL,
            Step::Write("/proc/sys/kernel/hung_task_panic", "1"),
            HUNG_LOOK_OFTEN,
            HUNG_SOON,
            module("hang", "process"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::HungTask,
        line: "INFO: task ",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "rcu-stall",
        steps: &[
            SHOW_ALL,
            RCU_STALL_SOON,
            Step::RcuElsewhere,
            module("stall", "process"),
        ],
        notice: Notice::RcuStall,
        code: ReasonCode::RcuStall,
        line: "rcu: INFO: ",
        function: None,
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "rcu-stall-panic",
        steps: &[
            SHOW_ALL,
            Step::Write("/proc/sys/kernel/panic_on_rcu_stall", "1"),
            RCU_STALL_SOON,
            Step::RcuElsewhere,
            module("stall", "process"),
        ],
        notice: Notice::Panic,
        code: ReasonCode::RcuStall,
        line: "rcu: INFO: ",
        function: None,
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "oom-kill",
        steps: &[SHOW_ALL, Step::EatMemory],
        notice: Notice::OutOfMemory,
        code: ReasonCode::OutOfMemory,
        line: "Out of memory: Killed process ",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "oom-panic",
        steps: &[
            SHOW_ALL,
            Step::Write("/proc/sys/vm/panic_on_oom", "1"),
            Step::EatMemory,
        ],
        notice: Notice::Panic,
        code: ReasonCode::OutOfMemory,
        line: "Kernel panic - not syncing: Out of memory: ",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    // From here on: what must not hang the machine.
    Way {
        name: "panic-all-cpus",
        steps: &[module("panic", "all")],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom in all context",
        function: None,
        context: Context::Hardirq,
        // Every CPU is in panic(), so none is left to send.
        demand: Demand::End,
    },
    Way {
        name: "oops-nested",
        steps: &[PANIC_ON_OOPS, module("nested", "process")],
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference|Unable to handle kernel NULL pointer dereference",
        function: None,
        context: Context::Process,
        demand: Demand::Word,
    },
    Way {
        name: "ring-full",
        steps: &[module("flood", "process")],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom after a flood",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "agent-thread",
        steps: &[OOPS_IS_SURVIVED, in_child("null", "drain")],
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "",
        function: None,
        context: Context::Process,
        // The oops before it is reported by the thread that dies of that.
        demand: Demand::End,
    },
    Way {
        name: "uplink-dead",
        steps: &[Step::Down("eth0"), sysrq("c")],
        notice: Notice::Panic,
        code: ReasonCode::SysrqCrash,
        line: "",
        function: None,
        context: Context::Process,
        demand: Demand::End,
    },
];
