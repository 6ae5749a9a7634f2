//! The datagrams of a dying node: how they are laid out ([`protocol`]), and
//! how a collector takes them in ([`receiver`]).

pub mod protocol;
