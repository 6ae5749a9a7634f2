//! The datagrams of a dying node: how they are laid out ([`protocol`]), how
//! the dying path sends them ([`drain`]), what is said while all is well
//! ([`beacon`]), and how a collector takes them in.

pub mod beacon;
mod cause;
pub mod drain;
pub mod link;
pub mod protocol;
