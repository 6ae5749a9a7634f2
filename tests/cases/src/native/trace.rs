//! The shipped `lastgasp trace drops` beside the packets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use harness::tool::{Skip, UNSHARE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::node::binary;

/// The program, attached. Dropping it ends it.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// How it is attached.
    pub how: String,
}

/// What it counted.
#[derive(Debug)]
pub struct Counted {
    /// Objects of kind `drops`.
    pub drops: Vec<Value>,
    /// That of kind `end`.
    pub end: Value,
}

impl Trace {
    /// Starts it with these flags and waits until it counts; a [`Skip`] where this user may
    /// not.
    pub fn start(flags: &[&str]) -> Result<Self> {
        let binary = binary("LASTGASP_BINARY")?;
        // The classic form needs tracefs. In a view of the file system of its own, the machine
        // stays as it is.
        let mut command: Command = UNSHARE.command()?;
        command.args(["--mount", "sh", "-c"]);
        command.arg("mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec \"$@\"");
        command.arg("sh").arg(binary);
        command.args(["trace", "drops", "-o", "json", "--duration", "5m"]);
        command.args(flags);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start lastgasp")?;
        let lines = child.stdout.take().context("has no output")?;
        let mut trace = Self {
            child,
            lines: BufReader::new(lines),
            how: String::new(),
        };
        let Some(begin) = trace.next()? else {
            let mut said = String::new();
            if let Some(mut stderr) = trace.child.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            if said.contains("CAP_BPF") || said.contains("CONFIG_DEBUG_INFO_BTF") {
                return Err(Skip(said.trim().to_owned()).into());
            }
            bail!("it did not start: {said}");
        };
        ensure!(begin["kind"] == "begin", "began with {begin}");
        let attempts = begin["attempts"].as_array().context("no attempts")?;
        let last = attempts.last().context("no attempt")?;
        ensure!(last["refused"].is_null(), "{last}");
        last["how"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut trace.how);
        Ok(trace)
    }

    fn next(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let object: Value = serde_json::from_str(&line).context("not JSON")?;
        ensure!(object["schema"] == "lastgasp.trace.drops/1", "{object}");
        Ok(Some(object))
    }

    /// Ends it as Ctrl-C does; what it counted.
    pub fn finish(mut self) -> Result<Counted> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        let mut counted = Counted {
            drops: Vec::new(),
            end: Value::Null,
        };
        while let Some(object) = self.next()? {
            match object["kind"].as_str() {
                Some("drops") => counted.drops.push(object),
                Some("end") => counted.end = object,
                other => bail!("what is {other:?}?"),
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "ended with {status}");
        ensure!(!counted.end.is_null(), "ended without a summary");
        Ok(counted)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended; then both fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counted {
    /// Packets of a namespace by reason, device and protocol.
    pub fn of(&self, netns: u64) -> BTreeMap<(String, String, String), u64> {
        let mut all = BTreeMap::new();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        for drops in self.drops.iter().filter(|drops| drops["netns"] == netns) {
            let key = (
                text(&drops["reason"]),
                text(&drops["device"]),
                text(&drops["protocol"]),
            );
            *all.entry(key).or_default() += drops["packets"].as_u64().unwrap_or(0);
        }
        all
    }

    /// A number of the summary.
    pub fn end(&self, name: &str) -> u64 {
        self.end[name].as_u64().unwrap_or(u64::MAX)
    }
}
