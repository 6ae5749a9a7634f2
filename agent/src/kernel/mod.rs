//! The kernel's side of things: eBPF, mapped memory, sockets below UDP,
//! scheduling, capabilities. The only room of the agent with `unsafe`.

#![allow(unsafe_code, reason = "this room is where system calls are made")]

pub mod addresses;
pub mod attach;
pub mod btf;
pub mod caps;
pub mod drops;
mod fits;
pub mod packet;
pub mod ring;
pub mod role;
pub mod sched;
pub mod segments;
pub mod symbols;
pub mod told;
pub mod udp;
