//! The real `lastgasp annotator` as a child process, and the commands that ask it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lastgasp::store::Summary;
use serde_json::Value;

use crate::node;

/// Until it must be ready, and until it must have reached the API server.
const READY: Duration = Duration::from_secs(30);

/// What an annotator's store is called in its directory.
pub const STORE: &str = "annotator.db";

/// `lastgasp annotator` with its key and store in `dir`, on ports of its own choice:
/// [`addresses`] reads them in its log, which goes to stderr.
pub fn command(binary: &Path, dir: &Path, key: &[u8]) -> Result<Command> {
    let path = dir.join("gasp.key");
    write_key(&path, key)?;
    let mut command = Command::new(binary);
    command
        .args(["annotator", "--log-format", "json"])
        .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--key-file")
        .arg(path)
        .arg("--store")
        .arg(dir.join(STORE))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// Writes a key that nobody else can read.
pub fn write_key(path: &Path, key: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(key))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where an annotator listens for gasps and for HTTP, if this line of its log says so.
pub fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let is_ready = line["fields"]["message"] == "ready";
    let address = |field: &str| address(&line, field).ok();
    is_ready.then(|| Some((address("listen")?, address("http")?)))?
}

/// A running annotator; dropped, it is stopped.
#[derive(Debug)]
pub struct Annotator {
    child: Child,
    binary: PathBuf,
    http: SocketAddr,
    /// Where it takes what a node sends, by the port that the node sends to.
    pub listen: Vec<(u16, SocketAddr)>,
    /// Its store.
    pub store: PathBuf,
}

impl Annotator {
    /// Starts it with everything of its own in `dir`; with a kubeconfig it
    /// writes to that cluster. Its log goes to `annotator.log`.
    pub fn start(dir: &Path, kubeconfig: Option<&Path>) -> Result<Self> {
        let binary = node::binary("LASTGASP_BINARY")?;
        let mut command = command(&binary, dir, node::KEY)?;
        command
            .args(["--netconsole-listen", "127.0.0.1:0"])
            .stderr(Stdio::piped());
        if let Some(kubeconfig) = kubeconfig {
            command.arg("--kube").arg("--kubeconfig").arg(kubeconfig);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let log = dir.join("annotator.log");
        let lines = child.stderr.take().context("the annotator has no log")?;
        let said = keep_log(BufReader::new(lines), File::create(&log)?)?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on, what goes wrong also ends the child.
        let mut started = Self {
            child,
            binary,
            http: unknown,
            listen: Vec::new(),
            store: dir.join(STORE),
        };
        let deadline = Instant::now() + READY;
        let ready = wait_for(&said, "ready", deadline, &log)?;
        if kubeconfig.is_some() {
            wait_for(&said, "the API server answers", deadline, &log)?;
        }
        started.listen = vec![
            (node::COLLECTOR_PORT, address(&ready, "listen")?),
            (node::NETCONSOLE_PORT, address(&ready, "netconsole")?),
        ];
        started.http = address(&ready, "http")?;
        Ok(started)
    }

    /// The deaths that it knows of.
    pub fn deaths(&self) -> Result<Vec<Summary>> {
        let output = Command::new(&self.binary)
            .args(["deaths", "-o", "json", "--annotator"])
            .arg(format!("http://{}", self.http))
            .stdin(Stdio::null())
            .output()
            .context("cannot run lastgasp")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("`lastgasp deaths` says: {}", said.trim())
        })
    }

    /// Runs `lastgasp` with these arguments against this annotator; what it
    /// prints, also if it knows nothing.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.binary)
            .args(arguments)
            .args(["--annotator", &format!("http://{}", self.http)])
            .stdin(Stdio::null())
            .output()
            .context("cannot run lastgasp")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let out = String::from_utf8_lossy(&output.stdout);
            bail!(
                "`lastgasp {}` says: {}{}",
                arguments.join(" "),
                out.trim(),
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Annotator {
    fn drop(&mut self) {
        // Nothing is lost by it: the store holds what was acknowledged.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the log to its file and hands the lines on, until the process ends.
fn keep_log(lines: impl BufRead + Send + 'static, mut log: File) -> Result<mpsc::Receiver<Value>> {
    // Only the first lines are waited for; the rest only goes to the file.
    let (sender, said) = mpsc::sync_channel(256);
    std::thread::Builder::new()
        .name("annotator-log".into())
        .spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // A full disk must not stop the annotator.
                let _ = writeln!(log, "{line}");
                if let Ok(value) = serde_json::from_str(&line) {
                    let _ = sender.try_send(value);
                }
            }
        })?;
    Ok(said)
}

fn wait_for(
    said: &mpsc::Receiver<Value>,
    message: &str,
    until: Instant,
    log: &Path,
) -> Result<Value> {
    loop {
        match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) if line["fields"]["message"] == message => return Ok(line),
            Ok(_) => {}
            Err(error) => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let what = match error {
                    RecvTimeoutError::Timeout => "did not become ready in time",
                    RecvTimeoutError::Disconnected => "ended",
                };
                bail!(
                    "the annotator {what}; its log ends: {}",
                    text.lines().last().unwrap_or("")
                );
            }
        }
    }
}

fn address(ready: &Value, field: &str) -> Result<SocketAddr> {
    let text = ready["fields"][field].as_str().unwrap_or_default();
    text.parse()
        .with_context(|| format!("the annotator's ready line has no address {field}: {ready}"))
}
