//! The machine is out of memory and a process is about to be killed for it
//! (`oom_kill_process`, mm/oom_kill.c). With `panic_on_oom` the panic follows by
//! another way.

use agent_common::notice;
use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};

use crate::{emit, kernel::oom};

/// `void oom_kill_process(struct oom_control *oc, const char *message)`
#[inline(always)]
fn oom_kill_process(control: u64) {
    // A container at its own limit is Kubernetes' daily bread, not the node's end.
    if oom::is_of_the_machine(control) {
        emit::mark(notice::OUT_OF_MEMORY);
    }
}

#[fentry]
pub fn fe_oom_kill_process(context: FEntryContext) -> i32 {
    oom_kill_process(context.arg::<*const u8>(0) as u64);
    0
}

#[kprobe]
pub fn kp_oom_kill_process(context: ProbeContext) -> u32 {
    oom_kill_process(context.arg(0).unwrap_or(0));
    0
}
