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

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: only the loader reads this symbol, as bytes.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
