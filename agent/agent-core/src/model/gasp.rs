//! What a node says of itself: the content of one verified datagram.

use serde::{Deserialize, Serialize};

use super::{Asked, BootId, Inventory, NodeName, Packet, Record, Told};

/// One authenticated, replay-checked message of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gasp {
    /// The node that says so.
    pub node: NodeName,
    /// The Node object's uid, if the agent knew it.
    pub node_uid: Option<String>,
    /// The boot it speaks of.
    pub boot: BootId,
    /// Random number of the agent process; a restarted agent has another.
    pub session: u64,
    /// The node's `CLOCK_MONOTONIC` at sending, in nanoseconds.
    pub mono_ns: u64,
    /// The node's wall clock at sending, in nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// What it says.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The agent is up: what this boot is made of.
    Hello(Box<Inventory>),
    /// The node lives.
    Heartbeat,
    /// The agent stops in an orderly way; silence from now on means nothing.
    /// With who told PID 1 to stop the machine shortly before, if anybody did.
    Goodbye(Option<Box<Told>>),
    /// Something is dying: the first words.
    Word(Word),
    /// Kernel log lines around a death.
    Lines(Vec<Line>),
    /// A death that was announced did not happen: the kernel lived on.
    Survived,
    /// What an earlier boot left of its end: what it means comes by itself
    /// (`engine::Input::Recorded`).
    Record(Box<Record>),
}

/// The first words of a death, small enough for one datagram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// What the kernel is doing.
    pub notice: Notice,
    /// The CPU that does it.
    pub cpu: u32,
    /// Process id of the current task.
    pub pid: u32,
    /// `comm` of the current task.
    pub comm: String,
    /// Where it happened.
    pub context: Context,
    /// The line that says why; empty where the kernel printed none.
    pub line: String,
    /// The kernel's monotonic clock when its hook fired, in nanoseconds;
    /// [`Self::LAST`] for a panic that only a record tells of.
    pub at_ns: u64,
    /// How long the kernel had been held when this was sent, in nanoseconds.
    pub held_ns: u64,
    /// Where it was held last, if it was.
    #[serde(default)]
    pub held_at: HoldPoint,
    /// Holds that ended by their limit before this was sent: what was printed
    /// before those may be missing.
    #[serde(default)]
    pub holds_expired: u8,
    /// Who asked for it, of an order or a crash by sysrq.
    #[serde(default)]
    pub asked: Option<Box<Asked>>,
    /// The packet, of a prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<Box<Packet>>,
}

impl Word {
    /// Later than everything: a record has no time by that clock, but a kernel
    /// that panicked said nothing after.
    pub const LAST: u64 = u64::MAX;

    /// What it comes to. An oops in an interrupt, or of the idle task, is a
    /// panic that has not been printed yet (`oops_end`, arm64 `die`,
    /// `make_task_dead`).
    pub fn outcome(&self) -> Notice {
        let killed = match self.context {
            Context::Softirq | Context::Hardirq | Context::Nmi => true,
            Context::Process => self.pid == 0,
            Context::Unknown => false,
        };
        match self.notice {
            Notice::Oops if killed => Notice::Panic,
            notice => notice,
        }
    }

    /// Whether the kernel cannot come back from it.
    pub fn is_final(&self) -> bool {
        self.outcome().is_final()
    }
}

/// Where a dying kernel waits for its words to get out. The number is the wire's.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[repr(u8)]
pub enum HoldPoint {
    /// Nowhere yet.
    #[default]
    None = 0,
    /// `__crash_kexec()`, before the other CPUs stop or a crash kernel takes over.
    CrashKexec = 1,
    /// `crash_smp_send_stop()`.
    CrashStop = 2,
    /// `native_stop_other_cpus()`, `smp_send_stop()`.
    StopOthers = 3,
    /// `machine_emergency_restart()`.
    Reset = 4,
    /// `kernel_restart()` and its like, before the devices go.
    Order = 5,
    /// `skb_segment()`, before a `BUG_ON` that is about to be hit.
    Prediction = 6,
}

