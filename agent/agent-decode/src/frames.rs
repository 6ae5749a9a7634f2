//! Where a CPU was and who ran on it, as an oops prints it.

/// A place in kernel code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Symbol<'a> {
    /// The function, without offset and without what a compiler appends
    /// (`.isra.0`, `.cold`, `.constprop.0`).
    pub(crate) function: &'a str,
    /// The module it belongs to.
    pub(crate) module: Option<&'a str>,
}

impl<'a> Symbol<'a> {
    /// Reads `foo.isra.0+0x12/0x34 [mod]` (kernel/kallsyms.c,
    /// `__sprint_symbol`; with CONFIG_STACKTRACE_BUILD_ID the module is
    /// followed by a build id).
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim_start();
        let (name, rest) = text.split_once("+0x")?;
        let plain = name.trim_start_matches('.');
        let function = plain.split('.').next().unwrap_or(plain);
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$');
        if function.is_empty() || !function.bytes().all(is_name) {
            return None;
        }
        let (_, after) = rest.split_once('/')?;
        let digits = after
            .strip_prefix("0x")?
            .trim_start_matches(|c: char| c.is_ascii_hexdigit());
        let module = digits
            .trim_start()
            .strip_prefix('[')
            .and_then(|m| m.split([']', ' ']).next())
            .filter(|m| !m.is_empty());
        Some(Self { function, module })
    }
}

/// The function in which the CPU was, if this line says so: `RIP:` on x86,
/// `pc :` on arm64, and what others have.
pub(crate) fn fault(line: &str) -> Option<Symbol<'_>> {
    if let Some(rest) = line.strip_prefix("RIP: ") {
        let (segment, place) = rest.split_once(':')?;
        // User space (__USER_CS 0x33, __USER32_CS 0x23) is where a system call
        // came from, not where the kernel died.
        if matches!(segment, "0033" | "0023") {
            return None;
        }
        // Up to 4.8 addresses stand in between: `[<ffff>]  [<ffff>] foo+0x1/0x2`.
        let place = place.rsplit("[<").next().unwrap_or(place);
        let place = place.split_once(">]").map_or(place, |(_, after)| after);
        return Symbol::parse(place);
    }
    ["pc : ", "PC is at ", "EIP: ", "epc : "]
        .iter()
        .find_map(|mark| line.strip_prefix(mark))
        .or_else(|| line.strip_prefix("NIP [")?.split_once("] ").map(|n| n.1))
        .and_then(Symbol::parse)
}

/// `CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G  OE  6.1.0 #1`
/// (lib/dump_stack.c, `dump_stack_print_info`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header<'a> {
    /// Process id.
    pub(crate) pid: Option<u32>,
    /// Name of the task; it may hold spaces.
    pub(crate) comm: Option<&'a str>,
    /// `uname -r`.
    pub(crate) release: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// Reads the line, if it is one.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        // Of a hung task the second line, without a CPU.
        if line.starts_with("Tainted: ") || line.starts_with("Not tainted ") {
            let release = line.split_ascii_whitespace().find(|word| is_release(word));
            return release.map(|release| Self {
                pid: None,
                comm: None,
                release: Some(release),
            });
        }
        if !line.starts_with("CPU: ") {
            return None;
        }
        let (before, after) = line.split_once(" Comm: ")?;
        let pid = before
            .split_once("PID: ")
            .and_then(|(_, pid)| pid.split(' ').next()?.parse().ok());
        let ends = [" Kdump: ", " Not tainted ", " Tainted: "];
        let end = ends.iter().filter_map(|mark| after.find(mark)).min();
        let (comm, rest) = end.map_or((after, ""), |end| after.split_at(end));
        // Taint letters stand between; a release begins with a digit.
        let release = rest.split_ascii_whitespace().find(|word| is_release(word));
        Some(Self {
            pid,
            comm: Some(comm.trim()).filter(|comm| !comm.is_empty()),
            release,
        })
    }
}

/// The release in the banner of a boot: `Linux version 6.1.0 (…`.
pub(crate) fn banner(line: &str) -> Option<&str> {
    let release = line.strip_prefix("Linux version ")?.split(' ').next()?;
    is_release(release).then_some(release)
}

fn is_release(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_in_every_wording() {
        let boom = Some(("boom_timer", Some("boom")));
        let cases = [
            ("RIP: 0010:boom_timer+0x12/0x34 [boom]", boom),
            (
                "RIP: 0010:boom_timer.isra.0.cold+0x12/0x34 [boom 0123ab]",
                boom,
            ),
            (
                "RIP: 0010:[<ffffffffa0012345>]  [<ffffffffa0012345>] boom_timer+0x12/0x34 [boom]",
                boom,
            ),
            ("RIP: e030:boom_timer+0x12/0x34 [boom]", boom),
            ("pc : boom_timer+0x12/0x34 [boom]", boom),
            ("PC is at boom_timer+0x12/0x34 [boom]", boom),
            ("NIP [c000000000012345] boom_timer+0x12/0x34 [boom]", boom),
            (
                "RIP: 0010:skb_segment+0xc80/0xeb0",
                Some(("skb_segment", None)),
            ),
            ("RIP: 0033:0x7f1234567890", None),
            ("RIP: 0033:fake+0x1/0x2", None),
            ("RIP: 0010:0x0", None),
            ("RIP: 0010:Bad RIP value.", None),
            ("RIP: 0010:\u{1b}[31m+0x1/0x2", None),
            ("lr : boom_timer+0x12/0x34 [boom]", None),
        ];
        for (line, expected) in cases {
            let got = fault(line).map(|s| (s.function, s.module));
            assert_eq!(got, expected, "{line}");
        }
    }

    #[test]
    fn a_header_is_read_in_old_and_new_wording() {
        let release = "6.1.0-53-cloud-amd64";
        for (line, pid, comm) in [
            (
                format!("CPU: 0 PID: 1 Comm: init Not tainted {release} #1  Debian 6.1.192-1"),
                1,
                "init",
            ),
            (
                format!(
                    "CPU: 1 UID: 0 PID: 7 Comm: a b Tainted: G        W  OE      {release} #1 PREEMPT"
                ),
                7,
                "a b",
            ),
            (
                format!("CPU: 1 PID: 7 Comm: kworker/0:1 Kdump: loaded Tainted: P {release} #1"),
                7,
                "kworker/0:1",
            ),
        ] {
            let header = Header::parse(&line).expect("a header");
            assert_eq!((header.pid, header.comm), (Some(pid), Some(comm)), "{line}");
            assert_eq!(header.release, Some(release), "{line}");
        }
        assert_eq!(Header::parse("CPU: Physical Processor ID: 0"), None);
        let cut = Header::parse("CPU: 0 PID: 1 Comm: ini").expect("a header");
        assert_eq!((cut.comm, cut.release), (Some("ini"), None));
    }
}
