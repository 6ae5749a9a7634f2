//! What transports put around a line of the kernel's log, and how to get rid of it.

use std::borrow::Cow;

use memchr::memchr2;

use crate::text::{split_once, trim_start};

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
pub(crate) fn clean(line: &[u8]) -> Cow<'_, str> {
    let line = unframed(line);
    let end = line.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
    let line = &line[..end.map_or(0, |end| end + 1)];
    // Nearly always it is text, which is much sooner seen than mended.
    let line = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
    let line = match line.starts_with('{').then(|| json(&line)).flatten() {
        Some(inner) => Cow::Owned(inner),
        None => line,
    };
    if memchr2(0x1b, b'\r', line.as_bytes()).is_some() {
        return Cow::Owned(plain(&line));
    }
    line
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
            file.flatten()
        });
        let Some(shorter) = next else {
            found.text = trimmed;
            found.is_foreign = date(trimmed).is_some() || is_field(trimmed);
            return found;
        };
        rest = shorter;
        found.has_prefix = true;
    }
}

impl Stripped<'_> {
    /// The line without one of the things that stand before it.
    fn once<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let rest = match line.as_bytes().first()? {
            b'[' => self.bracket(line),
            b'<' => level(line),
            b'k' => line.strip_prefix("kernel: ").or_else(|| facility(line)),
            b'M' => line.strip_prefix("MESSAGE="),
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
        if let Some(caller) = caller(inside) {
            self.caller = Some(caller);
            return Some(rest);
        }
        is_date(inside).then_some(rest)
    }
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
    if !is_stamp || !(rest.is_empty() || rest.starts_with(" <")) {
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

/// `Sat Nov 21 01:40:46 2026`, and `Nov21 01:40`.
fn is_date(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or("");
    if first.get(..3).is_some_and(is_month) {
        let clock = words
            .next()
            .is_some_and(|w| w.len() == 5 && w.as_bytes()[2] == b':');
        return is_number(&first[3..], 2) && clock && words.next().is_none();
    }
    first.len() == 3
        && words.next().is_some_and(is_month)
        && words.next().is_some_and(|day| is_number(day, 2))
        && words.next().is_some_and(is_clock)
        && words.next().is_some_and(|year| is_number(year, 4))
        && words.next().is_none()
}

/// What stands behind a date and a clock, in whichever way they are written.
fn date(line: &str) -> Option<&str> {
    // Few lines begin with a number or the name of a day or month, and the others need no
    // more than that.
    let (first, rest) = match line.as_bytes() {
        [b'0'..=b'9', ..] | [b'A'..=b'Z', _, _, b' ', ..] => word(line)?,
        _ => return None,
    };
    if is_iso(first) || is_epoch(first) {
        return Some(rest);
    }
    let clock = |rest| {
        let (clock, rest) = word(rest)?;
        is_clock(clock).then_some(rest)
    };
    if is_month(first) {
        // Some write the year before the clock, some behind it.
        let without_year = |rest| match word(rest) {
            Some((year, after)) if is_number(year, 4) => after,
            _ => rest,
        };
        let (day, rest) = word(rest)?;
        let rest = clock(without_year(rest))?;
        return is_number(day, 2).then(|| without_year(rest));
    }
    if is_day(first) {
        // journalctl -o short-full: `Sat 2026-11-21 01:40:46 UTC w01 kernel: `.
        let (date, rest) = word(rest)?;
        let (_zone, rest) = word(clock(rest)?)?;
        return is_iso_date(date).then_some(rest);
    }
    is_iso_date(first).then(|| clock(rest)).flatten()
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
    for (at, _) in name.match_indices([':', '-']) {
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

/// The text without what steers a terminal, and of what was written over with a carriage
/// return only what is left.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\r' {
            continue;
        }
        if c != '\u{1b}' {
            text.push(c);
            continue;
        }
        // ECMA-48: a control sequence ends with a byte from @ to ~.
        if rest.clone().next() == Some('[') {
            rest.next();
            rest.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    text
}

/// What `journalctl -o json` writes as a list of bytes: a text with control characters.
fn json_bytes(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\"MESSAGE\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let list = rest.strip_prefix('[')?.split(']').next()?;
    let numbers = list
        .split(',')
        .map_while(|number| number.trim().parse().ok());
    let bytes: Vec<u8> = numbers.collect();
    Some(String::from_utf8_lossy(&bytes).replace(['\n', '\r'], " "))
}

/// What is logged, of an object as container runtimes and `journalctl -o json` write it.
fn json(line: &str) -> Option<String> {
    let value = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.trim_start()
            .strip_prefix(':')?
            .trim_start()
            .strip_prefix('"')
    };
    let listed = json_bytes(line);
    let text = value("\"MESSAGE\"").or_else(|| value("\"log\""));
    if text.is_none() && listed.is_none() {
        return None;
    }
    let by = value("\"SYSLOG_IDENTIFIER\"").or_else(|| value("\"_TRANSPORT\""));
    let mut out = String::with_capacity(line.len());
    if by.is_some_and(|by| !by.starts_with("kernel\"")) {
        out.push_str("program: ");
    }
    if let Some(listed) = listed {
        out.push_str(listed.trim_end());
        return Some(out);
    }
    let mut chars = text?.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next()? {
                'n' | 'r' => out.push(' '),
                't' => out.push('\t'),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok();
                    out.extend(code.and_then(char::from_u32));
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    Some(out.trim_end().to_owned())
}

fn word(text: &str) -> Option<(&str, &str)> {
    split_once(trim_start(text), b' ')
}

fn is_number(text: &str, digits: usize) -> bool {
    (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// `01:40:46`, `01:40:46.123456`.
fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.split(':').take(3).filter(|n| n.len() >= 2).count() == 3
}

/// `2026-11-21T01:40:46.123+00:00`.
fn is_iso(text: &str) -> bool {
    text.get(..10).is_some_and(is_iso_date)
        && text.as_bytes().get(10) == Some(&b'T')
        && text.get(11..).is_some_and(is_clock)
}

fn is_iso_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        })
}

/// `1763689246.123456`, as `journalctl -o short-unix` has it.
fn is_epoch(text: &str) -> bool {
    let parts = split_once(text, b'.');
    parts.is_some_and(|(s, us)| s.len() == 10 && is_number(s, 10) && is_number(us, 9))
}

fn is_day(text: &str) -> bool {
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&text)
}

fn is_month(text: &str) -> bool {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    MONTHS.contains(&text)
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
