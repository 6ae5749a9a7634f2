//! What is going on, on standard error: it may take minutes the first time.

use std::io::Write as _;

/// One line for whoever waits.
pub fn say(text: &str) {
    // A closed standard error must not end a run.
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}
