//! Any bytes as a log: read at once or in pieces it says the same, and nothing grows
//! beyond its bounds.
#![no_main]

use agent_decode::{Decoder, begins, reports, strip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, log) = input;
    let whole = reports(log);
    let mut decoder = Decoder::default();
    let mut pieces = Vec::new();
    for piece in log.chunks(usize::from(size).max(1)) {
        decoder.push(piece);
        pieces.extend(decoder.reports());
    }
    pieces.extend(decoder.finish());
    assert_eq!(pieces, whole);
    for report in &whole {
        assert!(report.line.len() <= 1024 && report.frames.len() <= 64);
        assert!(report.modules.len() <= 256 && report.registers.len() <= 64);
        assert!(report.start <= report.end && report.end <= log.len() as u64 + 1);
        assert_eq!(report.fingerprint.len(), 16);
    }
    if let Ok(text) = std::str::from_utf8(log) {
        let line = text.lines().next().unwrap_or_default();
        assert!(line.trim_end_matches('\r').ends_with(strip(line)));
        // What is taken out of a file's lines before that is none of a line by itself.
        let is_line = !line.is_empty() && !line.starts_with('\u{feff}') && !line.contains('\0');
        if is_line && begins(strip(line)) {
            assert!(
                !reports(line.as_bytes()).is_empty(),
                "{line:?} begins a report and gives none"
            );
        }
    }
});
