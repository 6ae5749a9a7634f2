//! What is expected of each way to die. The ways themselves are the guest's
//! (`tests/guest/src/ways.rs`); a new one has an entry in both.

use agent_core::model::{Context, Notice, ReasonCode};

/// What a way to die must bring out.
#[derive(Debug)]
pub struct Way {
    /// As the guest calls it.
    pub name: &'static str,
    /// What the kernel does in the end.
    pub notice: Notice,
    /// The annotator's reason code.
    pub code: ReasonCode,
    /// How the line that says why begins; empty: the kernel prints none.
    pub line: &'static str,
    /// The function that is to blame.
    pub function: Option<&'static str>,
    /// Where it happens.
    pub context: Context,
    /// What of it must get out.
    pub demand: Demand,
}

/// How much of a death must get out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Demand {
    /// First word, reason, and every line.
    Everything,
    /// First word and reason; lines may be lost, by the way's nature.
    Word,
    /// Nothing can get out for sure; but the machine must not hang.
    End,
}

impl Way {
    /// Whether the machine lives on.
    pub fn is_survived(&self) -> bool {
        !self.notice.is_final()
    }
}

/// Every way.
pub const ALL: &[Way] = &[
    Way {
        name: "sysrq-c",
        notice: Notice::Panic,
        code: ReasonCode::SysrqCrash,
        line: "Kernel panic - not syncing: sysrq triggered crash",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "null-process",
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "null-softirq",
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Softirq,
        demand: Demand::Everything,
    },
    Way {
        name: "bug-softirq",
        notice: Notice::Panic,
        code: ReasonCode::KernelBug,
        line: "kernel BUG at ",
        function: Some("boom_bug"),
        context: Context::Softirq,
        demand: Demand::Everything,
    },
    Way {
        name: "panic-hardirq",
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom in hardirq context",
        function: None,
        context: Context::Hardirq,
        demand: Demand::Everything,
    },
    Way {
        name: "reboot-f",
        notice: Notice::Restart,
        code: ReasonCode::Restart,
        line: "",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "oops-survived",
        notice: Notice::Oops,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Process,
        demand: Demand::Everything,
    },
    // From here on: what must not hang the machine.
    Way {
        name: "panic-all-cpus",
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
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: None,
        context: Context::Process,
        demand: Demand::Word,
    },
    Way {
        name: "ring-full",
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom after a flood",
        function: None,
        context: Context::Process,
        demand: Demand::Everything,
    },
    Way {
        name: "agent-thread",
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
        notice: Notice::Panic,
        code: ReasonCode::SysrqCrash,
        line: "",
        function: None,
        context: Context::Process,
        demand: Demand::End,
    },
];
