//! Who ran where on what, as a report prints it.

use serde::Serialize;

use crate::text::before;

/// `CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G  OE  6.1.0 #1`
/// (lib/dump_stack.c, `dump_stack_print_info`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Header<'a> {
    /// CPU number.
    pub(crate) cpu: Option<u32>,
    /// Process id.
    pub(crate) pid: Option<u32>,
    /// Name of the task; it may hold spaces.
    pub(crate) comm: Option<&'a str>,
    /// Letters of what taints the kernel; empty if nothing does.
    pub(crate) taint: Option<&'a str>,
    /// `uname -r`.
    pub(crate) release: Option<&'a str>,
    /// What stands behind it: `uname -v`, and what a distribution adds.
    pub(crate) version: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// Reads the line, if it is one.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        // Of a hung task the second line, without a CPU.
        if line.starts_with("Tainted: ") || line.starts_with("Not tainted ") {
            let header = Self::default().with_release(line);
            return header.release.is_some().then_some(header);
        }
        // Up to 3.x: `Pid: 1, comm: init Not tainted 2.6.32 #1`.
        if let Some(rest) = line.strip_prefix("Pid: ") {
            let (pid, after) = rest.split_once(", comm: ")?;
            return Some(
                Self {
                    pid: pid.parse().ok(),
                    ..Self::default()
                }
                .with_comm(after),
            );
        }
        let cpu = line.strip_prefix("CPU: ")?;
        let (before, after) = line.split_once(" Comm: ")?;
        let number = |text: &str| text.trim().split(' ').next()?.parse().ok();
        let pid = before.split_once("PID: ").and_then(|(_, pid)| number(pid));
        Some(
            Self {
                cpu: number(cpu),
                pid,
                ..Self::default()
            }
            .with_comm(after),
        )
    }

    fn with_comm(self, after: &'a str) -> Self {
        let ends = [" Kdump: ", " Not tainted ", " Tainted: "];
        let end = ends.iter().filter_map(|mark| after.find(mark)).min();
        let (comm, rest) = end.map_or((after, ""), |end| after.split_at(end));
        let comm = Some(comm.trim()).filter(|comm| !comm.is_empty());
        Self {
            comm,
            ..self.with_release(rest)
        }
    }

    /// Taint letters stand before the release; a release begins with a digit.
    fn with_release(self, rest: &'a str) -> Self {
        let mut words = rest.split_ascii_whitespace();
        let release = words.find(|word| is_release(word));
        let at = |word: &str| word.as_ptr() as usize - rest.as_ptr() as usize;
        let version = release.map(|word| rest[at(word) + word.len()..].trim());
        let taint = rest.split_once("Tainted: ").map(|(_, taint)| {
            let end = release.map_or(rest.len(), at);
            let start = rest.len() - taint.len();
            rest.get(start..end).unwrap_or("").trim()
        });
        let clean = rest.contains("Not tainted ").then_some("");
        Self {
            release,
            version: version.filter(|version| !version.is_empty()),
            taint: taint.or(clean),
            ..self
        }
    }
}

/// The release in the banner of a boot: `Linux version 6.1.0 (…`.
pub(crate) fn banner(line: &str) -> Option<&str> {
    let release = line.strip_prefix("Linux version ")?.split(' ').next()?;
    is_release(release).then_some(release)
}

