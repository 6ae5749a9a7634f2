//! One child process, its log, and its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child whose output goes to a file, ended with the value.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, logging to `<directory>/<name>.log`.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        directory: &Path,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Waits until `ready` says yes; the process's end or the deadline is an
    /// error that quotes its log.
    pub(super) fn wait_until(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait().context("lost the child")? {
                bail!("{} ended ({status}):\n{}", self.name, self.tail());
            }
            if start.elapsed() > limit {
                bail!(
                    "{} is not ready after {limit:?}:\n{}",
                    self.name,
                    self.tail()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The last lines of the log.
    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing here outlives the test: no orderly stop is needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
