//! `preempt_count`: in which context a CPU is.

use agent_common::{
    CONTEXT_HARDIRQ, CONTEXT_NMI, CONTEXT_PROCESS, CONTEXT_SOFTIRQ, CONTEXT_UNKNOWN,
};
use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task};

use crate::maps;

// include/linux/preempt.h: 8 bits each of preemption and softirq depth (bit 8 set while a
// softirq is served, two a disable); on some kernels 8 of disabled interrupts; then 4 bits
// of hardirq depth and those of NMI depth, of which x86 has the last one for itself.
const SOFTIRQ_OFFSET: u32 = 1 << 8;
const HARDIRQ_MASK: u32 = 0xf;
const NMI_MASK: u32 = 0x7 << 4;

/// The context of `cpu`, if user space could tell where its count lies.
#[inline(always)]
pub fn context(cpu: u64) -> u8 {
    let Some(value) = count(cpu) else {
        return CONTEXT_UNKNOWN;
    };
    let interrupts = value >> (maps::hardirq_shift() & 31);
    if interrupts & NMI_MASK != 0 {
        CONTEXT_NMI
    } else if interrupts & HARDIRQ_MASK != 0 {
        CONTEXT_HARDIRQ
    } else if value & SOFTIRQ_OFFSET != 0 {
        CONTEXT_SOFTIRQ
    } else {
        CONTEXT_PROCESS
    }
}

/// arm64 keeps it in the task (`struct thread_info`), x86 in the CPU's own area.
#[inline(always)]
fn count(cpu: u64) -> Option<u32> {
    let in_task = maps::preempt_in_task();
    if in_task != 0 {
        // SAFETY: a helper without arguments; the other fails, rather than
        // faults, on a bad address.
        return unsafe { bpf_probe_read_kernel((bpf_get_current_task() + in_task) as *const u32) }
            .ok();
    }
    let (offsets, count) = (maps::per_cpu_offsets(), maps::preempt_count());
    if offsets == 0 || count == 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe {
        let base = bpf_probe_read_kernel((offsets + cpu * 8) as *const u64).ok()?;
        bpf_probe_read_kernel(base.wrapping_add(count) as *const u32).ok()
    }
}
