//! Every map and every global, declared once.

use agent_common::{Control, RING_SLOTS, Slot};
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
global!(verbose, VERBOSE, u32);
