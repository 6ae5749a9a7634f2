//! rsyslog, to be measured beside.

use std::process::Command;

use anyhow::Result;

use crate::borrowed::{self, LIBRARIES};
use crate::cache::Cache;
use crate::tool::{self, RSYSLOGD};

/// A command that runs it.
pub fn command(cache: &Cache) -> Result<Command> {
    let mut command = borrowed::command(cache, RSYSLOGD, "usr/sbin/rsyslogd")?;
    if RSYSLOGD.find().is_err() {
        let modules = borrowed::unpacked(cache, RSYSLOGD)?.join(LIBRARIES);
        command.arg("-M").arg(modules.join("rsyslog"));
    }
    Ok(command)
}

/// What it calls itself: `rsyslogd 8.2504.0`.
pub fn version(cache: &Cache) -> Result<String> {
    let said = tool::text(command(cache)?.arg("-v"))?;
    let first = said.lines().next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}
