//! Who asked for an end: in the text of a mark, and kept beforehand of those who
//! tell a service manager to stop the machine.
//!
//! Texts end at their first zero byte, or where their field does.

use crate::COMM_MAX;

/// Most parents of a process that are named.
pub const PARENTS_MAX: usize = 3;

/// Most cgroups that are named: a process's own, then those around it. A pod's is
/// the one around its container's, also for who made one of its own inside.
pub const CGROUPS_MAX: usize = 3;

/// Longest name of a cgroup, in bytes; a container's has 64 digits and some words.
pub const CGROUP_MAX: usize = 96;

/// Longest command line, in bytes; arguments end in a zero byte.
pub const COMMAND_MAX: usize = 64;

/// [`Told`]s kept of each of [`means`].
pub const TOLD_SLOTS: u32 = 4;

/// All of them: those of a number begin at that number times [`TOLD_SLOTS`].
pub const TOLD_ENTRIES: u32 = MEANS * TOLD_SLOTS;

/// How many [`means`] there are, and the number zero, which none has.
pub const MEANS: u32 = means::LAST as u32 + 1;

/// A service manager that was told this long ago, in nanoseconds, may have taken so
/// long to stop everything else.
pub const PATIENCE_NS: u64 = 10 * 60 * 1_000_000_000;

/// How somebody told. The numbers are also those of the gasp protocol.
pub mod means {
    /// A signal to PID 1.
    pub const SIGNAL: u8 = 1;
    /// A command that asks for it was started.
    pub const COMMAND: u8 = 2;
    /// sysrq.
    pub const SYSRQ: u8 = 3;

    /// The highest of them.
    pub const LAST: u8 = SYSRQ;
}

/// A process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Process id, or zero: there is none.
    pub pid: u32,
    /// Its name, which is that of its first thread.
    pub comm: [u8; COMM_MAX],
}

/// A process and where it belongs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Itself. Of no process: the kernel by itself, or a key.
    pub process: Process,
    /// Its user id.
    pub uid: u32,
    /// Who started it, and who started that one.
    pub parents: [Process; PARENTS_MAX],
    /// Names of its cgroups, its own first; empty where not known.
    pub cgroups: [[u8; CGROUP_MAX]; CGROUPS_MAX],
}

/// Somebody told.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When (`bpf_ktime_get_ns`), or zero: nobody did. Written last.
    pub at_ns: u64,
    /// One of [`means`].
    pub means: u8,
    /// The number of the signal, or the sysrq key.
    pub number: u8,
    /// Valid bytes of `command`.
    pub command_len: u16,
    /// Who did.
    pub by: Asker,
    /// The command line, for [`means::COMMAND`].
    pub command: [u8; COMMAND_MAX],
}

/// The text of a mark with [`crate::Slot::asked`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Who had told the one that asked, if it acts for others.
    pub told: Told,
    /// Who asked the kernel.
    pub by: Asker,
}

const _: () = assert!(size_of::<Asked>() <= crate::TEXT_MAX);
const _: () = assert!(core::mem::offset_of!(crate::Slot, text) % align_of::<Asked>() == 0);
