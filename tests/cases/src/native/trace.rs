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
        let mut command = Command::new(binary("LASTGASP_BINARY")?);
        command.args(["trace", "drops", "-o", "json", "--duration", "5m"]);
        command.args(flags);
        let mut child = with_tracefs(&command)?
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
        object(&line).map(Some)
    }

    /// Ends it as Ctrl-C does; what it counted.
    pub fn finish(mut self) -> Result<Counted> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        let objects: Result<Vec<Value>> = std::iter::from_fn(|| self.next().transpose()).collect();
        let counted = Counted::of(objects?)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "ended with {status}");
        Ok(counted)
    }
}

/// The same command with tracefs, which the classic form needs. In a view of the file system
/// of its own: the machine stays as it is.
pub fn with_tracefs(command: &Command) -> Result<Command> {
    let mut with = UNSHARE.command()?;
    with.args(["--mount", "sh", "-c"])
        .arg("mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec \"$@\"")
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    Ok(with)
}

/// The object on a line of `trace drops -o json`.
fn object(line: &str) -> Result<Value> {
    let object: Value = serde_json::from_str(line).context("not JSON")?;
    ensure!(object["schema"] == "lastgasp.trace.drops/1", "{object}");
    Ok(object)
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended; then both fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counted {
    /// All that `trace drops -o json` says.
    pub fn parse(text: &str) -> Result<Self> {
        let objects: Result<Vec<Value>> = text.lines().map(object).collect();
        Self::of(objects?)
    }

    fn of(objects: Vec<Value>) -> Result<Self> {
        let (mut drops, mut end) = (Vec::new(), None);
        for object in objects {
            match object["kind"].as_str() {
                Some("begin") => {}
                Some("drops") => drops.push(object),
                Some("end") => end = Some(object),
                other => bail!("what is {other:?}?"),
            }
        }
        let end = end.context("ended without a summary")?;
        Ok(Self { drops, end })
    }

    /// Packets of a namespace by reason, device and protocol.
    pub fn inside(&self, netns: u64) -> BTreeMap<(String, String, String), u64> {
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
