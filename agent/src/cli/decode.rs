//! `lastgasp decode`: any kernel log into a report.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use agent_core::model::Report;
use agent_decode::Decoder;
use anyhow::Context as _;

use super::out;

/// Longest line that is looked at, in bytes; the rest of it is passed over.
const LINE_MAX: usize = 8 * 1024;
/// Exit code where the log holds no report.
const NOTHING: u8 = 3;

/// Say what a crash log means
///
/// Reads the log of a kernel (console, dmesg, syslog, netconsole, pstore), of
/// any size and in constant memory, and prints why it died, or the gravest
/// thing that happened if it did not.
///
/// Exit codes: 0 a report was found, 3 there is none in this log, 1 the log
/// could not be read, 2 the command line is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The log; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "human")]
    output: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A few lines for people
    Human,
    /// One JSON object
    Json,
    /// One YAML document
    Yaml,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { file, output } = args;
    let report = if file.as_os_str() == "-" {
        read(io::stdin().lock()).context("cannot read standard input")?
    } else {
        let open = File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        read(BufReader::with_capacity(1 << 16, open))
            .with_context(|| format!("cannot read {}", file.display()))?
    };
    let Some(report) = report else {
        return Ok(ExitCode::from(NOTHING));
    };
    let text = match output {
        Format::Human => human(&report),
        Format::Json => serde_json::to_string(&report)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(&report)?,
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read(mut log: impl BufRead) -> io::Result<Option<Report>> {
    let mut decoder = Decoder::default();
    let mut line = Vec::with_capacity(LINE_MAX);
    loop {
        let chunk = match log.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            take(&mut decoder, &line);
            return Ok(decoder.finish());
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let piece = &chunk[..end.unwrap_or(chunk.len())];
        let room = LINE_MAX - line.len();
        line.extend_from_slice(&piece[..piece.len().min(room)]);
        let used = piece.len() + usize::from(end.is_some());
        log.consume(used);
        if end.is_some() {
            take(&mut decoder, &line);
            line.clear();
        }
    }
}

fn take(decoder: &mut Decoder, line: &[u8]) {
    decoder.line(agent_decode::strip(&String::from_utf8_lossy(line)));
}

fn human(report: &Report) -> String {
    let mut text = format!("{}\n", safe(&report.title));
    let place = match (&report.fault_function, &report.module) {
        (Some(function), Some(module)) => Some(format!("{function} [{module}]")),
        (function, _) => function.clone(),
    };
    let rows = [
        ("reason", Some(report.code.as_str().to_owned())),
        ("said", Some(report.line.clone())),
        ("in", place),
        ("task", report.comm.clone()),
        ("kernel", report.kernel_release.clone()),
        ("damaged", report.corrupted.clone()),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            let _ = writeln!(text, "  {name:<8} {}", safe(&value));
        }
    }
    text
}

/// A crash log can hold anything, also what would steer a terminal.
fn safe(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::new(), |mut safe, c| {
        if steers(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_read_in_constant_memory() {
        let bug = b"[ 1.0] kernel BUG at a.c:1!\r\n".to_vec();
        let log = [&vec![b'x'; 1 << 20][..], b"\n", &bug].concat();
        // A reader that gives little at a time splits lines anywhere.
        for capacity in [1, 7, 4096] {
            let reader = BufReader::with_capacity(capacity, &log[..]);
            let report = read(reader).expect("readable").expect("a report");
            assert_eq!(report.line, "kernel BUG at a.c:1!");
        }
        assert_eq!(read(&b"\xff\xfe\n"[..]).expect("readable"), None);
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let log = "kernel BUG at \u{1b}[31m\u{202e}a.c:1!";
        let report = read(log.as_bytes()).expect("readable").expect("a report");
        let text = human(&report);
        assert!(text.lines().count() >= 3);
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
}
