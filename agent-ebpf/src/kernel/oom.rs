//! `struct oom_control` (include/linux/oom.h): who ran out of memory.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::maps;

/// Whether the machine is out of memory, not a control group at its limit.
/// False where user space could not tell where the field lies.
#[inline(always)]
pub fn is_of_the_machine(oom_control: u64) -> bool {
    let offset = maps::oom_memcg();
    if offset == 0 {
        return false;
    }
    // SAFETY: the helper fails, rather than faults, on a bad address.
    let memcg = unsafe { bpf_probe_read_kernel((oom_control + offset) as *const u64) };
    memcg == Ok(0)
}
