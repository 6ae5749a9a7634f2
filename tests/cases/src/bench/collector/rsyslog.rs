//! rsyslog, one file a host.

use std::fs;
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::cache::Cache;

use super::sink;

/// One that runs, on the receivers' CPU.
pub(super) struct Rsyslog {
    child: Child,
    dir: tempfile::TempDir,
    pub(super) port: u16,
    /// Bytes that it writes of each datagram.
    pub(super) written: u64,
}

impl Rsyslog {
    /// Starts it. Each datagram is written as it came, and a newline.
    pub(super) fn start(cache: &Cache, datagram: usize, hosts: usize) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lastgasp-bench-")
            .tempdir()?;
        fs::create_dir(dir.path().join("hosts"))?;
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = dir.path().display();
        let text = format!(
            r#"global(workDirectory="{root}")
module(load="imudp" batchSize="512")
template(name="file" type="string" string="{root}/hosts/%HOSTNAME%")
template(name="line" type="string" string="%rawmsg%\n")
input(type="imudp" address="127.0.0.1" port="{port}" rcvbufSize="64m")
action(type="omfile" dynaFile="file" template="line" dynaFileCacheSize="{hosts}")
"#
        );
        let file = dir.path().join("rsyslog.conf");
        fs::write(&file, text)?;
        let log = fs::File::create(dir.path().join("log"))?;
        let mut command = harness::rsyslog::command(cache)?;
        command.arg("-n").arg("-f").arg(&file);
        command.arg("-i").arg(dir.path().join("pid"));
        command.stdout(log.try_clone()?).stderr(log);
        command.stdin(Stdio::null());
        let child = sink::on_its_cpu(&mut command)?;
        let mut rsyslog = Self {
            child,
            dir,
            port,
            written: datagram as u64 + 1,
        };
        rsyslog.wait()?;
        Ok(rsyslog)
    }

    /// Waits until it listens.
    fn wait(&mut self) -> Result<()> {
        let line = format!(":{:04X} ", self.port);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string("/proc/net/udp")?.contains(&line) {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            ensure!(
                self.child.try_wait()?.is_none() && Instant::now() < deadline,
                "rsyslog does not listen; it said:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Datagrams that it has written.
    pub(super) fn received(&self) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(self.dir.path().join("hosts"))? {
            bytes += entry?.metadata()?.len();
        }
        Ok(bytes / self.written)
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        // What it still holds is of no use to anyone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
