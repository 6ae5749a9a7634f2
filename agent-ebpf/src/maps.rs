//! Every map and every global, declared once.

use agent_common::{
    Control, RING_SLOTS, Slot,
    asked::{MEANS, TOLD_ENTRIES, Told},
    segment::Segments,
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
pub const PAD_HALF: u32 = 128 * 1024;

/// What a hold has the kernel copy, to pass time.
#[cfg(feature = "basic")]
#[map]
pub static PAD: Array<[u8; 2 * PAD_HALF as usize]> = Array::with_max_entries(1, 0);

/// Who told last, by each means.
#[map]
pub static TOLD: Array<Told> = Array::with_max_entries(TOLD_ENTRIES, MMAPABLE);

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
    /// `facility`.
    pub facility: u64,
    /// `flags`.
    pub flags: u64,
    /// `fmt`.
    pub format: u64,
    /// `args`.
    pub arguments: u64,
}

/// What was seen of packets that are taken apart, in memory that user space maps: an entry a
/// CPU, of which user space knows the number.
#[map]
pub static SEGMENTS: Array<Segments> = Array::with_max_entries(1, MMAPABLE);

/// When the last one was foretold (`bpf_ktime_get_ns`).
#[map]
pub static FORESEEN: Array<u64> = Array::with_max_entries(1, 0);

/// Globals that user space sets before it loads the object, and what reads them.
macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident, $static:ident: $type:ty;)*) => {$(
        #[unsafe(no_mangle)]
        static $static: $type = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: a static of this object; volatile because its value is
            // put there after compilation.
            unsafe { core::ptr::read_volatile(&raw const $static) }
        }
    )*};
}

globals! {
    /// Address of `textbuf` in `vprintk_store()`, or zero if there is none.
    printk_text, PRINTK_TEXT: u64;
    /// Offset of `buffer` in `struct printk_safe_seq_buf`, or zero if there is none.
    printk_aside, PRINTK_ASIDE: u64;
    /// Address of the kernel's `__per_cpu_offset`, or zero if not known.
    per_cpu_offsets, PER_CPU_OFFSETS: u64;
    /// Offset of the preempt count within a CPU's area, or zero if not known.
    preempt_count, PREEMPT_COUNT: u64;
    /// Offset of the preempt count in `struct task_struct`, where it is there.
    preempt_in_task, PREEMPT_IN_TASK: u64;
    /// Where in the preempt count the depth of hard interrupts begins.
    hardirq_shift, HARDIRQ_SHIFT: u64;
    /// Offset of `memcg` in `struct oom_control`, or zero if not known.
    oom_memcg, OOM_MEMCG: u64;
    /// Offset of `tgid` in `struct task_struct`, or zero if not known.
    task_tgid, TASK_TGID: u64;
    /// Offset of `comm` in `struct task_struct`, or zero if not known.
    task_comm, TASK_COMM: u64;
    /// Offset of `group_leader` in `struct task_struct`, or zero if not known.
    task_leader, TASK_LEADER: u64;
    /// Offset of `real_parent` in `struct task_struct`, or zero if not known.
    task_parent, TASK_PARENT: u64;
    /// Offset of `cgroups` in `struct task_struct`, or zero if not known.
    task_cgroups, TASK_CGROUPS: u64;
    /// Offset of `thread_pid` in `struct task_struct`, or zero if not known.
    task_thread_pid, TASK_THREAD_PID: u64;
    /// Offset of `mm` in `struct task_struct`, or zero if not known.
    task_memory, TASK_MEMORY: u64;
    /// Offset of `level` in `struct pid`, or zero if not known.
    pid_level, PID_LEVEL: u64;
    /// Offset of `arg_start` in `struct mm_struct`, or zero if not known.
    memory_arg_start, MEMORY_ARG_START: u64;
    /// Offset of `arg_end` in `struct mm_struct`, or zero if not known.
    memory_arg_end, MEMORY_ARG_END: u64;
    /// Offset of `dfl_cgrp` in `struct css_set`, or zero if not known.
    css_set_cgroup, CSS_SET_CGROUP: u64;
    /// Offset of `kn` in `struct cgroup`, or zero if not known.
    cgroup_kernfs, CGROUP_KERNFS: u64;
    /// Offset of `len` in `struct sk_buff`. This and all that is not said to be unknown
    /// sometimes is known wherever it is read.
    skb_len, SKB_LEN: u64;
    /// Offset of `data_len` in `struct sk_buff`.
    skb_data_len, SKB_DATA_LEN: u64;
    /// Offset of `head_frag` in `struct sk_buff`, in bits.
    skb_head_frag, SKB_HEAD_FRAG: u64;
    /// Offset of `protocol` in `struct sk_buff`.
    skb_protocol, SKB_PROTOCOL: u64;
    /// Offset of `head` in `struct sk_buff`.
    skb_head, SKB_HEAD: u64;
    /// Offset of `end` in `struct sk_buff`.
    skb_end, SKB_END: u64;
    /// Offset of `dev` in `struct sk_buff`.
    skb_device, SKB_DEVICE: u64;
    /// Offset of `sk` in `struct sk_buff`.
    skb_socket, SKB_SOCKET: u64;
    /// Offset of `nr_frags` in `struct skb_shared_info`.
    shared_frags, SHARED_FRAGS: u64;
    /// Offset of `gso_size` in `struct skb_shared_info`.
    shared_size, SHARED_SIZE: u64;
    /// Offset of `gso_type` in `struct skb_shared_info`.
    shared_kind, SHARED_KIND: u64;
    /// Offset of `frag_list` in `struct skb_shared_info`.
    shared_list, SHARED_LIST: u64;
    /// Offset of `name` in `struct net_device`; may be zero.
    device_name, DEVICE_NAME: u64;
    /// Offset of `ifindex` in `struct net_device`.
    device_index, DEVICE_INDEX: u64;
    /// Offset of `nd_net` in `struct net_device`.
    device_net, DEVICE_NET: u64;
    /// Offset of `ns.inum` in `struct net`.
    net_number, NET_NUMBER: u64;
    /// Offset of `dev.parent` in `struct net_device`, or zero if not known.
    device_parent, DEVICE_PARENT: u64;
    /// Offset of `driver` in `struct device`, or zero if not known.
    device_driver, DEVICE_DRIVER: u64;
    /// Offset of `rtnl_link_ops` in `struct net_device`, or zero if not known.
    device_link, DEVICE_LINK: u64;
    /// Offset of `kind` in `struct rtnl_link_ops`, or zero if not known.
    link_kind, LINK_KIND: u64;
    /// Offset of `sk_cgrp_data.cgroup` in `struct sock`, or zero if not known.
    socket_cgroup, SOCKET_CGROUP: u64;
    /// Offset of `name` in `struct kernfs_node`, or zero if not known.
    kernfs_name, KERNFS_NAME: u64;
    /// Offset of its parent in `struct kernfs_node`, or zero if not known.
    kernfs_parent, KERNFS_PARENT: u64;
    /// One to log the programs' own trouble through aya-log.
    verbose, VERBOSE: u32;
}
