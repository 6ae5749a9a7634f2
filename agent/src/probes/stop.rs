//! The points where the kernel is held.

use crate::kernel::role::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "hold before the others stop",
        without: "what is not out when the other CPUs stop is lost",
        candidates: &[
            Candidate::new("fe_crash_kexec", How::Fentry, "__crash_kexec"),
            Candidate::new("kp_crash_kexec", How::Kprobe, "__crash_kexec"),
        ],
    },
    Role {
        name: "hold, notifiers first",
        without: "with crash_kexec_post_notifiers the end of a log may be lost",
        candidates: &[
            Candidate::new("fe_crash_smp_send_stop", How::Fentry, "crash_smp_send_stop"),
            Candidate::new("kp_crash_smp_send_stop", How::Kprobe, "crash_smp_send_stop"),
        ],
    },
    Role {
        name: "hold, second line",
        without: "lines printed after the first hold are lost",
        candidates: &[
            Candidate::new(
                "fe_native_stop_other_cpus",
                How::Fentry,
                "native_stop_other_cpus",
            ),
            Candidate::new("kp_smp_send_stop", How::Kprobe, "smp_send_stop"),
        ],
    },
    Role {
        name: "hold before the reset",
        without: "sysrq-b may outrun its words",
        candidates: &[
            Candidate::new(
                "fe_machine_emergency_restart",
                How::Fentry,
                "machine_emergency_restart",
            ),
            Candidate::new(
                "kp_machine_emergency_restart",
                How::Kprobe,
                "machine_emergency_restart",
            ),
            // Where there is no other way to reset (arm64).
            Candidate::new(
                "kp_machine_emergency_restart",
                How::Kprobe,
                "machine_restart",
            ),
        ],
    },
];
