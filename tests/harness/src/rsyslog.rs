//! rsyslog, to be measured beside: the machine's own, or Debian's, unpacked
//! into the cache with all the libraries it needs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::kernels;
use crate::packages::{self, Packages};
use crate::tool::{self, RSYSLOGD};

/// The suite of the one in the cache.
const SUITE: &str = "trixie";
/// Where Debian puts libraries and, below, rsyslog's modules.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A command that runs it.
pub fn command(cache: &Cache) -> Result<Command> {
    if let Ok(own) = RSYSLOGD.command() {
        return Ok(own);
    }
    let root = unpacked(cache)?;
    // By its own loader, whatever C library the machine has.
    let mut command = Command::new(root.join(LIBRARIES).join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join(LIBRARIES))
        .arg(root.join("usr/sbin/rsyslogd"))
        .arg("-M")
        .arg(root.join(LIBRARIES).join("rsyslog"));
    Ok(command)
}

/// What it calls itself: `rsyslogd 8.2504.0`.
pub fn version(cache: &Cache) -> Result<String> {
    let said = tool::text(command(cache)?.arg("-v"))?;
    let first = said.lines().next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}

fn unpacked(cache: &Cache) -> Result<PathBuf> {
    cache
        .fill(&format!("rsyslog-{SUITE}"), |dir| {
            let packages = Packages::open(cache, &kernels::suites()?)?;
            let debs = packages.download_with_dependencies(SUITE, &["rsyslog"])?;
            packages::unpack(&debs, dir)
        })
        .context("cannot have rsyslog")
}
