//! The wire between the eBPF object and the agent: layouts and numbers.
//!
//! Two pieces of memory are shared, both BPF arrays that user space maps:
//! one [`Control`] page and a ring of [`RING_SLOTS`] [`Slot`]s. No Rust enum,
//! `bool` or `Option` crosses: numbers do, and each side checks what it reads.
//!
//! Why not `BPF_MAP_TYPE_RINGBUF` for the log: a CPU that dies inside a record
//! leaves it uncommitted for ever, and the consumer may not pass it. Here each
//! slot is published on its own, so what a dead CPU left half-written is one
//! lost line. The same memory is the rolling history: nothing has to be copied
//! when a death is declared.

#![no_std]
#![forbid(unsafe_code)]

pub mod asked;
pub mod drops;
pub mod hold;
pub mod segment;

/// Slots in the ring; a power of two.
pub const RING_SLOTS: u32 = 2048;

/// Most drain threads.
pub const SENDERS: usize = 2;

/// Longest text of a slot, in bytes. printk lines end at `PRINTKRB_RECORD_MAX`
/// (1024) less their prefix (`kernel/printk/printk.c`).
pub const TEXT_MAX: usize = 976;

/// Length of `task_struct::comm`, in bytes.
pub const COMM_MAX: usize = 16;

/// [`Slot::kind`]: a line of the kernel log.
pub const KIND_LINE: u16 = 1;
/// [`Slot::kind`]: a hook of the crash path fired.
pub const KIND_MARK: u16 = 2;

/// [`Slot::level`]: the call site gave no level.
pub const LEVEL_UNKNOWN: u8 = 255;

/// [`Slot::flags`]: the line continues the one before it (`LOG_CONT`).
pub const FLAG_CONTINUES: u8 = 1;
/// [`Slot::flags`]: the line ended with a newline (`LOG_NEWLINE`).
pub const FLAG_NEWLINE: u8 = 2;

/// [`Slot::context`]: not known on this kernel.
pub const CONTEXT_UNKNOWN: u8 = 0;
/// [`Slot::context`]: a process or kernel thread.
pub const CONTEXT_PROCESS: u8 = 1;
/// [`Slot::context`]: a soft interrupt.
pub const CONTEXT_SOFTIRQ: u8 = 2;
/// [`Slot::context`]: a hard interrupt.
pub const CONTEXT_HARDIRQ: u8 = 3;
/// [`Slot::context`]: a non-maskable interrupt.
pub const CONTEXT_NMI: u8 = 4;

/// [`Slot::detail`]: an [`asked::Asked`].
pub const DETAIL_ASKED: u8 = 1;
/// [`Slot::detail`]: a [`segment::Packet`].
pub const DETAIL_PACKET: u8 = 2;

/// What a mark announces. The numbers are also those of the gasp protocol.
pub mod notice {
    /// An oops or `BUG()`; the machine may live on.
    pub const OOPS: u16 = 1;
    /// `panic()`.
    pub const PANIC: u16 = 2;
    /// `kernel_restart()`.
    pub const RESTART: u16 = 3;
    /// `kernel_halt()`.
    pub const HALT: u16 = 4;
    /// `kernel_power_off()`.
    pub const POWER_OFF: u16 = 5;
    /// `kernel_kexec()`.
    pub const KEXEC: u16 = 6;
    /// `emergency_restart()`.
    pub const EMERGENCY_RESTART: u16 = 7;
    /// A CPU that runs no other task for too long; the machine may live on.
    pub const SOFT_LOCKUP: u16 = 8;
    /// A task that waits uninterruptibly for too long; likewise.
    pub const HUNG_TASK: u16 = 9;
    /// An RCU grace period that does not end; likewise.
    pub const RCU_STALL: u16 = 10;
    /// The machine, not a control group, is out of memory; likewise.
    pub const OUT_OF_MEMORY: u16 = 11;
    /// A CPU that serves no interrupts for too long; likewise.
    pub const HARD_LOCKUP: u16 = 12;

