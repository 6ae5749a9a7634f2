//! What this machine is: its names, what it is made of, its ways out.

mod disk;
pub mod identity;
pub mod inventory;
pub mod leftovers;
pub mod marker;
pub mod mitigate;
pub mod netconsole;
pub mod netns;
pub mod uplink;