/// The machine, as a report has it: `Hardware name: QEMU …`.
pub(crate) fn hardware(line: &str) -> Option<&str> {
    let name = line.strip_prefix("Hardware name: ")?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

/// The machine, as a boot has it: `DMI: QEMU …`.
pub(crate) fn machine(line: &str) -> Option<&str> {
    let name = line.strip_prefix("DMI: ")?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

fn is_release(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
}

/// Something that makes reports of this kernel less trustworthy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Taint {
    /// Its letter.
    pub letter: char,
    /// What it stands for (Documentation/admin-guide/tainted-kernels.rst).
    pub meaning: &'static str,
}

/// What the letters of a header stand for. `G` is that nothing proprietary is loaded.
pub(crate) fn taints(letters: &str) -> Vec<Taint> {
    const MEANINGS: &[(char, &str)] = &[
        ('P', "proprietary module loaded"),
        ('F', "module loaded by force"),
        ('S', "CPU or system out of its specification"),
        ('R', "module unloaded by force"),
        ('M', "machine check exception happened"),
        ('B', "bad page found"),
        ('U', "taint asked for by user space"),
        ('D', "kernel has oopsed before"),
        ('A', "ACPI table overridden"),
        ('W', "kernel has warned before"),
        ('C', "staging driver loaded"),
        ('I', "workaround for a firmware bug applied"),
        ('O', "module from outside the kernel's tree loaded"),
        ('E', "unsigned module loaded"),
        ('L', "soft lockup happened before"),
        ('K', "kernel live patched"),
        ('X', "taint of the distribution's own"),
        ('T', "kernel built with the struct randomization plugin"),
        ('N', "in-kernel test was run"),
        ('J', "userspace used a mutating debug operation of fwctl"),
    ];
    letters
        .chars()
        .filter_map(|letter| MEANINGS.iter().find(|(l, _)| *l == letter))
        .map(|(letter, meaning)| Taint {
            letter: *letter,
            meaning,
        })
        .collect()
}

/// The modules of a line `Modules linked in: a b(OE) c [last unloaded: d]`, or of one that
/// goes on with it, without their own taint.
pub(crate) fn modules(line: &str) -> impl Iterator<Item = &str> {
    let names = line.strip_prefix("Modules linked in:").unwrap_or(line);
    let names = names.split("[last unloaded").next().unwrap_or(names);
    names
        .split_ascii_whitespace()
        .map(|name| name.split('(').next().unwrap_or(name))
        .filter(|name| {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            !name.is_empty() && name.bytes().all(is_name)
        })
}

/// The registers of a line: `RAX: 0000000000000000 RBX: …`, `x29: … x28: …`,
/// `CS:  0010 DS: 0000`. Nothing if there is anything else in it.
pub(crate) fn registers(line: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut words = line.split_ascii_whitespace().peekable();
    while let Some(name) = words.next() {
        let name = match name.strip_suffix(':') {
            Some(name) => name,
            None if words.next_if_eq(&":").is_some() => name,
            None => return Vec::new(),
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let Some(value) = words.next() else {
            return Vec::new();
        };
        let digits = value
            .strip_prefix("0010:")
            .or(value.strip_prefix("0018:"))
            .unwrap_or(value);
        // `FS:  0000000000000000(0000) GS:…(0000)` and `knlGS:`.
        let digits = before(digits, b'(');
        let is_value = digits.len() >= 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if name.is_empty() || name.len() > 8 || !name.bytes().all(is_name) || !is_value {
            return Vec::new();
        }
        found.push((name, digits));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_in_old_and_new_wording() {
        let release = "6.1.0-53-cloud-amd64";
        for (line, cpu, pid, comm, taint) in [
            (
                format!("CPU: 0 PID: 1 Comm: init Not tainted {release} #1  Debian 6.1.192-1"),
                0,
                1,
                "init",
                "",
            ),
            (
                format!(
                    "CPU: 1 UID: 0 PID: 7 Comm: a b Tainted: G        W  OE      {release} #1 PREEMPT"
                ),
                1,
                7,
                "a b",
                "G        W  OE",
            ),
            (
                format!("CPU: 1 PID: 7 Comm: kworker/0:1 Kdump: loaded Tainted: P {release} #1"),
                1,
                7,
                "kworker/0:1",
                "P",
            ),
        ] {
            let header = Header::parse(&line).expect("a header");
            assert_eq!(header.cpu, Some(cpu), "{line}");
            assert_eq!((header.pid, header.comm), (Some(pid), Some(comm)), "{line}");
            assert_eq!(header.release, Some(release), "{line}");
            assert_eq!(header.taint, Some(taint), "{line}");
            assert!(
                header.version.is_some_and(|v| v.starts_with("#1")),
                "{line}"
            );
        }
        assert_eq!(Header::parse("CPU: Physical Processor ID: 0"), None);
        let cut = Header::parse("CPU: 0 PID: 1 Comm: ini").expect("a header");
        assert_eq!((cut.comm, cut.release), (Some("ini"), None));
    }

    #[test]
    fn taints_are_named() {
        let letters: String = taints("G        W  OE").iter().map(|t| t.letter).collect();
        assert_eq!(letters, "WOE");
        assert!(taints("").is_empty());
    }

    #[test]
    fn modules_lose_their_taint() {
        let line = "Modules linked in: boom(OE+) virtio_net net_failover [last unloaded: x(P)]";
        assert_eq!(
            modules(line).collect::<Vec<_>>(),
            ["boom", "virtio_net", "net_failover"]
        );
    }

    #[test]
    fn registers_are_read_and_nothing_else() {
        for (line, expected) in [
            (
                "RAX: 00ff RBX: 0101",
                vec![("RAX", "00ff"), ("RBX", "0101")],
            ),
            (
                "RSP: 0018:ff5f2f7c80100e98 EFLAGS: 00000246",
                vec![("RSP", "ff5f2f7c80100e98"), ("EFLAGS", "00000246")],
            ),
            (
                "x29: ffff8000 x28: 0000",
                vec![("x29", "ffff8000"), ("x28", "0000")],
            ),
            ("sp : ffff800012345678", vec![("sp", "ffff800012345678")]),
            ("FS:  0000(0000) GS:ff49(0000) knlGS:0000", vec![]),
            ("CPU: 1 PID: 7 Comm: x", vec![]),
            ("Code: 09 c3", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(registers(line), expected, "{line}");
        }
    }
}
