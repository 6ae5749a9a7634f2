//! The machine is out of memory.

use crate::kernel::role::{Candidate, How, Role, Thing};

const ONLY_WITH: (Thing, &str) = (
    Thing::Struct("oom_control"),
    "this kernel does not tell whose limit was reached",
);

pub(super) const ROLES: &[Role] = &[Role {
    name: "out of memory",
    without: "that the machine, not only a container, ran out of memory is not reported",
    candidates: &[
        Candidate {
            only_with: Some(ONLY_WITH),
            ..Candidate::new("fe_oom_kill_process", How::Fentry, "oom_kill_process")
        },
        Candidate {
            only_with: Some(ONLY_WITH),
            ..Candidate::new("kp_oom_kill_process", How::Kprobe, "oom_kill_process")
        },
    ],
}];
