//! What transports put around a line of the kernel's log, and how to get rid of it.

mod dates;
mod written;

use std::borrow::Cow;

use memchr::{memchr2, memchr3};

use crate::text::{split_once, trim_start};

use dates::{behind_kernel, behind_stamp, date, is_date, is_iso, is_stamp};
use written::{json, plain, unescaped};

/// Who printed a line (CONFIG_PRINTK_CALLER): of lines that several print at once it
/// tells whose is whose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A task, by its id.
    Task(u32),
    /// A CPU that was not in a task.
    Cpu(u32),
}

/// A line without what its transport put around it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stripped<'a> {
    /// The kernel's own words.
    pub text: &'a str,
    /// When it was printed, in nanoseconds of the kernel's clock.
    pub printed_ns: Option<u64>,
    /// Who printed it.
    pub caller: Option<Caller>,
    /// Whether anything stood before it at all.
    pub has_prefix: bool,
    /// Whether it is no line of the kernel: another program's, or what a journal says
    /// beside its messages.
    pub is_foreign: bool,
}

/// The line as text: without colours, line end, and a container that writes JSON.
pub fn clean(line: &[u8]) -> Cow<'_, str> {
    let line = unframed(line);
    // Where a machine died in the middle of a file, there may be blocks of nothing, and what
    // writes for other systems begins a file with a mark.
    let nothing = line.iter().take_while(|b| **b == 0).count();
    let line = &line[nothing..];
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let end = line.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
    let line = &line[..end.map_or(0, |end| end + 1)];
    // Nearly always it is text, which is much sooner seen than mended.
    let line = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
    let line = match line.starts_with('{').then(|| json(&line)).flatten() {
        Some(inner) => Cow::Owned(inner),
        None => line,
    };
    if memchr3(0x1b, b'\r', b'&', line.as_bytes()).is_none() {
        return line;
    }
    let line = match memchr2(0x1b, b'\r', line.as_bytes()) {
        Some(_) => Cow::Owned(plain(&line)),
        None => line,
    };
    match unescaped(&line) {
        Some(text) => Cow::Owned(text),
        None => line,
    }
}

/// The longest text of a journal's field that is looked for, in bytes.
const FIELD_MAX: u64 = 0xffff;

/// Without the eight bytes of length that a journal's export puts before a text with
/// control characters, which is on the line behind its field's name (systemd, "Journal
/// Export Formats"). No text begins so.
fn unframed(line: &[u8]) -> &[u8] {
    let Some((length, text)) = line.split_first_chunk() else {
        return line;
    };
    let length = u64::from_le_bytes(*length);
    // It may have more lines than this one.
    let at_least = text.strip_suffix(b"\n").unwrap_or(text).len() as u64;
    if (1..=FIELD_MAX).contains(&length) && length >= at_least {
        text
    } else {
        line
    }
}

/// The line without level, time stamp, caller, syslog header and line end, so
/// that it begins with the kernel's own words.
pub fn strip(line: &str) -> &str {
    stripped(line).text
}

/// When a line was printed, in nanoseconds of the kernel's own clock, if a
/// stamp (`[   12.345678]`) is among what stands before its text.
pub fn printed_ns(line: &str) -> Option<u64> {
    stripped(line).printed_ns
}

/// The line and what was said before its text.
///
/// Knows: `<4>`, `[   12.345678]`, `dmesg` with `-T`, `-d`, `-e`, `-x` and with ISO dates,
/// `[  T12]` and `[ C0]` (CONFIG_PRINTK_CALLER), syslog with either kind of date and of
/// RFC 5424, the journal in all its short forms and as an export, CRI's container logs,
/// netconsole's extended header (Documentation/networking/netconsole.rst), and what
/// `grep` puts before a line. A header that names a program other than the kernel
/// stays: what an application says is no crash.
pub fn stripped(line: &str) -> Stripped<'_> {
    let mut found = Stripped::default();
    let mut rest = line.trim_end_matches(['\r', '\n']);
    // Each may stand before any other: a dmesg stamp inside a syslog line.
    loop {
        let trimmed = trim_start(rest);
        let next = found.once(trimmed).or_else(|| {
            let file = (!found.has_prefix).then(|| file_name(trimmed));
            let file = file.flatten().or_else(|| behind_kernel(trimmed));
            // What other programs say of a kernel's log stays theirs.
            file.or_else(|| behind_stamp(trimmed).filter(|_| date(trimmed).is_none()))
        });
        let Some(shorter) = next else {
            found.text = trimmed;
            found.is_foreign = date(trimmed).is_some() || is_field(trimmed);
            return found;
        };
        rest = shorter;
        // A colon may also begin what a terminal's width broke off.
        found.has_prefix |= !trimmed.starts_with(':');
    }
}

