//! Where a CPU was, as stacks and registers print it.

use std::sync::Arc;

use serde::Serialize;

use crate::text::{before, split_offset, split_once, trim_start};

/// A place in kernel code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Symbol<'a> {
    /// The function, without what a compiler appends (`.isra.0`, `.cold`, `.constprop.0`).
    pub(crate) function: &'a str,
    /// Bytes from the function's begin, and its size.
    pub(crate) offset: Option<(u64, u64)>,
    /// The module it belongs to.
    pub(crate) module: Option<&'a str>,
    /// File and line, where a tool has put them there.
    pub(crate) place: Option<(&'a str, u32)>,
    /// Whether a tool says that it was inlined into the next.
    pub(crate) is_inlined: bool,
}

/// A function on a stack.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Frame {
    /// Its name, without what a compiler appends.
    pub function: String,
    /// Bytes from its begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The module that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Where the kernel does not vouch for it (`?`): it may be left from an earlier call.
    pub reliable: bool,
    /// Source file, if the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The stack it is on: `IRQ`, `NMI`, `TASK`, `SOFTIRQ`, `#DF`, if the log says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Arc<str>>,
}

impl<'a> Symbol<'a> {
    /// Reads `foo.isra.0+0x12/0x34 [mod]` (kernel/kallsyms.c,
    /// `__sprint_symbol`; with CONFIG_STACKTRACE_BUILD_ID the module is
    /// followed by a build id).
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = trim_start(text);
        let (name, rest) = split_offset(text)?;
        let function = plain_name(name)?;
        let (offset, after) = split_once(rest, b'/')?;
        let after = after.strip_prefix("0x")?;
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        let (size, mut rest) = after.split_at(digits);
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let offset = hex(offset)?;
        let mut module = None;
        if let Some(named) = trim_start(rest).strip_prefix('[') {
            let (inside, behind) = split_once(named, b']').unwrap_or((named, ""));
            if inside == "inline" {
                rest = "[inline]";
            } else {
                module = Some(before(inside, b' ')).filter(|m| !m.is_empty());
                rest = behind;
            }
        }
        Some(Self {
            function,
            offset: hex(size).map(|size| (offset, size)),
            module,
            place: place(rest),
            is_inlined: false,
        })
    }

    /// Nothing but a name is known.
    fn named(function: &'a str) -> Self {
        Self {
            function,
            offset: None,
            module: None,
            place: None,
            is_inlined: false,
        }
    }

    /// The same, or what a tool made of it: `foo net/core/dev.c:12 [inline]`,
    /// `foo+0x12/0x34 net/core/dev.c:12`, `foo (net/core/dev.c:12) mod`.
    fn with_place(text: &'a str) -> Option<Self> {
        if let Some(symbol) = Self::parse(text) {
            return Some(symbol);
        }
        let (name, rest) = split_once(trim_start(text), b' ')?;
        let function = plain_name(name)?;
        let rest = trim_start(rest);
        let place = place(rest)?;
        let behind = rest.rsplit([')', ' ']).next().unwrap_or("");
        let module = rest
            .starts_with('(')
            .then_some(behind)
            .filter(|m| !m.is_empty() && m.bytes().all(is_name));
        Some(Self {
            function,
            offset: None,
            module,
            place: Some(place),
            is_inlined: rest.ends_with("[inline]"),
        })
    }
}

/// A function's name as it is written in the source.
fn plain_name(name: &str) -> Option<&str> {
    // `__pfx_` is the padding before a function (CONFIG_CALL_PADDING), `.` a function
    // descriptor's entry (powerpc).
    let plain = name.trim_start_matches('.');
    let plain = before(plain, b'.');
    let plain = plain.strip_prefix("__pfx_").unwrap_or(plain);
    (!plain.is_empty() && plain.bytes().all(is_name) && !plain.as_bytes()[0].is_ascii_digit())
        .then_some(plain)
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$')
}

