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
    },
    Way {
        name: "null-process",
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Process,
    },
    Way {
        name: "null-softirq",
        notice: Notice::Panic,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Softirq,
    },
    Way {
        name: "bug-softirq",
        notice: Notice::Panic,
        code: ReasonCode::KernelBug,
        line: "kernel BUG at ",
        function: Some("boom_bug"),
        context: Context::Softirq,
    },
    Way {
        name: "panic-hardirq",
        notice: Notice::Panic,
        code: ReasonCode::KernelPanic,
        line: "Kernel panic - not syncing: boom in hardirq context",
        function: None,
        context: Context::Hardirq,
    },
    Way {
        name: "reboot-f",
        notice: Notice::Restart,
        code: ReasonCode::Restart,
        line: "",
        function: None,
        context: Context::Process,
    },
    Way {
        name: "oops-survived",
        notice: Notice::Oops,
        code: ReasonCode::NullPointerDereference,
        line: "BUG: kernel NULL pointer dereference",
        function: Some("boom_null"),
        context: Context::Process,
    },
];