impl Stripped<'_> {
    /// The line without one of the things that stand before it.
    fn once<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let rest = match line.as_bytes().first()? {
            b'[' => self.bracket(line),
            b'<' => level(line),
            // Of `syslogd`'s message to all terminals no blank is behind it.
            b'k' => line.strip_prefix("kernel:").or_else(|| facility(line)),
            b'M' => line.strip_prefix("MESSAGE="),
            // A mail that quotes; a report of ABRT.
            b'>' | b':' => Some(&line[1..]),
            b'c' | b'(' | b'.' | b'-' if self.has_prefix => self.by_cpu(line),
            _ => None,
        };
        rest.or_else(|| syslog(line)).or_else(|| extended(line))
    }

    /// A time stamp or a caller in brackets.
    fn bracket<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (inside, rest) = split_once(line.strip_prefix('[')?, b']')?;
        let inside = trim_start(inside);
        if let Some(ns) = stamp_ns(inside) {
            self.printed_ns = self.printed_ns.or(ns);
            // journalctl -o short-monotonic: `[    1.234567] w01 kernel: `.
            let by_kernel = || word(rest)?.1.strip_prefix("kernel: ");
            return by_kernel().or(Some(rest));
        }
        if let Some(caller) = caller(inside).or_else(|| task_on_cpu(inside)) {
            self.caller = Some(caller);
            return Some(rest);
        }
        is_date(inside).then_some(rest)
    }

    /// As kernels of phones say who printed: `c3   123 `, `(3)[123:kworker/3:1]`.
    fn by_cpu<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (cpu, id, rest) = if let Some(cpu) = line.strip_prefix('c') {
            let (cpu, rest) = split_once(cpu, b' ')?;
            let (id, rest) = word(rest)?;
            (cpu, id, rest)
        } else {
            let cpu = line.trim_start_matches(['.', '-']).strip_prefix('(')?;
            let (cpu, rest) = split_once(cpu, b')')?;
            let (id, rest) = split_once(rest.strip_prefix('[')?, b']')?;
            let (id, _comm) = split_once(id, b':')?;
            (cpu, id, rest)
        };
        if !is_number(cpu, 2) {
            return None;
        }
        let id = is_number(id, 10).then(|| id.parse().ok()).flatten()?;
        self.caller = Some(Caller::Task(id));
        Some(rest)
    }
}

/// As kernels of phones say who printed: `3:    kworker/3:1:  123`, `pid:123,cpu3,kworker/3:1`.
fn task_on_cpu(inside: &str) -> Option<Caller> {
    let id = if let Some(rest) = inside.strip_prefix("pid:") {
        split_once(rest, b',')?.0
    } else {
        let (cpu, rest) = split_once(inside, b':')?;
        let (_comm, id) = rest.rsplit_once(':')?;
        is_number(cpu, 2).then_some(trim_start(id))?
    };
    let id = is_number(id, 10).then(|| id.parse().ok()).flatten()?;
    Some(Caller::Task(id))
}

/// `12.345678`, `12.345678 <    0.000012>`, `+0.000012`; the time if it has six digits.
#[allow(
    clippy::option_option,
    reason = "no stamp, and a stamp without the time"
)]
fn stamp_ns(inside: &str) -> Option<Option<u64>> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let difference = inside.strip_prefix('+');
    let rest = difference.unwrap_or(inside);
    let (s, rest) = rest.split_at(digits(rest));
    let rest = rest.strip_prefix('.')?;
    let (us, rest) = rest.split_at(digits(rest));
    let is_stamp = (1..=10).contains(&s.len()) && (1..=9).contains(&us.len());
    // Behind it may be a difference, a CPU, or a date.
    if !is_stamp || !(rest.is_empty() || rest.starts_with([' ', '@'])) {
        return None;
    }
    let is_absolute = us.len() == 6 && difference.is_none();
    let ns = || {
        let (s, us): (u64, u64) = (s.parse().ok()?, us.parse().ok()?);
        s.checked_mul(1_000_000_000)?.checked_add(us * 1_000)
    };
    Some(is_absolute.then(ns).flatten())
}