/// `net/core/dev.c:12`, also in parentheses and with a column or a discriminator.
pub(crate) fn place(text: &str) -> Option<(&str, u32)> {
    let text = trim_start(text).trim_start_matches('(');
    let (file, rest) = split_once(text, b':')?;
    let has_suffix = |end: &str| file.ends_with(end);
    let is_file = [".c", ".h", ".S", ".rs", ".cc"].into_iter().any(has_suffix);
    if !is_file || file.contains([' ', ')', '!']) {
        return None;
    }
    let line = rest.split([':', ' ', ')', '!']).next()?.parse().ok()?;
    Some((file, line))
}

/// The function in which the CPU was, if this line says so: `RIP:` on x86,
/// `pc :` on arm64, and what others have.
pub(crate) fn fault(line: &str) -> Option<Symbol<'_>> {
    if let Some(rest) = line.strip_prefix("RIP: ") {
        let (segment, place) = split_once(rest, b':')?;
        // User space (__USER_CS 0x33, __USER32_CS 0x23) is where a system call
        // came from, not where the kernel died.
        if matches!(segment, "0033" | "0023") {
            return None;
        }
        // Up to 4.8 addresses stand in between: `[<ffff>]  [<ffff>] foo+0x1/0x2`.
        let place = place.rsplit("[<").next().unwrap_or(place);
        let place = place.split_once(">]").map_or(place, |(_, after)| after);
        return Symbol::with_place(place);
    }
    // Up to 4.x it is said once more behind the stack.
    if let Some(rest) = line.strip_prefix("RIP  [<") {
        let (_, place) = rest.split_once(">]")?;
        return Symbol::with_place(trim_start(place));
    }
    // Most lines need no more than that.
    if !line.starts_with(['p', 'P', 'E', 'e', 'K', 'N', 'I', 'T']) {
        return None;
    }
    let marked = || {
        const MARKS: [&str; 14] = [
            "pc : ",
            "PC is at ",
            "PC: ",
            "EIP: 0060:",
            "EIP: ",
            "EIP is at ",
            // Before the registers, up to 4.19.
            "IP: ",
            "epc : ",
            "epc   : ",
            "era   : ",
            "ERA: ",
            "Krnl PSW : ",
            "TPC: ",
            "IAOQ[0]: ",
        ];
        MARKS.iter().find_map(|mark| line.strip_prefix(mark))
    };
    let rest = marked().or_else(|| line.strip_prefix("NIP [")?.split_once("] ").map(|n| n.1))?;
    // Before the name an address may stand, or two: `[<c0012345>]`, `80012345 `, `(…) `.
    let rest = rest.rsplit_once(">]").map_or(rest, |(_, after)| after);
    let mut rest = trim_start(rest);
    while let Some((address, after)) = split_once(rest, b' ')
        && address.len() >= 8
        && address.bytes().all(|b| b.is_ascii_hexdigit())
    {
        rest = trim_start(after);
    }
    Symbol::with_place(rest.trim_start_matches(['(', '<']))
}

/// Whether this line shows registers of user space: the stack above it is whole.
pub(crate) fn is_user(line: &str) -> bool {
    line.starts_with("RIP: 0033:") || line.starts_with("RIP: 0023:")
}

/// Whether the CPU was where there is no code: it had jumped through a bad pointer.
pub(crate) fn is_nowhere(line: &str) -> bool {
    const MARKS: [&str; 6] = [
        "RIP: 0010:",
        "pc : ",
        "PC is at ",
        "EIP: ",
        "EIP is at ",
        "IP: ",
    ];
    if !line.starts_with(['R', 'p', 'P', 'E', 'I']) {
        return false;
    }
    let Some(place) = MARKS.iter().find_map(|mark| line.strip_prefix(mark)) else {
        return false;
    };
    // Up to 4.8 addresses stand before it: `[<          (null)>]           (null)`.
    let place = place.rsplit_once(">]").map_or(place, |(_, after)| after);
    let place = trim_start(place);
    ["0x", "Bad ", "(null)"]
        .iter()
        .any(|at| place.starts_with(at))
}

