//! The machine goes down on purpose (kernel/reboot.c, kernel/kexec_core.c),
//! while nobody told the agent to stop. All of these come before
//! `device_shutdown`, after which there is no network.

use agent_common::notice;

use crate::{emit, hold};

#[inline(always)]
fn body(what: u16) {
    emit::mark(what);
    hold::until_acked(agent_common::hold::ORDER);
}

/// The compiler may put `kernel_restart` into the system call (5.10 does); all of
/// the others but `emergency_restart` come here too. One that was put there as well
/// would be called a restart.
#[inline(always)]
fn shutdown() {
    if !emit::is_final() {
        body(notice::RESTART);
    }
}

super::entries! {
    fe_kernel_restart, kp_kernel_restart => body(notice::RESTART);
    fe_kernel_halt, kp_kernel_halt => body(notice::HALT);
    fe_kernel_power_off, kp_kernel_power_off => body(notice::POWER_OFF);
    fe_kernel_kexec, kp_kernel_kexec => body(notice::KEXEC);
    fe_device_shutdown, kp_device_shutdown => shutdown();
    fe_emergency_restart, kp_emergency_restart => body(notice::EMERGENCY_RESTART);
}
