//! Where the agent is measured: on this machine, or in one of the lab.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::vm::Vm;

use crate::node;

/// A machine with the agent on it.
pub(super) trait Place {
    /// Starts the agent, waits until it is ready, and gives its PID.
    fn start(&mut self) -> Result<u32>;
    /// Ends it in an orderly way.
    fn stop(&mut self) -> Result<()>;
    /// The first line of a file that begins so.
    fn read(&mut self, path: &str, start: &str) -> Result<String>;
    /// The names in a directory.
    fn list(&mut self, path: &str) -> Result<Vec<String>>;
    /// What the guest answers to a load (`tests/guest/src/flood.rs`).
    fn load(&mut self, command: &str) -> Result<String>;
}

/// This machine. The collector is a socket of this process.
pub(super) struct Here {
    dir: tempfile::TempDir,
    sink: UdpSocket,
    agent: Option<Child>,
}

impl Here {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            dir: tempfile::Builder::new()
                .prefix("lastgasp-bench-")
                .tempdir()?,
            sink: UdpSocket::bind("127.0.0.1:0")?,
            agent: None,
        })
    }
}

impl Place for Here {
    fn start(&mut self) -> Result<u32> {
        let path = |name: &str| self.dir.path().join(name);
        fs::write(path("key"), node::KEY)?;
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600))?;
        let log = fs::File::create(path("log"))?;
        let mut command = Command::new(node::binary("LASTGASP_BINARY")?);
        command
            .arg("agent")
            .args(["--collector", &self.sink.local_addr()?.to_string()])
            .args(["--node-name", node::NAME])
            .arg("--key-file")
            .arg(path("key"))
            .arg("--ready-file")
            .arg(path("ready"))
            .arg("--state-dir")
            .arg(path("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let agent = self
            .agent
            .insert(command.spawn().context("cannot start the agent")?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !path("ready").exists() {
            if agent.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(path("log")).unwrap_or_default();
                bail!("the agent did not become ready; it said:\n{}", log.trim());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(agent.id())
    }

    fn stop(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        let ended = Command::new("kill").arg(agent.id().to_string()).status();
        if !ended.is_ok_and(|status| status.success()) {
            let _ = agent.kill();
        }
        agent.wait()?;
        // Gone with the agent, unless that had to be killed.
        let _ = fs::remove_file(self.dir.path().join("ready"));
        Ok(())
    }

    fn read(&mut self, path: &str, start: &str) -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find(|line| line.starts_with(start));
        Ok(line.unwrap_or_default().to_owned())
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn load(&mut self, command: &str) -> Result<String> {
        let output = Command::new(node::binary("LASTGASP_GUEST")?)
            .args(command.split(' '))
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

impl Place for Vm {
    fn start(&mut self) -> Result<u32> {
        node::start_agent(self, "")
    }

    fn stop(&mut self) -> Result<()> {
        self.ask("stop /lastgasp 10000")?;
        Ok(())
    }

    fn read(&mut self, path: &str, start: &str) -> Result<String> {
        self.ask(&format!("read {path} {start}"))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let names = self.ask(&format!("list {path}"))?;
        Ok(names.split(' ').map(str::to_owned).collect())
    }

    fn load(&mut self, command: &str) -> Result<String> {
        self.ask(command)
    }
}

/// CPU time of each of a process's threads, by name.
///
/// From `sum_exec_runtime` (`/proc/PID/task/TID/schedstat`): the same time as
/// `utime + stime` of `stat`, in nanoseconds instead of ticks of 10 ms.
pub(super) fn cpu_times(place: &mut dyn Place, pid: u32) -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for tid in place.list(&format!("/proc/{pid}/task"))? {
        let task = format!("/proc/{pid}/task/{tid}");
        let name = place.read(&format!("{task}/comm"), "")?;
        let line = place.read(&format!("{task}/schedstat"), "")?;
        let ns: u64 = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("{task}/schedstat"))?;
        *times.entry(name).or_default() += Duration::from_nanos(ns);
    }
    Ok(times)
}

/// A size from `/proc/PID/status`, in MiB.
pub(super) fn memory(place: &mut dyn Place, pid: u32, field: &str) -> Result<f64> {
    let line = place.read(&format!("/proc/{pid}/status"), field)?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("{field} of /proc/{pid}/status"))?;
    Ok(kib / 1024.0)
}
