//! Every map and every global, declared once.

use agent_common::{
    Control, RING_SLOTS, Slot,
    asked::{TOLD_SLOTS, Told, means},
};
use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// The one [`Control`].
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// The crash ring, which is also the history.
#[map]
pub static RING: Array<Slot> = Array::with_max_entries(RING_SLOTS, MMAPABLE);

/// Wakes the first drain thread, where interrupts still run. Its content
/// means nothing.
#[map]
pub static BELL_A: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Wakes the second drain thread.
#[map]
pub static BELL_B: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Half of [`PAD`], in bytes: a power of two.
#[cfg(feature = "basic")]
pub const PAD_HALF: u32 = 64 * 1024;

/// What a hold has the kernel copy, to pass time.
#[cfg(feature = "basic")]
#[map]
pub static PAD: Array<[u8; 2 * PAD_HALF as usize]> = Array::with_max_entries(1, 0);

/// Means by which somebody may tell, and the number that none has.
const MEANS: u32 = means::LAST as u32 + 1;

/// Who told last, by each means.
#[map]
pub static TOLD: Array<Told> = Array::with_max_entries(MEANS * TOLD_SLOTS, 0);

/// How many have, by each means.
#[map]
pub static TOLD_NEXT: Array<u64> = Array::with_max_entries(MEANS, 0);

/// What `printk_sprint` is about to write, between its entry and its return. An
/// NMI in between takes the place: that costs the line it interrupted.
#[map]
pub static SPRINT: PerCpuArray<Sprint> = PerCpuArray::with_max_entries(1, 0);

/// Addresses of its arguments.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sprint {
    /// `text`, or zero.
    pub text: u64,
    /// `flags`.
    pub flags: u64,
    /// `fmt`.
    pub format: u64,
    /// `args`.
    pub arguments: u64,
}

/// Address of `textbuf` in `vprintk_store()`, or zero if there is none.
#[unsafe(no_mangle)]
static PRINTK_TEXT: u64 = 0;

/// Offset of `buffer` in `struct printk_safe_seq_buf`, or zero if there is none.
#[unsafe(no_mangle)]
static PRINTK_ASIDE: u64 = 0;

/// Address of the kernel's `__per_cpu_offset`, or zero if not known.
#[unsafe(no_mangle)]
static PER_CPU_OFFSETS: u64 = 0;

/// Offset of the preempt count within a CPU's area, or zero if not known.
#[unsafe(no_mangle)]
static PREEMPT_COUNT: u64 = 0;

/// Offset of the preempt count in `struct task_struct`, where it is there.
#[unsafe(no_mangle)]
static PREEMPT_IN_TASK: u64 = 0;

/// Where in the preempt count the depth of hard interrupts begins.
#[unsafe(no_mangle)]
static HARDIRQ_SHIFT: u64 = 0;

/// Offset of `memcg` in `struct oom_control`, or zero if not known.
#[unsafe(no_mangle)]
static OOM_MEMCG: u64 = 0;

/// Offset of `tgid` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_TGID: u64 = 0;

/// Offset of `comm` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_COMM: u64 = 0;

/// Offset of `group_leader` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_LEADER: u64 = 0;

/// Offset of `real_parent` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_PARENT: u64 = 0;

/// Offset of `cgroups` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_CGROUPS: u64 = 0;

/// Offset of `thread_pid` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_PID: u64 = 0;

/// Offset of `mm` in `struct task_struct`, or zero if not known.
#[unsafe(no_mangle)]
static TASK_MEMORY: u64 = 0;

/// Offset of `level` in `struct pid`, or zero if not known.
#[unsafe(no_mangle)]
static PID_LEVEL: u64 = 0;

/// Offset of `arg_start` in `struct mm_struct`, or zero if not known.
#[unsafe(no_mangle)]
static MEMORY_ARG_START: u64 = 0;

/// Offset of `arg_end` in `struct mm_struct`, or zero if not known.
#[unsafe(no_mangle)]
static MEMORY_ARG_END: u64 = 0;

/// Offset of `dfl_cgrp` in `struct css_set`, or zero if not known.
#[unsafe(no_mangle)]
static CSS_SET_CGROUP: u64 = 0;

/// Offset of `kn` in `struct cgroup`, or zero if not known.
#[unsafe(no_mangle)]
static CGROUP_NODE: u64 = 0;

/// Offset of `name` in `struct kernfs_node`, or zero if not known.
#[unsafe(no_mangle)]
static NODE_NAME: u64 = 0;

/// Offset of its parent in `struct kernfs_node`, or zero if not known.
#[unsafe(no_mangle)]
static NODE_PARENT: u64 = 0;

/// One to log the programs' own trouble through aya-log.
#[unsafe(no_mangle)]
static VERBOSE: u32 = 0;

/// A global that user space set before it loaded the object.
macro_rules! global {
    ($name:ident, $static:ident, $type:ty) => {
        #[doc = concat!("What user space put into `", stringify!($static), "`.")]
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: a static of this object; volatile because its value is
            // put there after compilation.
            unsafe { core::ptr::read_volatile(&raw const $static) }
        }
    };
}

global!(printk_text, PRINTK_TEXT, u64);
global!(printk_aside, PRINTK_ASIDE, u64);
global!(per_cpu_offsets, PER_CPU_OFFSETS, u64);
global!(preempt_count, PREEMPT_COUNT, u64);
global!(preempt_in_task, PREEMPT_IN_TASK, u64);
global!(hardirq_shift, HARDIRQ_SHIFT, u64);
global!(oom_memcg, OOM_MEMCG, u64);
global!(task_tgid, TASK_TGID, u64);
global!(task_comm, TASK_COMM, u64);
global!(task_leader, TASK_LEADER, u64);
global!(task_parent, TASK_PARENT, u64);
global!(task_cgroups, TASK_CGROUPS, u64);
global!(task_pid, TASK_PID, u64);
global!(task_memory, TASK_MEMORY, u64);
global!(pid_level, PID_LEVEL, u64);
global!(memory_arg_start, MEMORY_ARG_START, u64);
global!(memory_arg_end, MEMORY_ARG_END, u64);
global!(css_set_cgroup, CSS_SET_CGROUP, u64);
global!(cgroup_node, CGROUP_NODE, u64);
global!(node_name, NODE_NAME, u64);
global!(node_parent, NODE_PARENT, u64);
global!(verbose, VERBOSE, u32);
