//! The only code here that knows what kernel memory looks like.

pub mod cgroup;
pub mod oom;
pub mod packet;
pub mod preempt;
pub mod printk;
mod read;
mod stack;
pub mod task;

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// What lies at `offset` behind `address`; `None` where either is not known.
#[inline(always)]
fn field<T>(address: u64, offset: u64) -> Option<T> {
    if address == 0 || offset == 0 {
        return None;
    }
    // SAFETY: the helper fails, rather than faults, on a bad address.
    unsafe { bpf_probe_read_kernel((address + offset) as *const T) }.ok()
}

/// The same of an address; zero where it is not known.
#[inline(always)]
fn pointer(address: u64, offset: u64) -> u64 {
    field(address, offset).unwrap_or(0)
}