fn caller(inside: &str) -> Option<Caller> {
    let id = inside.strip_prefix(['T', 'C'])?;
    let id = is_number(id, 10).then(|| id.parse().ok()).flatten()?;
    Some(match inside.as_bytes()[0] {
        b'T' => Caller::Task(id),
        _ => Caller::Cpu(id),
    })
}

/// `<4>`, also with a facility, and with what RFC 5424 has behind it.
fn level(line: &str) -> Option<&str> {
    let (number, rest) = split_once(line.strip_prefix('<')?, b'>')?;
    if !is_number(number, 3) {
        return None;
    }
    let modern = rest.strip_prefix("1 ").and_then(|rest| {
        let (date, rest) = word(rest)?;
        let (_host, rest) = word(rest)?;
        let rest = rest.trim_start().strip_prefix("kernel ")?;
        is_iso(date).then(|| rest.trim_start_matches(['-', ' ']))
    });
    modern.or(Some(rest))
}

/// `kern  :alert : `, as `dmesg -x` has it.
fn facility(line: &str) -> Option<&str> {
    const LEVELS: [&str; 8] = [
        "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
    ];
    let rest = line.strip_prefix("kern")?.trim_start().strip_prefix(':')?;
    let (level, rest) = split_once(rest, b':')?;
    LEVELS.contains(&level.trim()).then_some(rest)
}

/// `Nov 21 01:40:46 w01 kernel: `, with other dates, and what has a date and no host.
fn syslog(line: &str) -> Option<&str> {
    let rest = date(line)?;
    let (first, _) = word(line)?;
    let bare = rest.trim_start();
    // Of dmesg only ISO dates have a comma, and they have no host.
    let is_dmesg = is_iso(first) && first.contains(',');
    if is_dmesg || bare.starts_with(['[', '<']) {
        return Some(rest);
    }
    for stream in ["stdout F ", "stderr F ", "stdout P ", "stderr P "] {
        if let Some(rest) = bare.strip_prefix(stream) {
            return Some(rest);
        }
    }
    let (_host, rest) = word(rest)?;
    let rest = rest.trim_start();
    // What netconsole sends to a collector names no program.
    if is_stamp(rest) {
        return Some(rest);
    }
    // Where a daemon passes on what others sent: `kernel: `, `kernel[0]: `.
    let named = rest.strip_prefix("kernel")?;
    let named = match named.strip_prefix('[') {
        Some(id) => split_once(id, b']').filter(|(id, _)| is_number(id, 10))?.1,
        None => named,
    };
    named.strip_prefix(':')
}

/// A field of a journal's export: `_TRANSPORT=kernel`.
fn is_field(line: &str) -> bool {
    let is_name = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let name = line.bytes().take_while(is_name).count();
    name >= 4 && line.as_bytes().get(name) == Some(&b'=')
}

/// `12,373,1919878,-;`, also with a release before it, and with fields behind it.
fn extended(line: &str) -> Option<&str> {
    if !line.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let (head, rest) = split_once(line, b';')?;
    let is_header = |head: &str| {
        let mut fields = head.split(',');
        let numbers = fields.by_ref().take(3).filter(|f| is_number(f, 20)).count();
        let flag = fields.next();
        numbers == 3 && flag.is_some_and(|flag| matches!(flag, "-" | "c" | "+"))
    };
    let after_release = split_once(head, b',').map(|(_, fields)| fields);
    (is_header(head) || after_release.is_some_and(is_header)).then_some(rest)
}

