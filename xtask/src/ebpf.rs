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

/// Build the eBPF object that the agent embeds.
///
/// It has a toolchain of its own (agent-ebpf/rust-toolchain.toml) and is linked
/// by bpf-linker; both are installed first if they are missing. The result is
/// target/ebpf/ARCH/lastgasp.bpf.o.
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
    let object = build(args.target)?;
    if args.programs {
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

/// Where the object for a machine is put; `agent/build.rs` looks there.
pub(crate) fn object(arch: Arch) -> PathBuf {
    run::root()
        .join("target/ebpf")
        .join(arch.name())
        .join("lastgasp.bpf.o")
}

/// Builds the object and says what it holds.
pub(crate) fn build(arch: Arch) -> Result<PathBuf> {
    setup::require(&[Need::Ebpf])?;
    let start = Instant::now();
    let dir = run::root().join("agent-ebpf");
    run::say(&format!("eBPF object for {}", arch.name()));
    run::loudly("building the eBPF object", &mut cargo("build", arch)?)?;

    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || dir.join("target"),
        |custom| run::root().join(custom).join("agent-ebpf"),
    );
    let linked = target
        .join(arch.name())
        .join("bpfel-unknown-none/release/lastgasp");
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

    let object = object(arch);
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

/// A cargo command for the eBPF crate, with its toolchain, linker and flags.
pub(crate) fn cargo(subcommand: &str, arch: Arch) -> Result<Command> {
    let dir = run::root().join("agent-ebpf");
    let linker = setup::linker_pin()?.version;
    let flags = [
        // The linker makes BTF out of this.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Atomics that return a value and 32 bit jumps; kernel 5.12 and later
        // know all of it, and each program says which it uses.
        "-Ctarget-cpu=v3".to_owned(),
        // aya-ebpf reads the registers of this machine.
        format!("--cfg=bpf_target_arch=\"{}\"", arch.name()),
        // Another linker is another object: cargo does not see that by itself.
        format!("--cfg=bpf_linker=\"{linker}\""),
    ];
    let mut command = run::cargo(&dir);
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(custom) => run::root().join(custom).join("agent-ebpf"),
        None => dir.join("target"),
    };
    command
        .args([subcommand, "--release", "--target-dir"])
        // A directory a machine: else each change of machine builds `core` anew.
        .arg(target.join(arch.name()))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", setup::path_with_tools()?);
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
