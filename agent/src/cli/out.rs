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