/// A mark in a stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark<'a> {
    /// The next functions are on this stack: `<IRQ>`, `<#DF>`.
    Begin(&'a str),
    /// They no longer are: `</IRQ>`, `<<EOE>>`.
    End,
}

/// The mark that a line begins with, and what stands behind it: `<IRQ>`, `</IRQ>`,
/// `<<EOE>>  <IRQ>  [<ffff…>] foo+0x1/0x2`.
pub(crate) fn mark(line: &str) -> Option<(Mark<'_>, &str)> {
    let inside = line.strip_prefix('<')?;
    let (inside, rest) = split_once(inside.strip_prefix('<').unwrap_or(inside), b'>')?;
    let rest = rest.strip_prefix('>').unwrap_or(rest);
    if !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    let word = inside.strip_prefix('/').unwrap_or(inside);
    let is_letter = |b: u8| b.is_ascii_uppercase() || matches!(b, b'#' | b'0'..=b'9' | b'_');
    if word.is_empty() || word.len() > 16 || !word.bytes().all(is_letter) {
        return None;
    }
    let is_end = inside.starts_with('/') || matches!(inside, "EOE" | "EOI");
    let mark = if is_end {
        Mark::End
    } else {
        Mark::Begin(inside)
    };
    Some((mark, rest))
}

/// Whether a stack begins behind this line.
pub(crate) fn is_stack(line: &str) -> bool {
    const STARTS: [&str; 6] = [
        "Call Trace:",
        "Call trace:",
        "Backtrace:",
        "backtrace:",
        "backtrace (crc",
        "Call Trace ",
    ];
    line.starts_with(['C', 'B', 'b']) && STARTS.iter().any(|start| line.starts_with(start))
        || line == "stack backtrace:"
}

