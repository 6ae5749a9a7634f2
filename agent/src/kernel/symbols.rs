//! Addresses of kernel symbols, where the kernel tells them.

use std::io::{BufRead, BufReader};

use super::btf::Btf;

/// Where the preempt count of each CPU lies, for the eBPF side. Zero where it
/// is not known; marks then carry no context.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PreemptCount {
    /// Address of `__per_cpu_offset`.
    pub per_cpu_offsets: u64,
    /// Offset of the count within a CPU's area.
    pub offset: u64,
}

/// Looks the addresses up in `/proc/kallsyms`, which shows them to
/// `CAP_SYSLOG` only, and the offset in BTF.
pub fn preempt_count(btf: &Btf) -> PreemptCount {
    let Ok(file) = std::fs::File::open("/proc/kallsyms") else {
        return PreemptCount::default();
    };
    // `__preempt_count` is a symbol of its own but for the kernels that had
    // `struct pcpu_hot` (arch/x86/include/asm/current.h).
    let (mut offsets, mut own, mut hot) = (None, None, None);
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let slot = match name {
            "__per_cpu_offset" => &mut offsets,
            "__preempt_count" => &mut own,
            "pcpu_hot" => &mut hot,
            _ => continue,
        };
        *slot = u64::from_str_radix(address, 16).ok().filter(|a| *a != 0);
    }
    let hot = || Some(hot? + btf.offset("pcpu_hot", "preempt_count")?);
    match (offsets, own.or_else(hot)) {
        (Some(per_cpu_offsets), Some(offset)) => PreemptCount {
            per_cpu_offsets,
            offset,
        },
        _ => PreemptCount::default(),
    }
}
