//! The datagrams of a dying node: how they are laid out ([`protocol`]), how
//! the dying path sends them ([`drain`]), what is said while all is well
//! ([`beacon`]), and how a collector takes them in ([`receiver`]).

pub mod advice;
pub mod beacon;
pub(crate) mod bounded;
mod cause;
pub mod counters;
pub mod drain;
pub(crate) mod drops;
pub(crate) mod inlet;
pub(crate) mod limiter;
pub mod link;
pub mod protocol;
pub mod queue;
mod reassembly;
pub mod receipt;
pub mod receiver;
mod replay;
pub(crate) mod text;
