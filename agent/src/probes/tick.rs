//! The clock ticks that wake the drain threads once a death is declared.

use crate::kernel::attach::{Candidate, How, Role};

const WITHOUT: &str =
    "its drain thread wakes every few milliseconds to look by itself, which costs more";

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "tick of the first drain thread",
        without: WITHOUT,
        candidates: &[Candidate::new("pe_tick_a", How::CpuClock(0), "cpu-clock")],
    },
    Role {
        name: "tick of the second drain thread",
        without: WITHOUT,
        candidates: &[Candidate::new("pe_tick_b", How::CpuClock(1), "cpu-clock")],
    },
];