/// A function on a stack, if this line is one.
pub(crate) fn frame(line: &str) -> Option<(Symbol<'_>, bool)> {
    let mut rest = line;
    // Addresses come before the name, one or two, in as many dresses as architectures.
    while trim_start(rest).starts_with(['(', '[']) {
        let shorter = ["([<", "[<", "[c", "[0", "(["].iter().find_map(|open| {
            let inside = trim_start(rest).strip_prefix(open)?;
            let (address, after) = split_once(inside, b']')?;
            let address = address.trim_end_matches('>');
            let is_address = address.bytes().all(|b| b.is_ascii_hexdigit() || b == b'x');
            is_address.then(|| after.trim_start_matches(')'))
        });
        match shorter {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    let rest = trim_start(rest);
    let (rest, reliable) = match rest.strip_prefix("? ") {
        Some(rest) => (rest, false),
        None => (rest, true),
    };
    // Old arm: `[<c0012345>] (foo) from [<c0023456>] (bar+0x12/0x34)`.
    if let Some((name, _)) = rest.strip_prefix('(').and_then(|r| r.split_once(") from ")) {
        let function = plain_name(name.split(['+', ' ']).next()?)?;
        let symbol = Symbol::parse(name);
        return Some((symbol.unwrap_or(Symbol::named(function)), true));
    }
    if rest.starts_with(['-', '=', '#', '{', '"']) {
        return None;
    }
    // Newer arm: `foo from bar+0x12/0x34`.
    let called = || {
        let (name, caller) = rest.split_once(" from ")?;
        Symbol::parse(caller)?;
        Some(Symbol::named(plain_name(name)?))
    };
    Some((Symbol::with_place(rest).or_else(called)?, reliable))
}

impl Frame {
    pub(crate) fn new(symbol: &Symbol<'_>, reliable: bool, context: Option<&Arc<str>>) -> Self {
        Self {
            function: symbol.function.to_owned(),
            offset: symbol.offset.map(|(offset, _)| offset),
            size: symbol.offset.map(|(_, size)| size),
            module: symbol.module.map(str::to_owned),
            reliable,
            file: symbol.place.map(|(file, _)| file.to_owned()),
            line: symbol.place.map(|(_, line)| line),
            context: context.cloned(),
        }
    }
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
                "EIP: [<f8a1b2c3>] boom_timer+0x12/0x34 [boom] SS:ESP 0068:d7a0bf00",
                boom,
            ),
            ("RIP: 0010:boom_timer (drivers/boom.c:12) boom", boom),
            (
                "RIP: 0010:skb_segment+0xc80/0xeb0",
                Some(("skb_segment", None)),
            ),
            (
                "RIP: 0010:skb_segment+0xc80/0xeb0 net/core/skbuff.c:4230",
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
    fn a_frame_is_read_in_every_dress() {
        for (line, function, offset, place, reliable) in [
            ("foo+0x12/0x34", "foo", Some((0x12, 0x34)), None, true),
            (
                "? foo.cold+0x12/0x34 [m]",
                "foo",
                Some((0x12, 0x34)),
                None,
                false,
            ),
            (
                "[<ffffffff81234567>] foo+0x12/0x34",
                "foo",
                Some((0x12, 0x34)),
                None,
                true,
            ),
            (
                "[<ffffffff81234567>] ? foo+0x12/0x34",
                "foo",
                Some((0x12, 0x34)),
                None,
                false,
            ),
            (
                "[c000000000123450] [c000000000543210] foo+0x12/0x34 (unreliable)",
                "foo",
                Some((0x12, 0x34)),
                None,
                true,
            ),
            (
                "([<0000000000123456>] foo+0x12/0x34)",
                "foo",
                Some((0x12, 0x34)),
                None,
                true,
            ),
            (
                "[<c0012345>] (foo) from [<c0023456>] (bar+0x12/0x34)",
                "foo",
                None,
                None,
                true,
            ),
            (
                "foo+0x12/0x34 net/core/dev.c:12",
                "foo",
                Some((0x12, 0x34)),
                Some(("net/core/dev.c", 12)),
                true,
            ),
            (
                "foo net/core/dev.c:12 [inline]",
                "foo",
                None,
                Some(("net/core/dev.c", 12)),
                true,
            ),
            (
                "foo (net/core/dev.c:12 (discriminator 3)) ",
                "foo",
                None,
                Some(("net/core/dev.c", 12)),
                true,
            ),
            ("foo+0x12/0x34 (P)", "foo", Some((0x12, 0x34)), None, true),
            ("__pfx_foo+0x12/0x34", "foo", Some((0x12, 0x34)), None, true),
        ] {
            let (symbol, is_reliable) = frame(line).expect(line);
            assert_eq!(
                (symbol.function, symbol.offset, symbol.place, is_reliable),
                (function, offset, place, reliable),
                "{line}"
            );
        }
        for line in [
            "RAX: 0000000000000000 RBX: 0000000000000101",
            "Code: 09 c3 cc",
            "---[ end trace 0 ]---",
            "</TASK>",
            "",
            "Modules linked in: a b",
        ] {
            assert_eq!(frame(line), None, "{line}");
        }
    }

    #[test]
    fn a_stack_says_what_it_is_of() {
        for (line, expected) in [
            ("<IRQ>", Some((Mark::Begin("IRQ"), ""))),
            ("</IRQ>", Some((Mark::End, ""))),
            ("<#DF>", Some((Mark::Begin("#DF"), ""))),
            ("<<EOE>>", Some((Mark::End, ""))),
            ("<EOI>", Some((Mark::End, ""))),
            (
                "<NMI>  [<ffff>] foo+0x1/0x2",
                Some((Mark::Begin("NMI"), "  [<ffff>] foo+0x1/0x2")),
            ),
            ("<<EOE>>  <IRQ> ", Some((Mark::End, "  <IRQ> "))),
            ("<IRQ>x", None),
            ("<>", None),
            ("<a name of something>", None),
            ("IRQ", None),
        ] {
            assert_eq!(mark(line), expected, "{line}");
        }
    }
}
