//! What must be seen, and the ways to see it: one file a probe, of the same
//! name as its kernel side in `agent-ebpf/src/probes/`.

pub mod drops;
mod oom;
mod oops;
mod panic;
mod printk;
mod restart;
pub mod segment;
mod stall;
mod stop;
mod told;

use crate::kernel::role::Role;

/// Every role, in the order in which they are attached: words before hooks, so
/// that the history has begun when the first hook fires.
pub static ALL: &[&[Role]] = &[
    printk::ROLES,
    oops::ROLES,
    panic::ROLES,
    stop::ROLES,
    told::ROLES,
    restart::ROLES,
    stall::ROLES,
    oom::ROLES,
    segment::ROLES,
];

/// Every role, flat.
pub fn roles() -> Vec<&'static Role> {
    ALL.iter().flat_map(|roles| roles.iter()).collect()
}
