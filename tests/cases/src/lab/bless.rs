//! Keeps consoles of deaths as test data of the decoder, with what it reads in
//! them now: to be looked at by a person before it is believed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use harness::vm::ConsoleLine;

/// Where they belong, from the root of the work tree.
pub const FOLDER: &str = "agent/agent-decode/testdata";

/// Writes the console of one death since `since`, and says where. What somebody
/// has left out of the header of an older file, because it is not to be
/// believed, stays out.
pub fn write(
    dir: &Path,
    kernel: &str,
    way: &str,
    since: Instant,
    console: &[ConsoleLine],
) -> Result<PathBuf> {
    let mut log = String::new();
    for (_, line) in console.iter().filter(|(at, _)| *at >= since) {
        writeln!(log, "{line}")?;
    }
    let path = dir.join(format!("lab-{kernel}-{way}.txt"));
    let older = fs::read(&path).unwrap_or_default();
    let header = header(&log, &String::from_utf8_lossy(&older))?;
    fs::write(&path, format!("{header}\n{log}"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What the decoder reads, in the form of `agent-decode/tests/testdata.rs`.
fn header(log: &str, older: &str) -> Result<String> {
    let mut text = String::new();
    let Some(report) = agent_decode::reason(agent_decode::reports(log.as_bytes())) else {
        return Ok("KIND: none\nCODE: none\n".to_owned());
    };
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let fields = [
        ("KIND", report.kind.as_str().to_owned()),
        ("CODE", report.kind.reason().as_str().to_owned()),
        ("TITLE", report.title),
        ("LINE", report.line),
        ("BLAMED", or_none(report.blamed_function)),
        ("FUNCTION", or_none(report.fault_function)),
        ("MODULE", or_none(report.module)),
        ("RELEASE", or_none(report.kernel_release)),
        ("COMM", or_none(report.comm)),
        ("CORRUPTED", or_none(report.corrupted)),
    ];
    let older: Vec<&str> = older.lines().take_while(|line| !line.is_empty()).collect();
    for (name, value) in fields {
        if older.is_empty() || older.iter().any(|line| line.starts_with(name)) {
            writeln!(text, "{name}: {value}")?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_the_decoder_reads() -> Result<()> {
        let log = "[    1.0] Kernel panic - not syncing: boom\n";
        let all = header(log, "")?;
        assert!(all.starts_with("KIND: Panic\nCODE: KernelPanic\n"), "{all}");
        assert!(all.contains("\nFUNCTION: none\n"), "{all}");
        let older = "CODE: Oops\nCOMM: init\n\nTITLE: this is the log\n";
        assert_eq!(header(log, older)?, "CODE: KernelPanic\nCOMM: none\n");
        let nothing = header("[    1.0] all is well\n", "")?;
        assert_eq!(nothing, "KIND: none\nCODE: none\n");
        Ok(())
    }
}
