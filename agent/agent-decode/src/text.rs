//! What transports put in front of a line of the kernel's log, and how to get
//! rid of it.

/// The line without level, time stamp, caller, syslog header and line end, so
/// that it begins with the kernel's own words.
///
/// Knows: `<4>`, `[   12.345678]`, `[Sat Nov 21 01:40:46 2026]` (dmesg -T),
/// `[  T12]` and `[ C0]` (CONFIG_PRINTK_CALLER), syslog with either kind of
/// date, and netconsole's extended header
/// (Documentation/networking/netconsole.rst). A header that names a program
/// other than the kernel stays: what an application says is no crash.
pub fn strip(line: &str) -> &str {
    let mut rest = line.trim_end_matches(['\r', '\n']);
    // Each may stand before any other: a dmesg stamp inside a syslog line.
    loop {
        let trimmed = rest.trim_start();
        let next = level(trimmed)
            .or_else(|| bracket(trimmed))
            .or_else(|| syslog(trimmed))
            .or_else(|| extended(trimmed));
        match next {
            Some(shorter) => rest = shorter,
            None => return trimmed,
        }
    }
}

/// When a line was printed, in nanoseconds of the kernel's own clock, if a
/// stamp (`[   12.345678]`) is among what stands before its text.
pub fn printed_ns(line: &str) -> Option<u64> {
    let line = line.trim_start();
    let line = level(line).unwrap_or(line);
    let (inside, _) = line.strip_prefix('[')?.split_once(']')?;
    let (s, us) = inside.trim_start().split_once('.')?;
    if !is_number(s, 10) || us.len() != 6 || !is_number(us, 6) {
        return None;
    }
    let (s, us): (u64, u64) = (s.parse().ok()?, us.parse().ok()?);
    s.checked_mul(1_000_000_000)?.checked_add(us * 1_000)
}

/// `<4>`, also with a facility: `<30>`.
fn level(line: &str) -> Option<&str> {
    let (number, rest) = line.strip_prefix('<')?.split_once('>')?;
    is_number(number, 3).then_some(rest)
}

/// A time stamp or a caller in brackets.
fn bracket(line: &str) -> Option<&str> {
    let (inside, rest) = line.strip_prefix('[')?.split_once(']')?;
    let inside = inside.trim_start();
    let is_stamp = inside
        .split_once('.')
        .is_some_and(|(s, us)| is_number(s, 10) && is_number(us, 9));
    let is_caller = inside
        .strip_prefix(['T', 'C'])
        .is_some_and(|id| is_number(id, 10));
    (is_stamp || is_caller || is_date(inside)).then_some(rest)
}

/// `Sat Nov 21 01:40:46 2026`.
fn is_date(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    words.next().is_some_and(|day| day.len() == 3)
        && words.next().is_some_and(is_month)
        && words.next().is_some_and(|day| is_number(day, 2))
        && words.next().is_some_and(is_clock)
        && words.next().is_some_and(|year| is_number(year, 4))
        && words.next().is_none()
}

/// `Nov 21 01:40:46 w01 kernel: ` and `2026-11-21T01:40:46.123+00:00 w01 kernel: `.
fn syslog(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("kernel: ") {
        return Some(rest);
    }
    let (first, mut rest) = word(line)?;
    if is_month(first) {
        let (day, after) = word(rest)?;
        let (clock, after) = word(after)?;
        if !is_number(day, 2) || !is_clock(clock) {
            return None;
        }
        rest = after;
    } else if !(first.starts_with("20") && first.contains('T')) {
        return None;
    }
    let (_host, rest) = word(rest)?;
    rest.trim_start().strip_prefix("kernel:")
}

/// `12,373,1919878,-;`, also with a release before it.
fn extended(line: &str) -> Option<&str> {
    let (head, rest) = line.split_once(';')?;
    let is_header = |head: &str| {
        let mut fields = head.split(',');
        let numbers = fields.by_ref().take(3).filter(|f| is_number(f, 20)).count();
        numbers == 3
            && fields
                .next()
                .is_some_and(|flag| matches!(flag, "-" | "c" | "+"))
    };
    let after_release = head.split_once(',').map(|(_, fields)| fields);
    (is_header(head) || after_release.is_some_and(is_header)).then_some(rest)
}

fn word(text: &str) -> Option<(&str, &str)> {
    text.trim_start().split_once(' ')
}

fn is_number(text: &str, digits: usize) -> bool {
    (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.split(':').take(3).filter(|n| n.len() >= 2).count() == 3
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
            "Nov 21 01:40:46 w01 kernel: BUG: x",
            "Nov  1 01:40:46 w01 kernel: [    1.234567] BUG: x",
            "2026-11-21T01:40:46.123456+00:00 w01 kernel: BUG: x",
            "kernel: BUG: x",
            "12,373,1919878,-;BUG: x",
            "6.8.0-149-generic,12,439,2408583,-;BUG: x",
            "12,373,1919878,-,ncfrag=0/960;BUG: x",
        ] {
            assert_eq!(strip(line), "BUG: x", "{line:?}");
        }
    }

    #[test]
    fn a_stamp_gives_the_time() {
        for (line, ns) in [
            ("<1>[    1.234567] BUG: x", Some(1_234_567_000)),
            ("[    0.000001][   T12] BUG: x", Some(1_000)),
            ("[ 1.23] x", None),
            ("[x.234567] x", None),
            ("[9999999999.999999] x", Some(9_999_999_999_999_999_000)),
            ("BUG: x", None),
            ("[   T12] BUG: x", None),
        ] {
            assert_eq!(printed_ns(line), ns, "{line:?}");
        }
    }

    #[test]
    fn what_others_say_stays_theirs() {
        for line in [
            "Nov 21 01:40:46 w01 app[12]: kernel: BUG: x",
            "app: BUG: x",
            "[app] BUG: x",
            "[1] BUG: x",
            "a;BUG: x",
        ] {
            assert_eq!(strip(line), line);
        }
    }

    proptest! {
        #[test]
        fn stripping_ends_and_twice_is_once(line in "[<\\[\\]> 0-9.,;TC-]{0,40}\\PC{0,20}") {
            let once = strip(&line);
            prop_assert_eq!(strip(once), once);
        }
    }
}
