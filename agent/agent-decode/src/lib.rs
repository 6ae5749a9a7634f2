//! Kernel log lines in, crash reports out.
//!
//! Pure: no I/O, no clock, no regular expressions. It never fails and never
//! panics: a damaged log gives a report that says so. What the kernel prints
//! is a table (`cause.rs`), not code.

#![forbid(unsafe_code)]

mod cause;
mod decoder;
mod frames;
mod text;

pub use decoder::Decoder;
pub use text::{printed_ns, strip};

use agent_core::model::{Line, Report};

/// Whether a report begins with this line, which is stripped (see [`strip`]).
pub fn begins(line: &str) -> bool {
    cause::of(decoder::clip(line.trim())).is_some()
}

/// The report of these log lines: why this boot ended, or the gravest that
/// happened if it did not. `None` where nothing happened.
pub fn decode(lines: &[Line]) -> Option<Report> {
    let mut decoder = Decoder::default();
    // One printk may print several lines.
    for text in lines.iter().flat_map(|line| line.text.split('\n')) {
        decoder.line(text);
    }
    decoder.finish()
}

/// The same for the text of a log, in whatever way it was written down.
pub fn decode_text(log: &str) -> Option<Report> {
    let mut decoder = Decoder::default();
    for line in log.lines() {
        decoder.line(strip(line));
    }
    decoder.finish()
}