impl HoldPoint {
    /// All points.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::CrashKexec,
        Self::CrashStop,
        Self::StopOthers,
        Self::Reset,
        Self::Order,
        Self::Prediction,
    ];

    /// The point with this number on the wire; any other is [`Self::None`].
    pub fn from_wire(number: u8) -> Self {
        let known = Self::ALL.into_iter().find(|p| *p as u8 == number);
        known.unwrap_or_default()
    }
}

/// What a kernel is doing when it speaks. The number is the wire's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[repr(u16)]
pub enum Notice {
    /// An oops or BUG(): the machine may live on (`oops_enter`, `die`).
    Oops = 1,
    /// `panic()`: it never returns.
    Panic = 2,
    /// Reboot without an orderly stop of the agent (`kernel_restart`).
    Restart = 3,
    /// Halt (`kernel_halt`).
    Halt = 4,
    /// Power off (`kernel_power_off`).
    PowerOff = 5,
    /// A new kernel takes over without firmware (`kernel_kexec`).
    Kexec = 6,
    /// Reboot at once, without shutting anything down (`emergency_restart`).
    EmergencyRestart = 7,
    /// A CPU that runs no other task for too long (`watchdog_timer_fn`).
    SoftLockup = 8,
    /// A task that waits uninterruptibly for too long (`sched_process_hang`).
    HungTask = 9,
    /// An RCU grace period that does not end (`rcu_stall_warning`).
    RcuStall = 10,
    /// The machine is out of memory (`oom_kill_process`).
    OutOfMemory = 11,
    /// A CPU that serves no interrupts for too long (`watchdog_hardlockup_check`).
    HardLockup = 12,
    /// A `BUG_ON` that is about to be hit, by all that is seen (`skb_segment`).
    Prediction = 13,
}

impl Notice {
    /// All notices.
    pub const ALL: [Self; 13] = [
        Self::Oops,
        Self::Panic,
        Self::Restart,
        Self::Halt,
        Self::PowerOff,
        Self::Kexec,
        Self::EmergencyRestart,
        Self::SoftLockup,
        Self::HungTask,
        Self::RcuStall,
        Self::OutOfMemory,
        Self::HardLockup,
        Self::Prediction,
    ];

    /// The notice with this number on the wire.
    pub fn from_wire(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|n| *n as u16 == number)
    }

    /// Whether the kernel cannot come back from it.
    pub fn is_final(self) -> bool {
        self == Self::Panic || self.is_order()
    }

    /// Whether somebody told the kernel to stop: it gives no reason of its own.
    pub fn is_order(self) -> bool {
        matches!(
            self,
            Self::Restart | Self::Halt | Self::PowerOff | Self::Kexec | Self::EmergencyRestart
        )
    }
}

/// The context a CPU was in, from `preempt_count`. The number is the wire's.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Context {
    /// Not known on this kernel.
    #[default]
    Unknown = 0,
    /// A process, or a kernel thread.
    Process = 1,
    /// A soft interrupt.
    Softirq = 2,
    /// A hard interrupt.
    Hardirq = 3,
    /// A non-maskable interrupt.
    Nmi = 4,
}

impl Context {
    /// All contexts.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Process,
        Self::Softirq,
        Self::Hardirq,
        Self::Nmi,
    ];

    /// The context with this number on the wire; any other is [`Self::Unknown`].
    pub fn from_wire(number: u8) -> Self {
        let known = Self::ALL.into_iter().find(|c| *c as u8 == number);
        known.unwrap_or_default()
    }
}

/// One line of the kernel's log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Position in the node's line ring since the agent attached: the same
    /// line has the same number however often it arrives.
    pub seq: u64,
    /// The kernel's monotonic clock when it was printed, in nanoseconds.
    pub mono_ns: u64,
    /// CPU that printed it.
    pub cpu: u16,
    /// Log level 0 to 7, or `None` where the call site gave none.
    pub level: Option<u8>,
    /// The line continues the one before it from the same CPU (`KERN_CONT`).
    pub continues: bool,
    /// The text, without level and time stamp. Any bytes the kernel printed,
    /// with invalid UTF-8 replaced.
    pub text: String,
}

/// A line of a log, and whether to believe it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// The line.
    #[serde(flatten)]
    pub line: Line,
    /// Only netconsole told it, which proves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
}
