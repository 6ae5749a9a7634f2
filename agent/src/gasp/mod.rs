//! The datagrams of a dying node: how they are laid out ([`protocol`]), and
//! how a collector takes them in ([`receiver`]).

pub(crate) mod bounded;
pub mod counters;
pub mod protocol;
mod reassembly;
pub mod receiver;
mod replay;