    /// A `BUG_ON` is about to be hit, by all that is seen; the machine may live on.
    pub const PREDICTION: u16 = 13;

    /// Whether somebody told the kernel to stop.
    pub const fn is_order(notice: u16) -> bool {
        matches!(notice, RESTART..=EMERGENCY_RESTART)
    }

    /// Whether there is no way back from it.
    pub const fn is_final(notice: u16) -> bool {
        matches!(notice, PANIC..=EMERGENCY_RESTART)
    }
}

/// One entry of the ring.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot {
    /// The entry's sequence number plus one, written last. Any other value: the
    /// entry is being written, or was overwritten.
    pub published: u64,
    /// `bpf_ktime_get_ns()`, nanoseconds since boot without suspend.
    pub mono_ns: u64,
    /// `KIND_*`.
    pub kind: u16,
    /// CPU that wrote it.
    pub cpu: u16,
    /// Valid bytes of `text`.
    pub len: u16,
    /// For a mark: one of [`notice`]; zero otherwise.
    pub notice: u16,
    /// For a line: log level 0 to 7, or [`LEVEL_UNKNOWN`].
    pub level: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// `CONTEXT_*`; only marks know it.
    pub context: u8,
    /// For a mark: what its text is, one of `DETAIL_*`; zero: it has none.
    pub detail: u8,
    /// Process id (tgid) of the current task.
    pub pid: u32,
    /// `comm` of the current task, NUL-padded; only marks carry it.
    pub comm: [u8; COMM_MAX],
    /// The line, without its level prefix.
    pub text: [u8; TEXT_MAX],
}

const _: () = assert!(size_of::<Slot>() == 1024);
const _: () = assert!(RING_SLOTS.is_power_of_two());

/// What both sides know of the death at hand. One page.
///
/// The first two cache lines are written by the kernel side, the last by user
/// space; neither writes the other's, but for [`Control::hold_used_ns`], which
/// user space sets to zero when a death turned out to be none.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Control {
    /// Sequence number of the next slot.
    pub head: u64,
    /// Sequence number plus one of the mark that declared the present death;
    /// at most [`Control::cleared`] while nothing dies.
    pub declared: u64,
    /// Sequence number plus one of the mark after which there is no way back.
    pub fatal: u64,
    /// CPU of the last mark.
    pub dying_cpu: u64,
    /// Lines that could not be read from the kernel.
    pub unreadable: u64,
    /// Nanoseconds spent in holds for the present death.
    pub hold_used_ns: u64,
    /// When the hold that now waits began (`bpf_ktime_get_ns`), or zero.
    pub hold_since_ns: u64,
    /// Holds that ended by their limit, not by an acknowledgement.
    pub holds_expired: u64,
    /// The last of [`hold`] that waited, or zero.
    pub hold_point: u64,
    /// One once the other CPUs are about to be stopped: no drain thread begins
    /// to send any more. Whoever is stopped in a driver holds its locks for ever,
    /// and netconsole waits for them (`netpoll_poll_dev`, net/core/netpoll.c).
    pub closed: u64,
    /// Zero.
    pub reserved_kernel: [u64; 6],

    /// Everything below this sequence number has left the machine.
    pub acked: u64,
    /// Deaths declared up to here are over: the kernel lived on.
    pub cleared: u64,
    /// Most nanoseconds that one death may be held for; zero: never hold.
    pub hold_max_ns: u64,
    /// One while a crash kernel is loaded (`/sys/kernel/kexec_crash_loaded`).
    pub crash_kernel: u64,
    /// The drain threads that are sending, a bit each.
    pub sending: u64,
    /// The CPU of each plus one; zero: it has none of its own.
    pub sender_cpus: [u64; SENDERS],
    /// Zero.
    pub reserved: [u64; 1],
}

const _: () = assert!(size_of::<Control>() == 192);
