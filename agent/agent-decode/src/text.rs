//! Short texts, taken apart: what `str` does for any pattern, for those that a line asks for
//! some dozens of times.

use memchr::{memchr, memchr_iter};

/// What stands before and behind the first `at`, which is ASCII.
pub(crate) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let found = memchr(at, text.as_bytes())?;
    Some((&text[..found], &text[found + 1..]))
}

/// What stands before the first `at`, which is ASCII; all of it where there is none.
pub(crate) fn before(text: &str, at: u8) -> &str {
    split_once(text, at).map_or(text, |(before, _)| before)
}

/// What stands before and behind the first `+0x`.
pub(crate) fn split_offset(text: &str) -> Option<(&str, &str)> {
    let is_offset = |at: &usize| text.as_bytes()[*at..].starts_with(b"+0x");
    let found = memchr_iter(b'+', text.as_bytes()).find(is_offset)?;
    Some((&text[..found], &text[found + "+0x".len()..]))
}

/// As `str::trim_start`, for what begins with a few spaces at most, as nearly every text.
pub(crate) fn trim_start(text: &str) -> &str {
    let spaces = text.bytes().take_while(|b| *b == b' ').count();
    let text = &text[spaces..];
    match text.as_bytes().first() {
        Some(b'!'..=b'~') => text,
        _ => text.trim_start(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_taken_apart_as_by_str(text in "[ \\t\u{a0}a.+0x/]{0,12}\\PC{0,4}") {
            prop_assert_eq!(split_once(&text, b'.'), text.split_once('.'));
            prop_assert_eq!(before(&text, b'.'), text.split('.').next().unwrap_or(""));
            prop_assert_eq!(split_offset(&text), text.split_once("+0x"));
            prop_assert_eq!(trim_start(&text), text.trim_start());
        }
    }
}
