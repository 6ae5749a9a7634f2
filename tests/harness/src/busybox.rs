//! A shell with all that configures a network, in one static file.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::packages;

/// The distribution's package of it, and the suite.
const PACKAGE: &str = "busybox-static";
const SUITE: &str = "trixie";

/// The program, for machines of this kind; fetched if the cache does not have it yet.
pub fn get(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let folder = format!("busybox-{}", arch.debian());
    let name = format!("{PACKAGE}:{}/{SUITE}", arch.debian());
    let root = packages::unpacked(cache, &folder, &[name])?;
    let paths = ["usr/bin/busybox", "bin/busybox"].map(|path| root.join(path));
    let found = paths.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("no busybox in {}", root.display()))
}
