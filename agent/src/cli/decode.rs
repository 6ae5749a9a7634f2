//! `lastgasp decode`: any kernel log into reports.

mod human;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use agent_decode::bugs::candidates;
use agent_decode::{Decoder, Report};
use anyhow::{Context as _, anyhow};
use serde::Serialize;

use super::known::Short;
use super::out::{self, Format, Output};
use crate::node::leftovers::{Log, logs};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 18;
/// Exit code where no log holds a report.
const NOTHING: u8 = 3;

/// Say what a crash log means
///
/// Reads logs of kernels (console, dmesg, syslog, journal, netconsole, pstore), of any
/// size and in constant memory, and prints each thing that went wrong: panics, oopses,
/// warnings, lockups, stalls, memory and hardware errors.
///
/// JSON is one object a line; `file`, and its bytes from `start` to `end`, say where.
///
/// Exit codes: 0 something was found, 3 nothing was, 1 a log could not be read, 2 the
/// command line is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lastgasp decode /var/log/kern.log
  dmesg | lastgasp decode
  lastgasp decode /sys/fs/pstore /var/lib/systemd/pstore /var/crash
  lastgasp decode -o json crash/*.txt | jq -r '[.file, .title] | @tsv'")]
pub(super) struct Args {
    /// Logs; `-` is standard input. Of a directory the records of pstore and the dmesgs of
    /// kdump in it; parts of one record are put together
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A report, and where it was found.
#[derive(Serialize)]
struct Found<'a> {
    file: &'a str,
    #[serde(flatten)]
    report: &'a Report,
    known_bugs: Vec<Short<'a>>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let mut found = 0_u64;
    let all_read = each(&args.files, &mut |name, report| {
        found += 1;
        print(name, report, args.output.output, found == 1)
    });
    match found {
        _ if !all_read => ExitCode::FAILURE,
        0 => ExitCode::from(NOTHING),
        _ => ExitCode::SUCCESS,
    }
}

/// Gives the reports of all these logs, each with its log's name; false: some could not be
/// read, and the user was told why.
pub(super) fn each(
    files: &[PathBuf],
    take: &mut impl FnMut(&str, &Report) -> anyhow::Result<()>,
) -> bool {
    let (logs, unreadable) = logs(files);
    if unreadable > 0 {
        out::fail(&anyhow!(
            "{unreadable} records of pstore cannot be read: they are damaged, of a user who is \
             not root, or compressed by another method than deflate"
        ));
    }
    let mut all_read = unreadable == 0;
    for log in logs {
        let name = match &log {
            Log::File(file) => file.display().to_string(),
            Log::Record(name, _) => name.clone(),
        };
        let result = open(&log).and_then(|log| {
            read(log, &mut |report| take(&name, report))
                .with_context(|| format!("cannot read {name}"))
        });
        // One that cannot be read is no reason not to read the others.
        if let Err(error) = result {
            out::fail(&error);
            all_read = false;
        }
    }
    all_read
}

fn open(log: &Log) -> anyhow::Result<Box<dyn Read + '_>> {
    let file = match log {
        Log::File(file) => file,
        Log::Record(_, text) => return Ok(Box::new(text.as_bytes())),
    };
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    let open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    Ok(Box::new(open))
}

/// Reads a log to its end, and gives each report as soon as it is complete.
fn read(
    mut log: impl Read,
    take: &mut impl FnMut(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match log.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => decoder.push(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        for report in decoder.reports() {
            take(&report)?;
        }
    }
    for report in decoder.finish() {
        take(&report)?;
    }
    Ok(())
}

fn print(file: &str, report: &Report, output: Format, is_first: bool) -> anyhow::Result<()> {
    let known = candidates(report);
    let found = || Found {
        file,
        report,
        known_bugs: known.iter().map(Short::from).collect(),
    };
    let text = match output {
        Format::Human => human::text(file, report, &known, is_first),
        Format::Json => out::json_line(&found())?,
        Format::Yaml => format!("---\n{}", out::yaml(&found())?),
    };
    out::bytes(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(log: impl Read) -> Vec<Report> {
        let mut all = Vec::new();
        let mut take = |report: &Report| {
            all.push(report.clone());
            Ok(())
        };
        read(log, &mut take).expect("readable");
        all
    }

    /// Gives a few bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_line_without_end_is_read_in_constant_memory() {
        let bug = b"[ 1.0] kernel BUG at a.c:1!\r\n".to_vec();
        let log = [&vec![b'x'; 1 << 20][..], b"\n", &bug].concat();
        for count in [1, 7, 4096, usize::MAX] {
            let reports = all(Slowly(&log, count));
            assert_eq!(reports.len(), 1, "{count}");
            assert_eq!(reports[0].line, "kernel BUG at a.c:1!");
            let bytes = reports[0].start as usize..reports[0].end as usize;
            assert_eq!(&log[bytes], &bug[..], "{count}");
        }
        assert_eq!(all(&b"\xff\xfe\n"[..]), []);
    }

    #[test]
    fn an_object_says_which_file_and_which_bytes() {
        let reports = all(&b"x\n[ 1.0] kernel BUG at a.c:1!\n"[..]);
        let found = Found {
            file: "crash.txt",
            report: &reports[0],
            known_bugs: Vec::new(),
        };
        let object = serde_json::to_value(&found).expect("an object");
        let of = |name: &str| object[name].to_string();
        assert_eq!(of("file"), "\"crash.txt\"");
        assert_eq!((of("start"), of("end")), ("2".to_owned(), "30".to_owned()));
        assert_eq!(of("source_file"), "\"a.c\"");
    }
}
