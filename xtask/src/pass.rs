//! `cargo xtask demo`, `lab` and `bench`: build what they need and hand over.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::build::{self, Arch};
use crate::run;
use crate::setup::{self, Need};

/// Kill a kernel in a VM and watch what becomes of its pods.
///
/// Boots a node with the agent in it, starts the annotator, kills the node's
/// kernel and shows what arrives. All arguments go to the demo itself.
///
///   cargo xtask demo                 a NULL dereference in softirq, embedded store
///   cargo xtask demo --kube          the same with a real API server
///   cargo xtask demo --json FILE     the times, as one JSON object a line
///   cargo xtask demo -- --help       all there is
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Demo {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Kill every kernel in every way and check what arrived.
///
///   cargo xtask lab                  every kernel and way, once, with two CPUs
///   cargo xtask lab --all            the whole matrix, into docs/coverage.*; goes on
///                                    where it was stopped
///   cargo xtask lab --random 10000   deaths drawn at random
///   cargo xtask lab --runs 50 --json FILE
///   cargo xtask lab -- --help        all there is
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Lab {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Measure, beside a yardstick, in one run.
///
///   cargo xtask bench                what there is
///   cargo xtask bench agent --json FILE
///   cargo xtask bench -- --help      all there is
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Bench {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Builds all and becomes the named binary of the cases.
pub(crate) fn run(bin: &str, args: &[OsString]) -> Result<ExitCode> {
    let mut command = prepare(bin, wants_arm64(bin, args))?;
    command.args(args);
    // The terminal, signals and the exit code are then its own.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", run::line(&command)))
}

/// Whether the kernels meant are, among others, for ARM: its binaries take minutes
/// to build. All are meant where none is named.
fn wants_arm64(bin: &str, args: &[OsString]) -> bool {
    let mut words = args.iter().map(|word| word.to_string_lossy());
    let names_kernels = words.any(|word| word.starts_with("--kernel"));
    let names_arm64 = args
        .iter()
        .any(|word| word.to_string_lossy().contains("arm64"));
    names_arm64 || bin == "lab" && !names_kernels
}

/// Builds the agent, the guest and the named binary, and gives the command
/// that runs it.
pub(crate) fn prepare(bin: &str, arm64: bool) -> Result<Command> {
    setup::require(&[Need::Lab])?;
    let built = Built::all(arm64)?;
    run::say(&format!("the {bin}"));
    let mut cargo = run::cargo(run::root());
    cargo.args(["build", "--package", "cases", "--bin", bin]);
    // What is measured runs in the machines, from the release build; the demo
    // and the lab only watch, so they take the profile that the tests have
    // built already. A bench is its own client.
    let profile = if bin == "bench" {
        cargo.arg("--release");
        "release"
    } else {
        "debug"
    };
    run::loudly(&format!("building the {bin}"), &mut cargo)?;
    let path = run::target_dir().join(profile).join(bin);
    let mut command = Command::new(path);
    command.current_dir(run::root());
    built.name_to(&mut command);
    Ok(command)
}

/// The binaries that the cases put into a machine.
#[derive(Debug)]
pub(crate) struct Built(Vec<(&'static str, PathBuf)>);

impl Built {
    /// Those for this machine, and for ARM if `arm64`.
    pub(crate) fn all(arm64: bool) -> Result<Self> {
        let mut built = vec![
            ("LASTGASP_BINARY", build::agent(Arch::X86_64, false)?),
            ("LASTGASP_GUEST", build::guest(Arch::X86_64)?),
        ];
        if arm64 {
            built.extend([
                ("LASTGASP_BINARY_ARM64", build::agent(Arch::Aarch64, false)?),
                ("LASTGASP_GUEST_ARM64", build::guest(Arch::Aarch64)?),
            ]);
        }
        Ok(Self(built))
    }

    /// Tells a command where they are.
    pub(crate) fn name_to(&self, command: &mut Command) {
        let set = |command: &mut Command, name: &str, path: &Path| {
            // Who sets it has built another one.
            if std::env::var_os(name).is_none() {
                command.env(name, path);
            }
        };
        for (name, path) in &self.0 {
            set(command, name, path);
        }
    }
}
