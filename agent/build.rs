//! Finds the eBPF object that is embedded into the agent.
//!
//! The object has its own toolchain, so it is built before and beside the
//! agent, by `cargo xtask build-ebpf`. Without one the agent builds all the same
//! and says at run time that it holds none: who works on the decoder or the
//! annotator needs no eBPF tools.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=LASTGASP_EBPF_OBJECT");
    let object = match env::var_os("LASTGASP_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            if !path.is_file() {
                println!(
                    "cargo::error=LASTGASP_EBPF_OBJECT names {}, which is no file",
                    path.display()
                );
            }
            path
        }
        None => in_target_directory()?,
    };
    println!("cargo::rustc-env=LASTGASP_EBPF_PATH={}", object.display());
    Ok(())
}

/// The object that `cargo xtask build-ebpf` left, else an empty file.
fn in_target_directory() -> io::Result<PathBuf> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = manifest.parent().unwrap_or(Path::new("."));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let directory = root.join("target/ebpf").join(&arch);
    // The directory is watched, not the file: cargo would take a file that is
    // not there for changed, and build the agent anew each time.
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());
    let object = directory.join("lastgasp.bpf.o");
    if object.is_file() {
        return Ok(object);
    }
    println!(
        "cargo::warning=no eBPF object for {arch}: this agent will not see a crash; \
         build it by `cargo xtask build-ebpf`"
    );
    let empty = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("none.bpf.o");
    fs::write(&empty, [])?;
    Ok(empty)
}
