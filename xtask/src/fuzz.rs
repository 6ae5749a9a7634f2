//! `cargo xtask fuzz`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::run;
use crate::setup::{self, Need};

/// Where the targets are, from the root of the work tree.
const CRATE: &str = "tests/fuzz";
/// What LLVM adds to every function, for libFuzzer to see which ones an input reached
/// (clang.llvm.org/docs/SanitizerCoverage.html). There is no unsafe code in what is
/// fuzzed, so no sanitizer beside it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// Give every parser of foreign bytes inputs that nobody thought of.
///
/// Each target goes on from what earlier runs found (target/fuzz/corpus/TARGET). An input
/// that breaks it is kept in target/fuzz/found, and named: put it into a test of the
/// parser, mend it, and run again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The targets, by their names in tests/fuzz/fuzz_targets [default: all].
    targets: Vec<String>,
    /// Seconds for each.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    setup::require(&[Need::Rust])?;
    let known = targets()?;
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no target {unknown}: there are {}", known.join(", "));
    }
    let wanted = if args.targets.is_empty() {
        &known
    } else {
        &args.targets
    };
    let mut broken = Vec::new();
    for target in wanted {
        run::say(&format!("fuzz {target}, {} s", args.seconds));
        if !fuzz(target, args.seconds)? {
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() {
        println!("fuzz: ok, {} targets", wanted.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "fuzz: FAILED: {}; the inputs are in target/fuzz/found",
        broken.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn targets() -> Result<Vec<String>> {
    let folder = run::root().join(CRATE).join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        names.extend(
            name.filter(|_| path.extension().is_some_and(|e| e == "rs"))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

/// Runs one target; false if an input broke it.
fn fuzz(target: &str, seconds: u32) -> Result<bool> {
    let place = run::root().join("target/fuzz");
    let (corpus, found) = (place.join("corpus").join(target), place.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Command::new("cargo");
    command
        .args(["run", "--quiet", "--release", "--manifest-path"])
        .arg(run::root().join(CRATE).join("Cargo.toml"))
        // Build scripts are not for libFuzzer.
        .args([
            "--target",
            &setup::host_triple(),
            "--bin",
            target,
            "--target-dir",
        ])
        .arg(&place)
        .env("RUSTFLAGS", COVERAGE)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", found.display()))
        .args([
            "-print_final_stats=1",
            "-verbosity=0",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ])
        .arg(&corpus)
        .args(seeds(target));
    let status = command.status().context("cannot run cargo")?;
    Ok(status.success())
}

/// What a target begins with: real logs.
fn seeds(target: &str) -> Vec<PathBuf> {
    let logs = Path::new("agent/agent-decode/testdata");
    match target {
        "decode" => vec![run::root().join(logs), run::root().join(logs).join("bugs")],
        _ => Vec::new(),
    }
}
