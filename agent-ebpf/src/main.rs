//! The kernel side of lastgasp.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see atomic.rs")]

mod atomic;
mod emit;
mod hold;
mod kernel;
mod maps;
mod object;
mod probes;
mod told;
