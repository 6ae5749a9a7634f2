//! `panic()` begins.

use crate::kernel::role::{Candidate, How, Role};

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "panic",
        without: "a panic that is no oops is not declared",
        candidates: &[
            Candidate::new("fe_vpanic", How::Fentry, "vpanic"),
            Candidate::new("kp_panic", How::Kprobe, "panic"),
        ],
    },
    Role {
        name: "panic in an NMI",
        without: "a panic in an NMI that hit a kprobe is declared late",
        candidates: &[
            Candidate::new("fe_nmi_panic", How::Fentry, "nmi_panic"),
            Candidate::new("kp_nmi_panic", How::Kprobe, "nmi_panic"),
        ],
    },
];
