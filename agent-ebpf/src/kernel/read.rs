//! Reading by the helper that may be given any address.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// What lies at `offset` behind `address`; zero where that is no memory. Without a
/// branch: where it is read in a loop, each would double what the verifier walks through.
#[inline(always)]
pub fn number<T: Copy + Default>(address: u64, offset: u64) -> T {
    let mut number = T::default();
    let from = (address + offset) as *const _;
    // SAFETY: the helper writes the size of `number`, zeros if it fails, and does not
    // fault on a bad address.
    unsafe { bpf_probe_read_kernel((&raw mut number).cast(), size_of::<T>() as u32, from) };
    number
}
