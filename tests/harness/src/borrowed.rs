//! Programs to be measured beside: the machine's own, or Debian's, unpacked into the cache
//! with all the libraries they need.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::kernels;
use crate::packages::{self, Packages};
use crate::tool::Tool;

/// The suite of those in the cache.
const SUITE: &str = "trixie";
/// Where Debian puts libraries.
pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A command that runs it; `file` is where its package has it.
pub fn command(cache: &Cache, tool: Tool, file: &str) -> Result<Command> {
    if let Ok(own) = tool.command() {
        return Ok(own);
    }
    let root = unpacked(cache, tool)?;
    // By its own loader, whatever C library the machine has.
    let mut command = Command::new(root.join(LIBRARIES).join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join(LIBRARIES))
        .arg(root.join(file));
    Ok(command)
}

/// Where it is in the cache; it is fetched first if it is not there.
pub(crate) fn unpacked(cache: &Cache, tool: Tool) -> Result<PathBuf> {
    let package = tool.package();
    cache
        .fill(&format!("{package}-{SUITE}"), |dir| {
            let packages = Packages::open(cache, &kernels::suites()?)?;
            let debs = packages.download_with_dependencies(SUITE, &[package])?;
            packages::unpack(&debs, dir)
        })
        .with_context(|| format!("cannot have {package}"))
}
