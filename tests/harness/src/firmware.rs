//! EFI firmware for the machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::packages;

/// The distribution's package of it, and the suite.
const PACKAGE: &str = "ovmf";
const SUITE: &str = "bookworm";

/// The firmware (read-only), and a copy in `dir` of its empty variables, which is
/// made if it is not there; fetched if the cache does not have it yet.
pub fn efi(cache: &Cache, dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let root = packages::unpacked(cache, "ovmf", &[format!("{PACKAGE}/{SUITE}")])?;
    let file = |name: &str| root.join("usr/share/OVMF").join(name);
    let variables = dir.join("efi-variables");
    if !variables.exists() {
        let empty = file("OVMF_VARS_4M.fd");
        fs::copy(&empty, &variables).with_context(|| format!("cannot copy {}", empty.display()))?;
    }
    Ok((file("OVMF_CODE_4M.fd"), variables))
}
