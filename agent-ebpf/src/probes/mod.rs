//! One file a probe, with a thin entry for each way to attach it.

mod oom;
mod oops;
mod panic;
mod printk;
mod restart;
mod segment;
mod stall;
mod stop;
mod told;

/// An fentry and a kprobe program for the same body: `entries!(oops_enter =>
/// body())` gives `fe_oops_enter` and `kp_oops_enter`.
macro_rules! entries {
    ($($fentry:ident, $kprobe:ident => $body:expr;)*) => {$(
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(_context: aya_ebpf::programs::FEntryContext) -> i32 {
            $body;
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(_context: aya_ebpf::programs::ProbeContext) -> u32 {
            $body;
            0
        }
    )*};
}
use entries;
