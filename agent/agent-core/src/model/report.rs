//! One decoded crash.

use serde::{Deserialize, Serialize};

/// What the log says happened. Damage is a field, never an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kind of crash.
    pub code: ReasonCode,
    /// One line for people: `NULL pointer dereference in foo_bar (softirq)`.
    pub title: String,
    /// The kernel's own line that says why.
    pub line: String,
    /// Function in which the CPU was (RIP or PC), without offset.
    pub fault_function: Option<String>,
    /// Module of that function.
    pub module: Option<String>,
    /// Kernel release in the report's header line.
    pub kernel_release: Option<String>,
    /// `comm` of the task.
    pub comm: Option<String>,
    /// Why this report cannot be trusted in full.
    pub corrupted: Option<String>,
    /// The same for one crash however it was logged, and across builds of one kernel;
    /// absent where no log was decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Known bugs that it looks like and that this kernel may have, the likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_bugs: Vec<KnownBug>,
}

/// A known bug that a report looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBug {
    /// `cve-2024-42281`, or words where no CVE was given.
    pub id: String,
    /// One line: what happens, and when.
    pub title: String,
    /// It looks like it in all that was recorded, and this kernel has the bug; else nothing
    /// rules it out.
    pub likely: bool,
    /// The first version that has the fix, of this kernel's series if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_in: Option<String>,
    /// What helps until the kernel is updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workaround: Option<String>,
    /// Where more is said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The machine's word for a reason. Written to annotations, conditions,
/// metrics; stable once released.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum ReasonCode {
    /// `panic()` with a text that names nothing more precise.
    KernelPanic,
    /// sysrq-c.
    SysrqCrash,
    /// NULL pointer dereference.
    NullPointerDereference,
    /// Any other bad kernel memory access.
    PageFault,
    /// `BUG()` or `BUG_ON()`.
    KernelBug,
    /// General protection fault.
    GeneralProtectionFault,
    /// Division by zero.
    DivideError,
    /// Invalid opcode that is no `BUG()`.
    InvalidOpcode,
    /// Double fault or kernel stack overflow.
    StackOverflow,
    /// PID 1 exited.
    InitExited,
    /// Soft lockup.
    SoftLockup,
    /// Hard lockup.
    HardLockup,
    /// Hung task.
    HungTask,
    /// RCU stall.
    RcuStall,
    /// Out of memory, and `panic_on_oom`.
    OutOfMemory,
    /// Machine check.
    MachineCheck,
    /// `WARN()`, and `panic_on_warn`.
    Warning,
    /// A `BUG_ON` that the kernel was about to hit, by all that was seen.
    PredictedBug,
    /// Any other oops.
    Oops,
    /// Reboot that nobody announced to the agent.
    Restart,
    /// Halt.
    Halt,
    /// Power off.
    PowerOff,
    /// kexec.
    Kexec,
    /// Nothing was said.
    Unknown,
}

impl ReasonCode {
    /// The word, as it is written: `NullPointerDereference`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelPanic => "KernelPanic",
            Self::SysrqCrash => "SysrqCrash",
            Self::NullPointerDereference => "NullPointerDereference",
            Self::PageFault => "PageFault",
            Self::KernelBug => "KernelBug",
            Self::GeneralProtectionFault => "GeneralProtectionFault",
            Self::DivideError => "DivideError",
            Self::InvalidOpcode => "InvalidOpcode",
            Self::StackOverflow => "StackOverflow",
            Self::InitExited => "InitExited",
            Self::SoftLockup => "SoftLockup",
            Self::HardLockup => "HardLockup",
            Self::HungTask => "HungTask",
            Self::RcuStall => "RcuStall",
            Self::OutOfMemory => "OutOfMemory",
            Self::MachineCheck => "MachineCheck",
            Self::Warning => "Warning",
            Self::PredictedBug => "PredictedBug",
            Self::Oops => "Oops",
            Self::Restart => "Restart",
            Self::Halt => "Halt",
            Self::PowerOff => "PowerOff",
            Self::Kexec => "Kexec",
            Self::Unknown => "Unknown",
        }
    }
}
