//! Kernel logs in, crash reports out.
//!
//! Pure: no I/O, no clock, no regular expressions. It never fails and never
//! panics: a damaged log gives a report that says so. What the kernel prints
//! is a table (`wording.rs`), and so is what is never to blame (`skip.txt`).

#![forbid(unsafe_code)]

mod advice;
mod blame;
pub mod bugs;
mod decoder;
mod distribution;
mod frames;
mod header;
mod incident;
mod kind;
mod needles;
mod report;
mod text;
mod transport;
mod wording;

pub use decoder::Decoder;
pub use distribution::{Level, level};
pub use frames::Frame;
pub use header::Taint;
pub use kind::Kind;
pub use report::{Report, Source, reason};
pub use transport::{Caller, Stripped, clean, printed_ns, strip, stripped};

use agent_core::model::{self, Line};

/// Makes the tables that are made at first use, so that the first crash does not wait for
/// them: some milliseconds.
pub fn prepare() {
    bugs::known();
    let _ = reports(b"kernel BUG at a.c:1!\nRIP: 0010:f+0x1/0x2\nCall Trace:\n f+0x1/0x2\n");
}

/// All reports of a log, in whatever way it was written down.
pub fn reports(log: &[u8]) -> Vec<Report> {
    let mut decoder = Decoder::default();
    decoder.push(log);
    decoder.finish().collect()
}

/// Whether a report begins with this line, which is stripped (see [`strip`]).
pub fn begins(line: &str) -> bool {
    let line = line.trim();
    wording::panic(line).is_some() || wording::of(line).is_some()
}

/// All reports of log lines that an agent sent.
pub fn reports_of(lines: &[Line]) -> Vec<Report> {
    let mut decoder = Decoder::default();
    let mut at = 0;
    for line in lines {
        let text = Stripped {
            text: &line.text,
            printed_ns: (line.mono_ns > 0).then_some(line.mono_ns),
            ..Stripped::default()
        };
        let end = at + line.text.len() as u64 + 1;
        decoder.stripped(&text, at, end);
        at = end;
    }
    decoder.finish().collect()
}

/// The report of these log lines: why this boot ended, or the gravest that
/// happened if it did not. `None` where nothing happened.
pub fn decode(lines: &[Line]) -> Option<model::Report> {
    Some(reason(reports_of(lines))?.summary())
}

/// The same for the text of a log, in whatever way it was written down.
pub fn decode_text(log: &str) -> Option<model::Report> {
    Some(reason(reports(log.as_bytes()))?.summary())
}
