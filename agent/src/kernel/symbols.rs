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

/// What the eBPF side needs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Symbols {
    /// In which context a CPU is.
    pub preempt: PreemptCount,
    /// `textbuf` of `vprintk_store()` (kernel/printk/printk.c, to 5.11), where a
    /// line stands when it is stored. Zero where there is none.
    pub printk_text: u64,
}

impl Symbols {
    /// Looks the addresses up in `/proc/kallsyms`, which shows them to
    /// `CAP_SYSLOG` only, and the offsets in BTF.
    pub fn of_running_kernel(btf: &Btf) -> Self {
        match std::fs::File::open("/proc/kallsyms") {
            Ok(file) => Self::read(BufReader::new(file), btf),
            Err(_) => Self::default(),
        }
    }

    fn read(symbols: impl BufRead, btf: &Btf) -> Self {
        // `__preempt_count` is a symbol of its own but for the kernels that had
        // `struct pcpu_hot` (arch/x86/include/asm/current.h).
        let (mut offsets, mut own, mut hot) = (None, None, None);
        let mut texts = Vec::new();
        for line in symbols.lines().map_while(Result::ok) {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let address = || u64::from_str_radix(address, 16).ok().filter(|a| *a != 0);
            match name {
                "__per_cpu_offset" => offsets = address(),
                "__preempt_count" => own = address(),
                "pcpu_hot" => hot = address(),
                // A static of a function has a number behind its name.
                name if name.starts_with("textbuf.") => texts.extend(address()),
                _ => {}
            }
        }
        let hot = || Some(hot? + btf.offset("pcpu_hot", "preempt_count")?);
        let preempt = match (offsets, own.or_else(hot)) {
            (Some(per_cpu_offsets), Some(offset)) => PreemptCount {
                per_cpu_offsets,
                offset,
            },
            _ => PreemptCount::default(),
        };
        let printk_text = match texts[..] {
            [one] => one,
            _ => 0,
        };
        Self {
            preempt,
            printk_text,
        }
    }
}
