//! The kernel side of `lastgasp trace`: an object of its own, so that what lives on every
//! node's crash path stays small, and so that each kernel that can trace takes it.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see count.rs")]

mod count;
#[path = "../kernel/dropped.rs"]
mod dropped;
#[path = "../probes/drops.rs"]
mod drops;
mod maps;
#[path = "../object.rs"]
mod object;
#[path = "../kernel/read.rs"]
mod read;
