//! Finds the eBPF objects that are embedded into the agent.
//!
//! They have their own toolchain, so they are built before and beside the
//! agent, by `cargo xtask build-ebpf`. Without one the agent builds all the same
//! and says at run time that it holds none: who works on the decoder or the
//! annotator needs no eBPF tools.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=LASTGASP_EBPF_OBJECTS");
    let directory = match env::var_os("LASTGASP_EBPF_OBJECTS").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => in_target_directory()?,
    };
    // The directory is watched, not the files: cargo would take a file that is
    // not there for changed, and build the agent anew each time.
    println!("cargo::rerun-if-changed={}", directory.display());
    for (variable, name) in [
        ("LASTGASP_EBPF_PATH", "lastgasp.bpf.o"),
        ("LASTGASP_EBPF_BASIC_PATH", "lastgasp-basic.bpf.o"),
        ("LASTGASP_EBPF_TRACE_PATH", "lastgasp-trace.bpf.o"),
    ] {
        let object = or_empty(directory.join(name))?;
        println!("cargo::rustc-env={variable}={}", object.display());
    }
    Ok(())
}

/// Where `cargo xtask build-ebpf` leaves the objects.
fn in_target_directory() -> io::Result<PathBuf> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = manifest.parent().unwrap_or(Path::new("."));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let directory = root.join("target/ebpf").join(arch);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The object, or an empty file in its place.
fn or_empty(object: PathBuf) -> io::Result<PathBuf> {
    if object.is_file() {
        return Ok(object);
    }
    println!(
        "cargo::warning=no eBPF object {}: what needs it will say so; \
         build it by `cargo xtask build-ebpf`",
        object.display()
    );
    let empty = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("none.bpf.o");
    fs::write(&empty, [])?;
    Ok(empty)
}
