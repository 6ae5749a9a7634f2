//! Text out of bytes that anybody may have sent.

use std::borrow::Cow;

/// The bytes as text, with what is no UTF-8 replaced.
///
/// As `String::from_utf8_lossy`, which reads byte by byte; the check alone reads by the
/// word, and nearly all that comes is ASCII.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}
