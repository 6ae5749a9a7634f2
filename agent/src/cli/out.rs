//! What people and scripts see: the only place that writes to standard output.

use std::io::{self, Write};
use std::process::ExitCode;

/// Writes bytes as they are. A reader that has gone away is no error.
pub fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints an error with its causes and gives the exit code for it.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "lastgasp: {error:#}");
    ExitCode::from(1)
}

/// Makes text from a kernel, a file or the network safe for a terminal: control
/// and bidirectional characters are shown, not obeyed.
pub fn sanitize(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .flat_map(|c| {
            if hostile(c) {
                c.escape_unicode().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}
