//! The machine goes down on purpose, while nobody told the agent to stop.

use crate::kernel::role::{Candidate, How, Role};

macro_rules! role {
    ($name:literal, $function:literal, $fentry:literal, $kprobe:literal) => {
        Role {
            name: $name,
            without: concat!("a node that goes by ", $function, "() goes without a word"),
            candidates: &[
                Candidate::new($fentry, How::Fentry, $function),
                Candidate::new($kprobe, How::Kprobe, $function),
            ],
        }
    };
}

pub(super) const ROLES: &[Role] = &[
    role!(
        "restart",
        "kernel_restart",
        "fe_kernel_restart",
        "kp_kernel_restart"
    ),
    role!("halt", "kernel_halt", "fe_kernel_halt", "kp_kernel_halt"),
    role!(
        "power off",
        "kernel_power_off",
        "fe_kernel_power_off",
        "kp_kernel_power_off"
    ),
    role!(
        "kexec",
        "kernel_kexec",
        "fe_kernel_kexec",
        "kp_kernel_kexec"
    ),
    Role {
        name: "any shutdown",
        without: "a restart goes without a word where the compiler put kernel_restart() into \
                  its caller",
        candidates: &[
            Candidate::new("fe_device_shutdown", How::Fentry, "device_shutdown"),
            Candidate::new("kp_device_shutdown", How::Kprobe, "device_shutdown"),
        ],
    },
    role!(
        "emergency restart",
        "emergency_restart",
        "fe_emergency_restart",
        "kp_emergency_restart"
    ),
];
