//! Where each CPU of a machine that does not end stands, read by QEMU's monitor.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

/// Two looks at every CPU are this far apart: one that moves is not stuck.
const BETWEEN: Duration = Duration::from_millis(200);

/// Words of a stack that are looked at.
const STACK_WORDS: usize = 256;

/// The kernel's half of the addresses; everything in it that is on a stack may be
/// where a function goes on.
const KERNEL_FROM: u64 = 0xffff_8000_0000_0000;

/// One CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Whether it waits for an interrupt.
    pub halted: bool,
    /// The instruction that it was at.
    pub at: u64,
    /// Its stack.
    pub stack: u64,
}

/// Asks `monitor`, which runs a command of QEMU's monitor and gives what it says, for
/// every CPU twice, and for what of the kernel is on its stack: one line of addresses
/// a look, in hexadecimal.
pub fn look(monitor: &mut dyn FnMut(&str) -> Result<String>) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for look in 1..=2 {
        for Cpu {
            cpu,
            halted,
            at,
            stack,
        } in cpus(&monitor("info registers -a")?)
        {
            monitor(&format!("cpu {cpu}"))?;
            let words = monitor(&format!("x /{STACK_WORDS}xg {stack:#x}")).unwrap_or_default();
            let state = if halted { "halted" } else { "running" };
            let mut line = format!("look {look}, CPU {cpu} {state}: {at:#x}");
            for word in words_of(&words).filter(|word| *word >= KERNEL_FROM) {
                // Writing to a String cannot fail.
                let _ = write!(line, " {word:#x}");
            }
            lines.push(line);
        }
        std::thread::sleep(BETWEEN);
    }
    Ok(lines)
}

/// The CPUs in what `info registers -a` says of x86-64 and arm64.
fn cpus(registers: &str) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = Vec::new();
    for token in registers.split_whitespace() {
        if let Some(number) = token.strip_prefix("CPU#") {
            cpus.extend(number.parse().ok().map(|cpu| Cpu {
                cpu,
                halted: false,
                at: 0,
                stack: 0,
            }));
        }
        let (Some(cpu), Some((name, value))) = (cpus.last_mut(), token.split_once('=')) else {
            continue;
        };
        let value = u64::from_str_radix(value, 16).unwrap_or_default();
        match name {
            "RIP" | "PC" => cpu.at = value,
            "RSP" | "SP" => cpu.stack = value,
            "HLT" => cpu.halted = value == 1,
            _ => {}
        }
    }
    cpus
}

/// The words in what `x /NUMBERxg` says: `ffffc900000bfe80: 0x0000000000000000 0x…`.
fn words_of(said: &str) -> impl Iterator<Item = u64> {
    said.split_whitespace()
        .filter_map(|token| u64::from_str_radix(token.strip_prefix("0x")?, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_both_processors_are_read() {
        let amd64 = "\n\
            CPU#0\n\
            RAX=0000000000000000 RBX=0000000000000001 RCX=4000000000000000 RDX=0000000000000000\n\
            RSI=ffffffffa5a5d7a1 RDI=00000000000146cc RBP=ffffffffa680a600 RSP=ffffffffa6803e98\n\
            RIP=ffffffffa56d3b4f RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n\
            ES =0000 0000000000000000 ffffffff 00c00000\n\
            CPU#1\n\
            RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=ffffb1a7400a7e90\n\
            RIP=ffffffffa4a00001 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n";
        let cpu = |cpu, halted, at, stack| Cpu {
            cpu,
            halted,
            at,
            stack,
        };
        let expected = [
            cpu(0, true, 0xffff_ffff_a56d_3b4f, 0xffff_ffff_a680_3e98),
            cpu(1, false, 0xffff_ffff_a4a0_0001, 0xffff_b1a7_400a_7e90),
        ];
        assert_eq!(cpus(amd64), expected);
        let arm64 = "\nCPU#0\n PC=ffffd1a4e8c0a0b4 X00=00000000000000e0 X01=0000000000000001\n\
            X29=ffff80008163bd60 X30=ffffd1a4e8c0a0b0  SP=ffff80008163bd60\nPSTATE=600000c5 -ZC- NS EL1h\n";
        let expected = [cpu(0, false, 0xffff_d1a4_e8c0_a0b4, 0xffff_8000_8163_bd60)];
        assert_eq!(cpus(arm64), expected);
    }

    #[test]
    fn a_stack_s_words_are_read() {
        let said = "ffffb1a7400a7e90: 0x0000000000000000 0xffffffffa56d3b4f\r\n\
            ffffb1a7400a7ea0: 0xffffffffa4a00001\r\n";
        let words: Vec<u64> = words_of(said).collect();
        assert_eq!(words, [0, 0xffff_ffff_a56d_3b4f, 0xffff_ffff_a4a0_0001]);
    }
}
