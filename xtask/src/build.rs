//! `cargo xtask build`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::elf::Elf;
use crate::setup::{self, Need};
use crate::{ebpf, run};

/// A machine that lastgasp runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Arch {
    /// 64 bit Intel and AMD.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// 64 bit ARM.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    pub(crate) fn host() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The target that links statically.
    pub(crate) fn musl(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

/// Build the `lastgasp` binary: static, with the eBPF object inside.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine that will run it.
    #[arg(long, value_enum, default_value_t = Arch::host())]
    target: Arch,
    /// Build faster, unoptimised.
    #[arg(long)]
    debug: bool,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let binary = agent(args.target, args.debug)?;
    // For scripts: the path, alone, on standard output.
    println!("{}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the agent for a machine, with its object, and proves it static.
pub(crate) fn agent(arch: Arch, debug: bool) -> Result<PathBuf> {
    ebpf::build(arch)?;
    package("lastgasp", arch, debug)
}

/// Builds PID 1 of the lab's machines.
pub(crate) fn guest(arch: Arch) -> Result<PathBuf> {
    package("guest", arch, false)
}

/// Builds the binary of the package of the same name.
fn package(bin: &str, arch: Arch, debug: bool) -> Result<PathBuf> {
    let mut needs = vec![Need::Musl];
    if arch != Arch::host() {
        needs.push(Need::Cross(arch));
    }
    setup::require(&needs)?;
    let start = Instant::now();
    run::say(&format!("{bin} for {}", arch.musl()));
    let mut command = run::cargo(run::root());
    command.args(["build", "--package", bin, "--bin", bin]);
    command.args(["--target", arch.musl()]);
    if !debug {
        command.arg("--release");
    }
    if arch == Arch::Aarch64 && Arch::host() != arch {
        // Debian has a cross gcc for glibc, none for musl. On this machine the
        // two agree on every type that SQLite and ring use; only the names of
        // the 64 bit file calls and of the fortified ones differ.
        command
            .env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc")
            .env(
                "CFLAGS_aarch64_unknown_linux_musl",
                "-DSQLITE_DISABLE_LFS -U_FORTIFY_SOURCE",
            );
    }
    run::loudly(&format!("building {bin}"), &mut command)?;

    let profile = if debug { "debug" } else { "release" };
    let binary = run::target_dir().join(arch.musl()).join(profile).join(bin);
    let bytes =
        fs::read(&binary).with_context(|| format!("the build left no {}", binary.display()))?;
    if let Some(needed) = Elf::parse(&bytes)?.needs()? {
        bail!(
            "{} is not static, it needs {needed}; a dependency links a system library \
             (`cargo tree -p {bin} -i` names it)",
            binary.display()
        );
    }
    eprintln!(
        "    {}: static, {}, {}",
        shown(&binary),
        size(bytes.len() as u64),
        run::took(start.elapsed())
    );
    Ok(binary)
}

/// A path as seen from the root of the work tree.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(run::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// A size for people, in KiB or MiB.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
