//! The ways in which a date is written before a line, and what goes for one.

use memchr::memchr;

use super::{is_number, word};
use crate::text::{split_once, trim_start};

/// What stands in brackets as a date: `Sat Nov 21 01:40:46 2026`, `Nov21 01:40`; in the words
/// of any language: `sam. nov. 21 01:40:46 2026`; and as consoles are recorded:
/// `2026-11-21T01:40:46`, `01:40:46.123`.
pub(super) fn is_date(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    let first = words.next().unwrap_or("");
    if first.get(..3).is_some_and(is_month) {
        let clock = words
            .next()
            .is_some_and(|w| w.len() == 5 && w.as_bytes()[2] == b':');
        return is_number(&first[3..], 2) && clock && words.next().is_none();
    }
    let second = words.next();
    let Some(third) = words.next() else {
        let has_date = first.get(..10).is_some_and(is_iso_date);
        let clock = match second {
            None if has_date => first.get(11..),
            None => Some(first),
            Some(second) => has_date.then_some(second),
        };
        return clock.is_some_and(is_digital);
    };
    // Day and month are words of whichever language the machine speaks.
    is_number(third, 2)
        && words.next().is_some_and(is_digital)
        && words.next().is_some_and(|year| is_number(year, 4))
        && words.next().is_none()
}

/// What stands behind the kernel's name in a line that has a clock before it and no other
/// name, whatever else: days and months in other languages, facilities.
pub(super) fn behind_kernel(line: &str) -> Option<&str> {
    /// So far into its line it is looked for.
    const HEAD_MAX: usize = 96;
    let head = &line[..line.floor_char_boundary(HEAD_MAX)];
    // Most lines need no more than that.
    let colon = memchr(b':', head.as_bytes())?;
    let is_digit = |at: usize| head.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    if colon < 2 || !is_digit(colon - 1) || !is_digit(colon + 1) {
        return None;
    }
    let at = head.find(" kernel")?;
    let before = &line[..at];
    let rest = &line[at + " kernel".len()..];
    let rest = match rest.strip_prefix('[') {
        Some(id) => split_once(id, b']').filter(|(id, _)| is_number(id, 10))?.1,
        None => rest,
    };
    let mut words = before.split_ascii_whitespace();
    let has_clock = words.clone().any(|word| is_iso(word) || is_digital(word));
    let has_name = words.any(|word| word.ends_with(':'));
    rest.strip_prefix(':').filter(|_| has_clock && !has_name)
}

/// What stands behind a stamp that stands anywhere in a line: behind a prompt, a line's
/// number, or what another CPU was about to say.
pub(super) fn behind_stamp(line: &str) -> Option<&str> {
    /// Longer is what others say of a kernel's log.
    const BEFORE_MAX: usize = 64;
    let at = memchr(b'[', line.as_bytes()).filter(|at| (1..=BEFORE_MAX).contains(at))?;
    let is_quoted = line[..at].contains(['"', '=', ']', '\'', '`', '|']);
    (is_stamp(&line[at..]) && !is_quoted).then(|| &line[at..])
}

/// Whether a line begins with the kernel's own clock: `[   12.345678]`.
pub(super) fn is_stamp(line: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let Some(stamp) = line.strip_prefix('[').map(trim_start) else {
        return false;
    };
    let (s, rest) = stamp.split_at(digits(stamp));
    let us = rest.strip_prefix('.').unwrap_or("");
    !s.is_empty() && digits(us) == 6 && us[6..].starts_with(']')
}

/// What stands behind a date and a clock, in whichever way they are written.
pub(super) fn date(line: &str) -> Option<&str> {
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

/// `01:40:46`, `01:40:46.123456`.
pub(super) fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.split(':').take(3).filter(|n| n.len() >= 2).count() == 3
}

/// The same, and nothing like it: no address of a device.
fn is_digital(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8
        && bytes[..8].iter().enumerate().all(|(at, b)| match at {
            2 | 5 => *b == b':',
            _ => b.is_ascii_digit(),
        })
}

/// `2026-11-21T01:40:46.123+00:00`.
pub(super) fn is_iso(text: &str) -> bool {
    text.get(..10).is_some_and(is_iso_date)
        && text.as_bytes().get(10) == Some(&b'T')
        && text.get(11..).is_some_and(is_clock)
}

pub(super) fn is_iso_date(text: &str) -> bool {
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
