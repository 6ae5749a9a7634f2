//! Who told a service manager, or the kernel by sysrq, to stop the machine.

use crate::kernel::role::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "signals to init",
        without: "of a restart by the service manager it is not known whose signal told it to",
        candidates: &[Candidate::new(
            "tp_signal_generate",
            How::TpBtf,
            "signal_generate",
        )],
    },
    Role {
        name: "commands to stop",
        without: "of a restart by the service manager it is not known who ran `reboot` before",
        candidates: &[Candidate::new(
            "tp_sched_process_exec",
            How::TpBtf,
            "sched_process_exec",
        )],
    },
    Role {
        name: "sysrq",
        without: "of a crash or power off by sysrq it is not known who asked for it",
        candidates: &[
            Candidate::new("fe_handle_sysrq", How::Fentry, "__handle_sysrq"),
            Candidate::new("kp_handle_sysrq", How::Kprobe, "__handle_sysrq"),
        ],
    },
];
