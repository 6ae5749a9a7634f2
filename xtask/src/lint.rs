//! `cargo xtask lint`.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::build::Arch;
use crate::setup::{self, Need};
use crate::source::Tree;
use crate::{ebpf, licences, rooms, run};

/// Check format, clippy, the rules of the rooms, and licences.
///
/// All parts run, also after one has failed. No network is needed, except for
/// the advisories, which are left out where cargo-deny or its database cannot
/// be had.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what takes less than a second: format and the rules of the rooms.
    #[arg(long)]
    quick: bool,
}

/// How a part ended that found nothing.
enum Outcome {
    Done,
    Skipped(&'static str),
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    setup::require(&[Need::Rust])?;
    let mut failed = Vec::new();
    let mut part = |name: &'static str, check: &dyn Fn() -> Result<Outcome>| {
        let start = Instant::now();
        run::say(name);
        match check() {
            Ok(Outcome::Done) => eprintln!("    {name}: ok, {}", run::took(start.elapsed())),
            Ok(Outcome::Skipped(reason)) => eprintln!("    {name}: SKIPPED: {reason}"),
            Err(error) => {
                eprintln!(
                    "    {name}: FAILED, {}: {error:#}",
                    run::took(start.elapsed())
                );
                failed.push(name);
            }
        }
    };
    part("format", &format);
    part("rooms", &room_rules);
    if !args.quick {
        part("licences, bans and sources", &check_licences);
        part("advisories", &advisories);
        part("clippy, eBPF", &clippy_ebpf);
        part("clippy", &clippy);
    }
    if failed.is_empty() {
        println!("lint: ok");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("lint: FAILED: {}", failed.join("; "));
        Ok(ExitCode::FAILURE)
    }
}

fn format() -> Result<Outcome> {
    run::loudly(
        "the format check (`cargo fmt --all` puts it right)",
        run::cargo(run::root()).args(["fmt", "--all", "--check"]),
    )?;
    // From the root, so that the stable rustfmt formats both workspaces.
    run::loudly(
        "the format check (`cargo fmt --manifest-path agent-ebpf/Cargo.toml` puts it right)",
        run::cargo(run::root()).args([
            "fmt",
            "--manifest-path",
            "agent-ebpf/Cargo.toml",
            "--check",
        ]),
    )?;
    Ok(Outcome::Done)
}

fn room_rules() -> Result<Outcome> {
    let tree = Tree::read(run::root())?;
    let findings: Vec<_> = rooms::check(&tree)
        .iter()
        .map(ToString::to_string)
        .collect();
    list(&findings, tree.files.len(), "files")
}

fn check_licences() -> Result<Outcome> {
    let (count, findings) = licences::check()?;
    list(&findings, count, "packages")
}

fn list(findings: &[String], looked_at: usize, of: &str) -> Result<Outcome> {
    for finding in findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(Outcome::Done),
        n => anyhow::bail!("{n} findings in {looked_at} {of}"),
    }
}

/// By cargo-deny, if it is there and reaches its database.
fn advisories() -> Result<Outcome> {
    let output = Command::new("cargo-deny")
        .current_dir(run::root())
        .args(["--log-level", "error", "check", "--config"])
        .args([".cargo/deny.toml", "advisories"])
        .output();
    let Ok(output) = output else {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; `cargo install --locked cargo-deny`",
        ));
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Outcome::Done);
    }
    if said.contains("failed to fetch advisory database") {
        return Ok(Outcome::Skipped(
            "the advisory database cannot be fetched from here",
        ));
    }
    eprintln!("{said}");
    anyhow::bail!("cargo-deny found advisories, or failed")
}

fn clippy_ebpf() -> Result<Outcome> {
    setup::require(&[Need::Ebpf])?;
    for variant in ebpf::Variant::ALL {
        run::loudly(
            "clippy on agent-ebpf",
            ebpf::cargo("clippy", Arch::host(), variant)?.args(["--quiet", "--", "-D", "warnings"]),
        )?;
    }
    Ok(Outcome::Done)
}

fn clippy() -> Result<Outcome> {
    run::loudly(
        "clippy",
        run::cargo(run::root()).args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    Ok(Outcome::Done)
}
