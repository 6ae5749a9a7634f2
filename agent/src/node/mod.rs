//! What this machine is: its names, what it is made of, its ways out.

pub mod identity;
pub mod inventory;
pub mod marker;
pub mod uplink;
