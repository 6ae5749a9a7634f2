//! The machine is out of memory.

use crate::kernel::role::{Candidate, How, Role, Thing};

pub(super) const ROLES: &[Role] = &[Role {
    name: "out of memory",
    without: "that the machine, not only a container, ran out of memory is not reported",
    candidates: &[Candidate {
        only_with: Some((
            Thing::Struct("oom_control"),
            "this kernel does not tell whose limit was reached",
        )),
        ..Candidate::new("fe_oom_kill_process", How::Fentry, "oom_kill_process")
    }],
}];
