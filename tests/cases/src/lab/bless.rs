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

/// Writes the console of one death since `since`, and says where.
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
    fs::write(&path, format!("{}\n{log}", header(&log)?))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What the decoder reads, in the form of `agent-decode/tests/testdata.rs`.
fn header(log: &str) -> Result<String> {
    let mut text = String::new();
    let Some(report) = agent_decode::decode_text(log) else {
        return Ok("CODE: none\n".to_owned());
    };
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    writeln!(text, "CODE: {}", report.code.as_str())?;
    writeln!(text, "TITLE: {}", report.title)?;
    writeln!(text, "LINE: {}", report.line)?;
    writeln!(text, "FUNCTION: {}", or_none(&report.fault_function))?;
    writeln!(text, "MODULE: {}", or_none(&report.module))?;
    writeln!(text, "RELEASE: {}", or_none(&report.kernel_release))?;
    writeln!(text, "COMM: {}", or_none(&report.comm))?;
    writeln!(text, "CORRUPTED: {}", or_none(&report.corrupted))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_the_decoder_reads() -> Result<()> {
        let header = header("[    1.0] Kernel panic - not syncing: boom\n")?;
        assert!(header.starts_with("CODE: KernelPanic\n"), "{header}");
        assert!(header.contains("\nFUNCTION: none\n"), "{header}");
        assert_eq!(super::header("[    1.0] all is well\n")?, "CODE: none\n");
        Ok(())
    }
}
