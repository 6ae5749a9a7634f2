//! An oops begins.

use crate::kernel::role::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[Role {
    name: "oops",
    without: "an oops that the machine survives is not reported; others wait for the panic",
    candidates: &[
        Candidate::new("fe_oops_enter", How::Fentry, "oops_enter"),
        Candidate::new("kp_oops_enter", How::Kprobe, "oops_enter"),
    ],
}];
