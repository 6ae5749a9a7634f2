//! One child process, its log, and its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a program until it ends or our end of the pipe on descriptor 0 closes,
/// which also the kernel does for us: nothing outlives a killed test.
const GUARD: &str = r#"
"$@" </dev/null &
child=$!
exec 3<&0
(cat <&3 >/dev/null; kill -9 $child) 2>/dev/null &
exec 3<&-
wait $child
"#;

/// A program whose output goes to a file, ended with the value, and with this
/// process however that ends.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, logging to `<directory>/<name>.log`.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        directory: &Path,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, guard, log })
    }

    /// Waits until `ready` says yes; the process's end or the deadline is an
    /// error that quotes its log.
    pub(super) fn wait_until(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.guard.try_wait().context("lost the child")? {
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
        // Nothing here outlives the test: no orderly stop is needed. The guard
        // reports the program's end, so that its port and files are free then.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
