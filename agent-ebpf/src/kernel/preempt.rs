//! `preempt_count`: in which context a CPU is.

use agent_common::{
    CONTEXT_HARDIRQ, CONTEXT_NMI, CONTEXT_PROCESS, CONTEXT_SOFTIRQ, CONTEXT_UNKNOWN,
};
use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::maps;

// include/linux/preempt.h: 8 bits each of preemption and softirq depth (bit 8 set while a
// softirq is served, two a disable), then 4 bits of hardirq and 4 of NMI depth.
const SOFTIRQ_OFFSET: u32 = 1 << 8;
const HARDIRQ_MASK: u32 = 0xf << 16;
const NMI_MASK: u32 = 0xf << 20;

/// The context of `cpu`, if user space could tell where its count lies.
#[inline(always)]
pub fn context(cpu: u64) -> u8 {
    let (offsets, count) = (maps::per_cpu_offsets(), maps::preempt_count());
    if offsets == 0 || count == 0 {
        return CONTEXT_UNKNOWN;
    }
    // SAFETY: the helper fails, rather than faults, on a bad address.
    let read = unsafe {
        bpf_probe_read_kernel((offsets + cpu * 8) as *const u64)
            .and_then(|base| bpf_probe_read_kernel(base.wrapping_add(count) as *const u32))
    };
    let Ok(value) = read else {
        return CONTEXT_UNKNOWN;
    };
    if value & NMI_MASK != 0 {
        CONTEXT_NMI
    } else if value & HARDIRQ_MASK != 0 {
        CONTEXT_HARDIRQ
    } else if value & SOFTIRQ_OFFSET != 0 {
        CONTEXT_SOFTIRQ
    } else {
        CONTEXT_PROCESS
    }
}
