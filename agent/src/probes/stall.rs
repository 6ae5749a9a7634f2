//! Something stands still, and the kernel says so.

use crate::kernel::role::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "soft lockup",
        without: "a soft lockup that the machine survives is not reported",
        candidates: &[
            Candidate::new("fe_add_taint", How::Fentry, "add_taint"),
            Candidate::new("kp_add_taint", How::Kprobe, "add_taint"),
        ],
    },
    Role {
        name: "hung task",
        without: "a hung task that the machine survives is not reported",
        candidates: &[Candidate::new(
            "tp_sched_process_hang",
            How::TpBtf,
            "sched_process_hang",
        )],
    },
    Role {
        name: "RCU stall",
        without: "an RCU stall that the machine survives is not reported",
        candidates: &[
            Candidate::new("tp_rcu_stall_warning", How::TpBtf, "rcu_stall_warning"),
            Candidate::new(
                "fe_rcu_check_gp_kthread_starvation",
                How::Fentry,
                "rcu_check_gp_kthread_starvation",
            ),
            Candidate::new(
                "kp_rcu_check_gp_kthread_starvation",
                How::Kprobe,
                "rcu_check_gp_kthread_starvation",
            ),
        ],
    },
];
