//! `cargo xtask test`.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::pass::{self, Built};
use crate::run;
use crate::setup::{self, Need};

/// Run the tests: units and properties, kernels that die in VMs, packets that this
/// machine's kernel drops, and a real API server.
///
/// Ends with a line `N passed, N failed`. A part that cannot run here says
/// `SKIPPED` and why; with CI=true that is a failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only units and properties: no VM, no network namespace, no API server.
    #[arg(long)]
    quick: bool,
    /// Also write one JSON object a part into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What came of one part.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// What failed, by name, as far as it was said.
    failures: Vec<String>,
}

struct Part {
    name: &'static str,
    counts: Counts,
    time: Duration,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    let mut parts = Vec::new();
    let mut part = |name, body: &dyn Fn() -> Result<Counts>| {
        let start = Instant::now();
        run::say(name);
        let counts = body().unwrap_or_else(|error| {
            eprintln!("    {error:#}");
            Counts {
                failed: 1,
                failures: vec![format!("{error:#}")],
                ..Counts::default()
            }
        });
        let time = start.elapsed();
        eprintln!("    {name}: {}, {}", counts.summary(), run::took(time));
        parts.push(Part { name, counts, time });
    };
    part("units and properties", &|| {
        setup::require(&[Need::Rust])?;
        let mut command = run::cargo(run::root());
        // The tests of `cases` boot machines; their turn comes below.
        command.args([
            "test",
            "--workspace",
            "--exclude",
            "cases",
            "--no-fail-fast",
        ]);
        let all = counted(&mut command)?;
        Ok(all.plus(counted(of_cases().args(["--lib", "--bins"]))?))
    });
    if !args.quick {
        part("lab", &|| {
            if let Some(reason) = setup::obstacle(&[Need::Ebpf, Need::Musl, Need::Lab]) {
                return Ok(skipped(&reason));
            }
            counted(pass::prepare("lab", true)?.arg("--quick"))
        });
        part("packets", &|| {
            if let Some(reason) = setup::obstacle(&[Need::Ebpf, Need::Musl, Need::Network]) {
                return Ok(skipped(&reason));
            }
            let mut command = of_cases();
            command.args(["--test", "native_*"]);
            Built::all(false)?.name_to(&mut command);
            // What was skipped is told by tests that pass.
            counted(command.args(["--", "--show-output"]))
        });
        part("Kubernetes", &|| {
            if let Some(reason) = setup::obstacle(&[Need::ControlPlane, Need::Musl]) {
                return Ok(skipped(&reason));
            }
            let mut command = of_cases();
            command.args(["--test", "kube_*"]);
            Built::all(false)?.name_to(&mut command);
            counted(&mut command)
        });
    }

    let total = parts
        .iter()
        .fold(Counts::default(), |sum, part| sum.plus(part.counts.clone()));
    if let Some(path) = &args.json {
        let lines: String = parts.iter().map(Part::json).collect();
        std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Who reads only the end of a long log sees what it was.
    for failure in &total.failures {
        println!("FAILED: {failure}");
    }
    if ci && total.skipped > 0 {
        eprintln!("CI is set: what is skipped here counts as failed");
    }
    println!("{}", total.summary());
    if total.failed > 0 || ci && total.skipped > 0 {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Tests of `cases`; which, is added.
fn of_cases() -> Command {
    let mut command = run::cargo(run::root());
    command.args(["test", "--package", "cases", "--no-fail-fast"]);
    command
}

fn skipped(reason: &str) -> Counts {
    println!("SKIPPED: {reason}");
    Counts {
        skipped: 1,
        ..Counts::default()
    }
}

/// Runs a program, shows what it says and counts the results in it.
fn counted(command: &mut Command) -> Result<Counts> {
    count(command, &mut std::io::stdout())
}

fn count(command: &mut Command, out: &mut dyn Write) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", run::line(command)))?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        // A reader that has gone away must not end the tests.
        let _ = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
        counts.add(&String::from_utf8_lossy(&line));
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        eprintln!("    {} ended with {status}", run::line(command));
        counts.failed = 1;
        let ended = format!("{} ended with {status}", run::line(command));
        counts.failures.push(ended);
    }
    Ok(counts)
}

impl Counts {
    /// Takes in a line of libtest (`test result: ok. 3 passed; 0 failed; …`), a
    /// summary like our own, or a case that failed or was skipped.
    fn add(&mut self, line: &str) {
        let of_libtest = line.strip_prefix("test ");
        let of_libtest = of_libtest.and_then(|rest| rest.strip_suffix(" ... FAILED"));
        if let Some(failure) = of_libtest.or_else(|| line.strip_prefix("FAILED: ")) {
            self.failures.push(failure.to_owned());
            return;
        }
        if line.starts_with("SKIPPED:") {
            self.skipped += 1;
            return;
        }
        let text = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ").map_or(rest, |(_, counts)| counts),
            None => line,
        };
        let mut found = Self::default();
        for field in text.split([',', ';']) {
            let Some((number, word)) = field.trim().split_once(' ') else {
                return;
            };
            let Ok(number) = number.parse::<u64>() else {
                // libtest ends with "finished in 0.00s".
                continue;
            };
            match word {
                "passed" => found.passed = number,
                "failed" => found.failed = number,
                "skipped" => found.skipped = number,
                _ => {}
            }
        }
        self.passed += found.passed;
        self.failed += found.failed;
        self.skipped += found.skipped;
    }

    fn plus(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self
    }

    fn summary(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

impl Part {
    fn json(&self) -> String {
        let Counts {
            passed,
            failed,
            skipped,
            failures: _,
        } = &self.counts;
        let line = serde_json::json!({
            "test": self.name,
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "seconds": self.time.as_secs_f64(),
        });
        format!("{line}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_all_binaries() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
            "12 passed, 1 failed, 2 skipped",
            "SKIPPED: no KVM",
            "test silence::a_lease ... ok",
            "test silence::another ... FAILED",
            "FAILED: 6.1 x2 machine-check: the machine hung",
            "the driver says: 5 passed by",
            "",
        ] {
            counts.add(line);
        }
        let expected = Counts {
            passed: 16,
            failed: 3,
            skipped: 3,
            failures: vec![
                "silence::another".to_owned(),
                "6.1 x2 machine-check: the machine hung".to_owned(),
            ],
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_program_that_fails_without_a_count_is_one_failure() {
        let counts = count(&mut Command::new("false"), &mut Vec::new()).expect("it starts");
        assert_eq!(counts.summary(), "0 passed, 1 failed");
    }

    #[test]
    fn what_a_program_prints_is_shown_and_counted() {
        let mut shown = Vec::new();
        let counts = count(Command::new("echo").arg("2 passed, 0 failed"), &mut shown);
        assert_eq!(counts.expect("it starts").summary(), "2 passed, 0 failed");
        assert_eq!(shown, b"2 passed, 0 failed\n");
    }
}
