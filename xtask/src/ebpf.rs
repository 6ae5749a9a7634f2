//! `cargo xtask build-ebpf`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build::Arch;
use crate::elf::Elf;
use crate::setup::{self, Need, Pin};
use crate::{btf, build, run};

/// Build the eBPF objects that the agent embeds.
///
/// They have a toolchain of their own (agent-ebpf/rust-toolchain.toml) and are
/// linked by bpf-linker; both are installed first if they are missing. The results
/// are target/ebpf/ARCH/lastgasp.bpf.o, lastgasp-basic.bpf.o for kernels before 5.17,
/// and lastgasp-trace.bpf.o, which `lastgasp trace` loads.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machine whose kernel will run it: registers differ.
    #[arg(long, value_enum, default_value_t = Arch::host())]
    target: Arch,
    /// List the programs in it, with their sizes in instructions.
    #[arg(long)]
    programs: bool,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    for object in build(args.target)? {
        if !args.programs {
            continue;
        }
        let bytes = fs::read(&object)?;
        for program in Elf::parse(&bytes)?.programs()? {
            println!(
                "{:>7}  {:<40} {}",
                program.instructions, program.section, program.name
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What an object may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Variant {
    /// All that kernel 5.17 knows.
    Full,
    /// Nothing that kernel 5.10 does not know.
    Basic,
    /// What traces, on all of them.
    Trace,
}

impl Variant {
    /// All variants.
    pub(crate) const ALL: [Self; 3] = [Self::Full, Self::Basic, Self::Trace];

    /// The binary of the crate that it is.
    fn bin(self) -> &'static str {
        match self {
            Self::Full | Self::Basic => "lastgasp",
            Self::Trace => "lastgasp-trace",
        }
    }

    /// Its file in target/ebpf/ARCH; `agent/build.rs` looks there.
    fn file(self) -> &'static str {
        match self {
            Self::Full => "lastgasp.bpf.o",
            Self::Basic => "lastgasp-basic.bpf.o",
            Self::Trace => "lastgasp-trace.bpf.o",
        }
    }
}

/// Builds the objects and says what they hold.
pub(crate) fn build(arch: Arch) -> Result<Vec<PathBuf>> {
    setup::require(&[Need::Ebpf])?;
    run::say(&format!("eBPF objects for {}", arch.name()));
    let built = Variant::ALL.map(|variant| build_one(arch, variant));
    built.into_iter().collect()
}

fn build_one(arch: Arch, variant: Variant) -> Result<PathBuf> {
    let start = Instant::now();
    let dir = run::root().join("agent-ebpf");
    run::loudly(
        "building the eBPF object",
        &mut cargo("build", arch, variant)?,
    )?;

    let linked = target(arch, variant)
        .join("bpfel-unknown-none/release")
        .join(variant.bin());
    let stripped = linked.with_extension("stripped.o");
    strip(&dir, &linked, &stripped)?;
    let mut bytes =
        fs::read(&stripped).with_context(|| format!("the build left no {}", stripped.display()))?;
    let programs = Elf::parse(&bytes)?.programs()?;
    let place = Elf::parse(&bytes)?.section(".BTF")?;
    // Without maps and programs there is none.
    if let Some(section) = place.and_then(|place| bytes.get_mut(place)) {
        btf::tame_names(section)?;
    }

    let object = run::root()
        .join("target/ebpf")
        .join(arch.name())
        .join(variant.file());
    install(&bytes, &object)?;
    eprintln!(
        "    {}: {}, {} programs, {} instructions, {}",
        build::shown(&object),
        build::size(bytes.len() as u64),
        programs.len(),
        programs.iter().map(|p| p.instructions).sum::<u64>(),
        run::took(start.elapsed())
    );
    Ok(object)
}

/// cargo's directory for a variant: were it shared, each build would build `core`
/// anew.
fn target(arch: Arch, variant: Variant) -> PathBuf {
    let all = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(custom) => run::root().join(custom).join("agent-ebpf"),
        None => run::root().join("agent-ebpf/target"),
    };
    match variant {
        // The same flags.
        Variant::Full | Variant::Trace => all.join(arch.name()),
        Variant::Basic => all.join(arch.name()).join("basic"),
    }
}

/// A cargo command for the eBPF crate, with its toolchain, linker and flags.
pub(crate) fn cargo(subcommand: &str, arch: Arch, variant: Variant) -> Result<Command> {
    let dir = run::root().join("agent-ebpf");
    let linker = setup::linker_pin()?.version;
    let flags = [
        // The linker makes BTF out of this.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Version 3 has atomics that return a value (kernel 5.12) and 32 bit
        // jumps.
        match variant {
            Variant::Full | Variant::Trace => "-Ctarget-cpu=v3".to_owned(),
            Variant::Basic => "-Ctarget-cpu=v2".to_owned(),
        },
        // aya-ebpf reads the registers of this machine.
        format!("--cfg=bpf_target_arch=\"{}\"", arch.name()),
        // Another linker is another object: cargo does not see that by itself.
        format!("--cfg=bpf_linker=\"{linker}\""),
    ];
    let mut command = run::cargo(&dir);
    command
        .args([subcommand, "--release", "--bin", variant.bin()])
        .arg("--target-dir")
        .arg(target(arch, variant))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", setup::path_with_tools()?);
    if variant == Variant::Basic {
        command.args(["--features", "basic"]);
    }
    Ok(command)
}

/// Takes the DWARF out and leaves the BTF: nobody reads it in the agent, and it
/// is most of the object.
fn strip(dir: &Path, from: &Path, to: &Path) -> Result<()> {
    let pin = Pin::read(&dir.join("rust-toolchain.toml"))?;
    let sysroot = PathBuf::from(
        run::read(
            Command::new("rustc")
                .args(["--print", "sysroot"])
                .env("RUSTUP_TOOLCHAIN", &pin.channel)
                .env_remove("LD_LIBRARY_PATH"),
        )?
        .trim(),
    );
    let objcopy = sysroot
        .join("lib/rustlib")
        .join(setup::host_triple())
        .join("bin/rust-objcopy");
    run::loudly(
        "removing debug information",
        Command::new(objcopy)
            .arg("--strip-debug")
            .args([from, to])
            // It finds the toolchain's LLVM only when started by rustc.
            .env("LD_LIBRARY_PATH", sysroot.join("lib")),
    )
}

/// Puts the bytes in place in one step, and not at all if they are there: the
/// agent is rebuilt when the file changes.
fn install(bytes: &[u8], to: &Path) -> Result<()> {
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let dir = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Not in the same directory: agent/build.rs watches that.
    let part = dir.with_extension(format!("part.{}", std::process::id()));
    fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}