/// The name of a file that a search put before its line, with or without the line's
/// number: `messages-Nov 21 …`, `console.log:12:[    1.234567] …`.
fn file_name(line: &str) -> Option<&str> {
    /// A path is no longer.
    const PATH_MAX: usize = 512;
    let name = line.split([' ', '\t', '[', '<']).next()?;
    let name = &name[..name.floor_char_boundary(PATH_MAX)];
    let is_name = |at: usize| name[..at].bytes().any(|b| b.is_ascii_alphanumeric());
    let ends = name.match_indices([':', '-']).map(|(at, _)| at);
    for at in ends.filter(|at| is_name(*at)) {
        let rest = &line[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let numbered = match rest.as_bytes().get(digits) {
            Some(b':' | b'-') if (1..10).contains(&digits) => Some(&rest[digits + 1..]),
            _ => None,
        };
        let begins = |rest: &&str| {
            let mut found = Stripped::default();
            rest.starts_with(['[', '<']) && found.once(rest).is_some()
                || syslog(rest.trim_start()).is_some()
        };
        if let Some(rest) = [numbered, Some(rest)].into_iter().flatten().find(begins) {
            return Some(rest);
        }
    }
    None
}

fn word(text: &str) -> Option<(&str, &str)> {
    split_once(trim_start(text), b' ')
}

fn is_number(text: &str, digits: usize) -> bool {
    (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_transport_gives_the_kernels_words() {
        for line in [
            "BUG: x",
            "<1>BUG: x",
            "[    1.234567] BUG: x\r\n",
            "<1>[    1.234567] BUG: x",
            "[    1.234567][   T12] BUG: x",
            "[    1.234567] [    C0] BUG: x",
            "[Sat Nov 21 01:40:46 2026] BUG: x",
            "[    1.234567 <    0.000012>] BUG: x",
            "[  +0.000012] BUG: x",
            "[Nov21 01:40] BUG: x",
            "kern  :alert : [    1.234567] BUG: x",
            "2026-11-21T01:40:46,123456+00:00 BUG: x",
            "Nov 21 01:40:46 w01 kernel: BUG: x",
            "Nov 21 2026 01:40:46 w01 kernel: BUG: x",
            "Nov  1 01:40:46 w01 kernel: [    1.234567] BUG: x",
            "Nov  1 01:40:46 w01 kernel:[    1.234567] BUG: x",
            "Nov 21 01:40:46.123456 w01 kernel: BUG: x",
            "Nov 21 01:40:46 w01 kernel[0]: BUG: x",
            "2026-11-21T01:40:46.123456+00:00 w01 kernel: BUG: x",
            "Sat 2026-11-21 01:40:46 UTC w01 kernel: BUG: x",
            "2026-11-21 01:40:46 w01 kernel: BUG: x",
            "1763689246.123456 w01 kernel: BUG: x",
            "[    1.234567] w01 kernel: BUG: x",
            "<6>1 2026-11-21T01:40:46.123Z w01 kernel - - - BUG: x",
            "2026-11-21T01:40:46.123456789Z stdout F [    1.234567] BUG: x",
            "2026-11-21T01:40:46.123456789Z [    1.234567] BUG: x",
            "MESSAGE=BUG: x",
            "kernel: BUG: x",
            "12,373,1919878,-;BUG: x",
            "6.8.0-149-generic,12,439,2408583,-;BUG: x",
            "12,373,1919878,-,ncfrag=0/960;BUG: x",
            "var/log/messages-20261121:Nov 21 01:40:46 w01 kernel: BUG: x",
            "messages-Nov 21 01:40:46 w01 kernel: BUG: x",
            "a-b.log-12-[    1.234567] BUG: x",
            "a-b.log:12:<1>[    1.234567] BUG: x",
            "Nov 21 01:40:46 10.0.0.5 [    1.234567] BUG: x",
            "Wed Nov 22 01:02:03 2023 kern.alert kernel: [    1.234567] BUG: x",
            "> [    1.234567] BUG: x",
            "> > BUG: x",
            ":BUG: x",
            " kernel:BUG: x",
            "[Mi Nov 22 01:02:03 2023] BUG: x",
            "[mer. nov. 22 01:02:03 2023] BUG: x",
            "nov. 22 01:02:03 w01 kernel: BUG: x",
            "22 Nov 01:02:03 w01 kernel: BUG: x",
            "Nov 22 01:02:03 kern.crit w01 kernel[12]: BUG: x",
            "[01:02:03] [    1.234567] BUG: x",
            "[2023-11-22T01:02:03.123] BUG: x",
            "[2023-11-22 01:02:03.123] BUG: x",
            "<1>[    1.234567] c3   1234 BUG: x",
            "[    1.234567] [3:    kworker/3:1:  123] BUG: x",
            "[    1.234567] -(3)[123:kworker/3:1]BUG: x",
            "[    1.234567@3] BUG: x",
            "w01 login: [    1.234567] BUG: x",
            "ok   12 foo[    1.234567] BUG: x",
            "  101 [    1.234567] BUG: x",
        ] {
            assert_eq!(strip(line), "BUG: x", "{line:?}");
        }
    }

    #[test]
    fn a_stamp_gives_the_time_and_a_caller_who_it_was() {
        for (line, ns, caller) in [
            ("<1>[    1.234567] BUG: x", Some(1_234_567_000), None),
            (
                "[    0.000001][   T12] BUG: x",
                Some(1_000),
                Some(Caller::Task(12)),
            ),
            (
                "[    0.000001][    C3] BUG: x",
                Some(1_000),
                Some(Caller::Cpu(3)),
            ),
            ("[ 1.23] x", None, None),
            ("[x.234567] x", None, None),
            (
                "[9999999999.999999] x",
                Some(9_999_999_999_999_999_000),
                None,
            ),
            ("BUG: x", None, None),
            ("[   T12] BUG: x", None, Some(Caller::Task(12))),
            ("[  +0.000012] x", None, None),
        ] {
            let found = stripped(line);
            assert_eq!((found.printed_ns, found.caller), (ns, caller), "{line:?}");
        }
    }

    #[test]
    fn what_others_say_stays_theirs() {
        for line in [
            "Nov 21 01:40:46 w01 app[12]: kernel: BUG: x",
            "2026-11-21T01:40:46Z w01 app: kernel: BUG: x",
            "app: BUG: x",
            "[app] BUG: x",
            "[1] BUG: x",
            "a;BUG: x",
            "a-b: BUG: x",
            "msg=\"[    1.234567] BUG: x",
            "a.go:12] [    1.234567] BUG: x",
            "Okt 21 01:40:46 w01 app[12]: kernel: BUG: x",
            "[00:1f.6] BUG: x",
            "[0000:00:1f.6] BUG: x",
            "---[ 662109.00328  6.6325] BUG: x",
        ] {
            assert_eq!(strip(line), line);
        }
    }

    #[test]
    fn colours_and_containers_are_taken_off() {
        for (line, expected) in [
            (
                &b"\x1b[32m[    1.234567] \x1b[0m\x1b[31mBUG: x\x1b[0m\r\r\n"[..],
                "BUG: x",
            ),
            (
                b"{\"log\":\"[    1.234567] BUG: x\\n\",\"stream\":\"stdout\"}",
                "BUG: x",
            ),
            (
                b"{\"_TRANSPORT\":\"kernel\",\"MESSAGE\":\"BUG: \\\"x\\\"\"}",
                "BUG: \"x\"",
            ),
            (
                b"{\"_TRANSPORT\":\"stdout\",\"MESSAGE\":\"BUG: x\"}",
                "program: BUG: x",
            ),
            (
                b"{\"_TRANSPORT\":\"kernel\",\"MESSAGE\":[66,85,71,58,32,27,91,49,109,120]}",
                "BUG: x",
            ),
            (
                b"{ \"MESSAGE\" : [ 66, 85, 71, 58, 32, 120, 10 ], \"_TRANSPORT\" : \"stdout\" }",
                "program: BUG: x",
            ),
            (
                b"{\"host\":\"w01\",\"message\":\"[    1.234567] BUG: x \\u003cIRQ\\u003e\"}",
                "BUG: x <IRQ>",
            ),
            (
                b"{\"level\":\"error\",\"message\":\"BUG: x\"}",
                "{\"level\":\"error\",\"message\":\"BUG: x\"}",
            ),
            (
                b"[    1.234567]  [&lt;ffff&gt;] x &amp;lt; &quot;",
                "[<ffff>] x &lt; \"",
            ),
            (b"\0\0\0\0\0\0\0\0\0\0[    1.234567] BUG: x", "BUG: x"),
            (b"\xef\xbb\xbf[    1.234567] BUG: x", "BUG: x"),
            // Of an export; the second has another line behind it.
            (b"\x07\0\0\0\0\0\0\0BUG: \x07x\n", "BUG: \u{7}x"),
            (b"\x2c\x01\0\0\0\0\0\0BUG: x\n", "BUG: x"),
            (b"\x02\0\0\0\0\0\0\0BUG: x\n", "\u{2}\0\0\0\0\0\0\0BUG: x"),
            (b"\xff\n", "\u{fffd}"),
            (b"\n", ""),
        ] {
            assert_eq!(strip(&clean(line)), expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn stripping_ends_and_twice_is_once(line in "[<\\[\\]> 0-9.,;TC:kern-]{0,40}\\PC{0,20}") {
            let once = strip(&line);
            prop_assert_eq!(strip(once), once);
        }

        #[test]
        fn any_bytes_are_cleaned(line in prop::collection::vec(any::<u8>(), 0..200)) {
            const STEERS: [char; 2] = ['\u{1b}', '\r'];
            let text = clean(&line);
            prop_assert!(!text.contains(STEERS));
        }
    }
}
