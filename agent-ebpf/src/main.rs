//! The kernel side of lastgasp: one eBPF object.

#![no_std]
#![no_main]
// The macros of aya-ebpf make the entry points; what each is for stands above it.
#![allow(
    missing_docs,
    reason = "entry points are named by the probe that they are"
)]

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an endless loop: a program that can panic does not load.
    loop {}
}

/// What the program tells the kernel it is licensed under.
// SAFETY: the kernel reads this section by name and takes a C string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
