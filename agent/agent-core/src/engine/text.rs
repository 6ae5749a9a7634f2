//! Text that is safe to write anywhere.

use std::fmt::Write;

use crate::model::Timestamp;

/// Escapes what a terminal, a page or a reader could be misled by (control
/// characters, line breaks, invisible and bidirectional formatting), and cuts
/// the text to `max` bytes, with an ellipsis in place of what is missing.
pub fn escaped(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    let mut piece = String::new();
    for c in text.trim().chars() {
        piece.clear();
        if is_plain(c) {
            piece.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(piece, "{}", c.escape_unicode());
        }
        if out.len() + piece.len() > max {
            while out.len() + '…'.len_utf8() > max && out.pop().is_some() {}
            if '…'.len_utf8() <= max {
                out.push('…');
            }
            break;
        }
        out.push_str(&piece);
    }
    out
}

/// Whether a character shows as itself and moves nothing around it.
pub fn is_plain(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !hidden
}

/// RFC 3339 in UTC with milliseconds: `2026-11-20T07:31:02.045Z`.
pub fn rfc3339(at: Timestamp) -> String {
    let (days, ms) = (at.0 / 86_400_000, at.0 % 86_400_000);
    // Days to date in the proleptic Gregorian calendar: years begin in March,
    // so that the leap day is the last one (H. Hinnant, "chrono-compatible
    // low-level date algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second, milli) = (
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1_000 % 60,
        ms % 1_000,
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }

    #[test]
    fn what_misleads_is_escaped() {
        for (raw, want) in [
            ("plain [boom] é", "plain [boom] é"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\nb\tc", "a\\u{a}b\\u{9}c"),
            ("\u{202e}evil", "\\u{202e}evil"),
            ("  trimmed \n", "trimmed"),
        ] {
            assert_eq!(escaped(raw, 1024), want);
        }
        assert_eq!(escaped("abcdefgh", 6), "abc…");
    }

    proptest! {
        #[test]
        fn escaped_text_is_bounded_and_plain(text in "\\PC*|.*", max in 0usize..64) {
            let got = escaped(&text, max);
            prop_assert!(got.len() <= max);
            prop_assert!(got.chars().all(is_plain), "{got:?}");
        }
    }
}
