//! The last points where other CPUs still run: here the kernel is held.

use agent_common::{hold as point, notice};
use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};

use crate::{emit, hold, maps::CONTROL};

/// `__crash_kexec(regs)` (kernel/kexec_core.c, kernel/crash_core.c): without
/// registers it is `panic()` that calls, and the other CPUs are stopped next.
/// With registers it is an oops that may yet be survived, unless a crash
/// kernel is loaded, which then takes over at once.
#[inline(always)]
fn crash_kexec(regs: u64) {
    if regs != 0 {
        let Some(control) = CONTROL.get_ptr(0) else {
            return;
        };
        // SAFETY: a map value; user space writes the field at any time.
        if unsafe { core::ptr::read_volatile(&raw const (*control).crash_kernel) } == 0 {
            return;
        }
        // panic() will never be called: this is the point of no return.
        emit::mark(notice::PANIC);
    }
    hold::until_acked(point::CRASH_KEXEC);
}

#[fentry]
pub fn fe_crash_kexec(context: FEntryContext) -> i32 {
    crash_kexec(context.arg::<*const u8>(0) as u64);
    0
}

#[kprobe]
pub fn kp_crash_kexec(context: ProbeContext) -> u32 {
    crash_kexec(context.arg::<u64>(0).unwrap_or(0));
    0
}

super::entries! {
    // With crash_kexec_post_notifiers the others stop here.
    fe_crash_smp_send_stop, kp_crash_smp_send_stop => hold::until_acked(point::CRASH_STOP);
    // Second line: whoever stops the others, on x86 and elsewhere.
    fe_native_stop_other_cpus, kp_smp_send_stop => hold::until_acked(point::STOP_OTHERS);
    fe_machine_emergency_restart, kp_machine_emergency_restart => hold::until_acked(point::RESET);
}
