//! `cargo xtask fuzz`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run;
use crate::setup::{self, Need};

/// Where the targets are, from the root of the work tree.
const CRATE: &str = "tests/fuzz";
/// Where it is kept how much there was.
const KEPT: &str = "docs/fuzz.json";
/// What libFuzzer says at its end of how much that was.
const EXECUTED: &str = "stat::number_of_executed_units:";
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
/// parser, mend it, and run again. How many inputs there were, over all runs, is kept in
/// docs/fuzz.json.
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
        let end = fuzz(target, args.seconds)?;
        let sum = add(target, end)?;
        println!("{target}: {} inputs, {sum} over all runs", end.inputs);
        if end.broke {
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

/// How a run of a target ended.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    inputs: u64,
    /// One of them broke it.
    broke: bool,
}

/// What a target has been given, over all runs.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Sum {
    inputs: u64,
    runs: u64,
    /// Runs that ended with an input that broke it.
    broken: u64,
}

/// Adds a run to what is kept; gives all inputs of the target.
fn add(target: &str, end: End) -> Result<u64> {
    let path = run::root().join(KEPT);
    let mut sums: BTreeMap<String, Sum> = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} has something else", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let sum = sums.entry(target.to_owned()).or_default();
    sum.inputs += end.inputs;
    sum.runs += 1;
    sum.broken += u64::from(end.broke);
    let inputs = sum.inputs;
    let text = serde_json::to_string_pretty(&sums)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(inputs)
}

/// Runs one target.
fn fuzz(target: &str, seconds: u32) -> Result<End> {
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
        .args(seeds(target))
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let mut end = End::default();
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|said| BufReader::new(said).lines())
    {
        let line = line.context("cannot read what libFuzzer says")?;
        match line.strip_prefix(EXECUTED) {
            Some(inputs) => end.inputs = inputs.trim().parse().unwrap_or(0),
            None => eprintln!("{line}"),
        }
    }
    end.broke = !child.wait().context("cannot wait for cargo")?.success();
    if end.broke && end.inputs == 0 {
        bail!("{target} was given nothing: what is said above is why");
    }
    Ok(end)
}

/// What a target begins with: real logs.
fn seeds(target: &str) -> Vec<PathBuf> {
    let logs = Path::new("agent/agent-decode/testdata");
    match target {
        "decode" => vec![run::root().join(logs), run::root().join(logs).join("bugs")],
        _ => Vec::new(),
    }
}
