//! Something stands still, and the kernel says so; mostly it lives on. If it
//! is then reset by a watchdog, this report is all that there will ever be.
//!
//! A hard lockup has no hook at all: `printk.rs` knows its line.
//! A soft lockup has no function of its own: once `watchdog_timer_fn`
//! (kernel/watchdog.c) has printed one it taints the kernel.
//! `sched_process_hang` is called by `check_hung_task` (kernel/hung_task.c), and
//! `rcu_stall_warning` where a stall is printed (kernel/rcu/tree_stall.h, 5.15
//! on), and `rcu_check_gp_kthread_starvation` a little further down.

use agent_common::notice;
use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};

use crate::emit;

/// include/linux/panic.h.
const TAINT_SOFTLOCKUP: u32 = 14;

/// `void add_taint(unsigned flag, enum lockdep_ok)` (kernel/panic.c).
#[inline(always)]
fn add_taint(flag: u32) {
    if flag == TAINT_SOFTLOCKUP {
        emit::mark(notice::SOFT_LOCKUP);
    }
}

#[fentry]
pub fn fe_add_taint(context: FEntryContext) -> i32 {
    add_taint(context.arg(0));
    0
}

#[kprobe]
pub fn kp_add_taint(context: ProbeContext) -> u32 {
    add_taint(context.arg(0).unwrap_or(0));
    0
}

#[btf_tracepoint]
pub fn tp_sched_process_hang(_context: BtfTracePointContext) -> i32 {
    emit::mark(notice::HUNG_TASK);
    0
}

super::entries! {
    fe_rcu_check_gp_kthread_starvation, kp_rcu_check_gp_kthread_starvation =>
        emit::mark(notice::RCU_STALL);
}

#[btf_tracepoint]
pub fn tp_rcu_stall_warning(_context: BtfTracePointContext) -> i32 {
    emit::mark(notice::RCU_STALL);
    0
}
