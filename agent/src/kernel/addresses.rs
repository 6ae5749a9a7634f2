//! Addresses of kernel code into names of functions, where the kernel tells them.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// The kernel's functions by where they begin.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Sorted: address, and where the name is in `names`.
    starts: Vec<(u64, u32)>,
    /// One behind the other, each with a newline.
    names: String,
}

impl Addresses {
    /// Reads `/proc/kallsyms`. It shows no addresses without `CAP_SYSLOG`, or where
    /// `kernel.kptr_restrict` is 2: then there are none.
    pub fn of_running_kernel() -> Self {
        match File::open("/proc/kallsyms") {
            Ok(file) => Self::read(BufReader::new(file)),
            Err(_) => Self::default(),
        }
    }

    fn read(symbols: impl BufRead) -> Self {
        let mut known = Self::default();
        for line in symbols.lines().map_while(Result::ok) {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(address @ 1..) = u64::from_str_radix(address, 16) else {
                continue;
            };
            known.starts.push((address, known.names.len() as u32));
            known.names.push_str(name);
            if let Some(module) = words.next() {
                known.names.push(' ');
                known.names.push_str(module);
            }
            known.names.push('\n');
        }
        known.starts.sort_by_key(|(address, _)| *address);
        known
    }

    /// Whether the kernel tells no addresses.
    pub fn are_hidden(&self) -> bool {
        self.starts.is_empty()
    }

    /// `tcp_v4_rcv+0x1a [module]`; the number alone where it is not known.
    pub fn name(&self, address: u64) -> String {
        let after = self.starts.partition_point(|(start, _)| *start <= address);
        let found = after.checked_sub(1).and_then(|at| self.starts.get(at));
        let Some((start, at)) = found else {
            return format!("{address:#x}");
        };
        let text = self.names.get(*at as usize..).unwrap_or_default();
        let text = text.lines().next().unwrap_or_default();
        let (name, module) = text.split_once(' ').unwrap_or((text, ""));
        let offset = address - start;
        if module.is_empty() {
            format!("{name}+{offset:#x}")
        } else {
            format!("{name}+{offset:#x} {module}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "\
0000000000000000 D zero
ffffffff81000100 T second
ffffffff81000000 t first
ffffffff81000200 D data
ffffffffc0000000 t of_module\t[mod]
broken
";

    #[test]
    fn an_address_is_the_function_that_begins_before_it() {
        let known = Addresses::read(SYMBOLS.as_bytes());
        for (address, name) in [
            (0xffff_ffff_8100_0000, "first+0x0"),
            (0xffff_ffff_8100_00ff, "first+0xff"),
            (0xffff_ffff_8100_0101, "second+0x1"),
            (0xffff_ffff_c000_0010, "of_module+0x10 [mod]"),
            (0x1000, "0x1000"),
        ] {
            assert_eq!(known.name(address), name);
        }
    }

    #[test]
    fn hidden_addresses_are_no_names() {
        let known = Addresses::read(&b"0000000000000000 T first\n"[..]);
        assert!(known.are_hidden());
        assert_eq!(known.name(0xffff), "0xffff");
    }
}
