//! The annotator as a process of its own, as it runs in a pod.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;

use crate::annotator;

/// The key that annotator and nodes of the Kubernetes cases share. A file of
/// hex digits would be taken for what they stand for.
pub(super) const KEY: &[u8] = b"shared by annotator and speakers";

/// How long an annotator may take to be ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The `lastgasp` program: the one that `LASTGASP_BINARY` names, else this
/// checkout's own, built now.
pub fn program() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| match std::env::var_os("LASTGASP_BINARY") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "-p", "lastgasp", "-p", "cases"])
        .args(["--bin", "lastgasp"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo says of this package to its tests: build scripts that look at
    // it (ring's) would be run again, and all that depends on them.
    let about_us = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(about_us) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo build of lastgasp: {status}");
    let test = std::env::current_exe().context("a program without a path")?;
    // target/debug/deps/TEST, or target/debug/PROGRAM.
    let found = test.ancestors().skip(1).take(2);
    let mut candidates = found.map(|directory| directory.join("lastgasp"));
    candidates
        .find(|path| path.is_file())
        .context("cargo built lastgasp, but not beside this test")
}

/// A running annotator. Dropped, it is killed.
#[derive(Debug)]
pub struct Annotator {
    child: Child,
    log: PathBuf,
    /// Where it takes gasps.
    pub gasps: SocketAddr,
    /// Where it answers questions.
    pub http: SocketAddr,
}

impl Annotator {
    /// Starts one with its key, log and store in `directory`, writing to the
    /// cluster of `kubeconfig`, and waits until it listens.
    pub fn start(directory: &Path, kubeconfig: &Path, flags: &[&str]) -> Result<Self> {
        let mut command = annotator::command(program()?, directory, KEY)?;
        command
            .arg("--kube")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags);
        Self::spawn(command, directory)
    }

    /// Starts one with the arguments and the environment of a container, and its
    /// volumes in `directory`. Only what a kubelet would bring is from here: the
    /// credentials, which are those of `kubeconfig`, and the key.
    pub fn of_container(
        directory: &Path,
        kubeconfig: &Path,
        container: &Container,
    ) -> Result<Self> {
        let mounts = container.volume_mounts.iter().flatten();
        let mounts: Vec<(&str, PathBuf)> = mounts
            .map(|mount| (mount.mount_path.as_str(), directory.join(&mount.name)))
            .collect();
        for (_, volume) in &mounts {
            fs::create_dir_all(volume)?;
        }
        let mut command = Command::new(program()?);
        command.args(container.args.iter().flatten());
        for variable in container.env.iter().flatten() {
            let value = variable.value.clone().unwrap_or_default();
            let inside = mounts.iter().find_map(|(mount, volume)| {
                let rest = Path::new(&value).strip_prefix(mount).ok()?;
                Some(volume.join(rest))
            });
            if variable.name == "LASTGASP_KEY_FILE" {
                let path = inside.as_ref().context("the key is in no volume")?;
                annotator::write_key(path, KEY)?;
            }
            command.env(&variable.name, inside.unwrap_or_else(|| value.into()));
        }
        command
            .env("LASTGASP_LOG_FORMAT", "json")
            .env("LASTGASP_KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self::spawn(command, directory)
    }

    /// Starts it and waits until it listens.
    fn spawn(mut command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join("annotator.log");
        let child = command
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start the annotator")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut annotator = Self {
            child,
            log,
            gasps: nowhere,
            http: nowhere,
        };
        let start = Instant::now();
        loop {
            let said = annotator.log()?;
            if let Some((gasps, http)) = said.lines().find_map(annotator::addresses) {
                (annotator.gasps, annotator.http) = (gasps, http);
                return Ok(annotator);
            }
            if let Some(status) = annotator.child.try_wait()? {
                bail!("the annotator ended ({status}):\n{said}");
            }
            ensure!(start.elapsed() < READY_WITHIN, "not ready:\n{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("the annotator's log cannot be read")
    }

    /// Ends it as the kernel's memory killer would: SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the annotator")?;
        self.child.wait().context("lost the annotator")?;
        Ok(())
    }

    /// What `lastgasp why NAME -o json` answers; an error with its exit status
    /// if nothing is known.
    pub fn why(&self, name: &str) -> Result<Value> {
        let (status, answer) = ask(&[
            "why",
            name,
            "-o",
            "json",
            "--annotator",
            &format!("http://{}", self.http),
        ])?;
        ensure!(status.success(), "why {name}: {status} {answer}");
        serde_json::from_str(&answer).context("an answer that is no JSON")
    }
}

impl Drop for Annotator {
    fn drop(&mut self) {
        // It may have ended already; both calls then say so, and nobody cares.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `lastgasp` with these arguments; its status and what it printed.
pub fn ask(arguments: &[&str]) -> Result<(ExitStatus, String)> {
    let output = Command::new(program()?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run lastgasp")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status, String::from_utf8_lossy(&text).into_owned()))
}
