//! The ways that evidence leaves a node: one file each turns what was received
//! into evidence.

pub mod gasp;
pub mod netconsole;
pub mod record;
