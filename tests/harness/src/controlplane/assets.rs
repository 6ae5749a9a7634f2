//! The programs: taken from `KUBEBUILDER_ASSETS`, or built once from their Go
//! modules into the cache.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};

/// Where the Go modules are.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controlplane");

/// Changes with everything about the build that `go.mod` and `go.sum` do not say.
const RECIPE: &str = "1: CGO_ENABLED=0 -trimpath -s -w, version stamped";

/// One program of the control plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
}

/// What most cases need.
pub const CORE: [Program; 3] = [
    Program::Etcd,
    Program::ApiServer,
    Program::ControllerManager,
];

impl Program {
    /// File name of the program.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// Directory of its Go module, and its package.
    fn source(self) -> (&'static str, String) {
        match self {
            Self::Etcd => ("etcd", "go.etcd.io/etcd/server/v3".to_owned()),
            _ => (
                "kubernetes",
                format!("k8s.io/kubernetes/cmd/{}", self.file_name()),
            ),
        }
    }
}

/// Why there is no control plane.
#[derive(Debug)]
pub enum Unavailable {
    /// This machine lacks something that a user may well lack: the case is
    /// skipped with this reason.
    Skip(String),
    /// It should have worked.
    Broken(anyhow::Error),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip(reason) => f.write_str(reason),
            Self::Broken(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for Unavailable {}

impl From<anyhow::Error> for Unavailable {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

/// The directory that holds the programs.
#[derive(Clone, Debug)]
pub struct Assets {
    directory: PathBuf,
}

impl Assets {
    /// Finds or builds the [`CORE`] programs; `progress` gets a line for
    /// people now and then. A cold build takes about five CPU-minutes.
    pub fn ensure(progress: impl FnMut(&str)) -> Result<Self, Unavailable> {
        Self::ensure_programs(&CORE, progress)
    }

    /// The same for the programs named.
    pub fn ensure_programs(
        programs: &[Program],
        mut progress: impl FnMut(&str),
    ) -> Result<Self, Unavailable> {
        if let Some(directory) = env::var_os("KUBEBUILDER_ASSETS").filter(|d| !d.is_empty()) {
            return Self::given(PathBuf::from(directory), programs);
        }
        let versions = Versions::read()?;
        let directory = cache()?.join("controlplane").join(&versions.key);
        let assets = Self { directory };
        if assets.lacks(programs).is_empty() {
            return Ok(assets);
        }
        if Command::new("go").arg("version").output().is_err() {
            return Err(Unavailable::Skip(
                "no control plane: Go is missing to build it with; install Go 1.26 or later, \
                 or point KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver"
                    .to_owned(),
            ));
        }
        assets.build(programs, &versions, &mut progress)?;
        Ok(assets)
    }

    /// Path of a program.
    pub fn path(&self, program: Program) -> PathBuf {
        self.directory.join(program.file_name())
    }

    /// Whether this program is there.
    pub fn has(&self, program: Program) -> bool {
        self.path(program).is_file()
    }

    fn given(directory: PathBuf, programs: &[Program]) -> Result<Self, Unavailable> {
        let assets = Self { directory };
        // envtest's archives have no controllers: a case that needs them says so itself.
        let needed = |p: &Program| matches!(p, Program::Etcd | Program::ApiServer);
        match assets.lacks(programs).into_iter().find(needed) {
            None => Ok(assets),
            Some(program) => Err(anyhow!(
                "KUBEBUILDER_ASSETS names {}, which has no {}; unset it to build one",
                assets.directory.display(),
                program.file_name()
            )
            .into()),
        }
    }

    fn lacks(&self, programs: &[Program]) -> Vec<Program> {
        let absent = |p: &Program| !self.has(*p);
        programs.iter().copied().filter(absent).collect()
    }

    fn build(
        &self,
        programs: &[Program],
        versions: &Versions,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        let lock = self.directory.join("lock");
        let lock =
            File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
        progress("control plane: waiting for other builds of it to end");
        lock.lock()
            .context("cannot lock the control plane's cache")?;
        // Who held the lock may have built what was missing.
        for program in self.lacks(programs) {
            self.build_one(program, versions, progress)?;
        }
        Ok(())
    }

    fn build_one(
        &self,
        program: Program,
        versions: &Versions,
        progress: &mut impl FnMut(&str),
    ) -> Result<()> {
        let name = program.file_name();
        let (module, package) = program.source();
        let partial = self.directory.join(format!("{name}.partial"));
        let mut go = Command::new("nice");
        go.args(["-n", "5", "go", "build", "-v", "-trimpath", "-ldflags"])
            .arg(versions.link_flags(program))
            .arg("-o")
            .args([partial.as_os_str(), package.as_ref()])
            .current_dir(Path::new(MODULES).join(module))
            .env("CGO_ENABLED", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = go.spawn().context("cannot start `nice go build`")?;
        let stderr = child.stderr.take().context("go's output is not a pipe")?;
        // With -v, go names each package as it is compiled.
        let mut last = Vec::new();
        for (count, line) in BufReader::new(stderr).lines().enumerate() {
            let line = line.context("cannot read go's output")?;
            if count % 100 == 0 {
                progress(&format!("{name}: building, {count} packages so far"));
            }
            last.push(line);
            if last.len() > 20 {
                last.remove(0);
            }
        }
        let status = child.wait().context("lost `go build`")?;
        ensure!(
            status.success(),
            "building {name} failed ({status}):\n{}",
            last.join("\n")
        );
        fs::rename(&partial, self.path(program))
            .with_context(|| format!("cannot put {name} in its place"))?;
        progress(&format!("{name}: built"));
        Ok(())
    }
}

/// What the Go modules pin.
struct Versions {
    kubernetes: String,
    /// Names the cache's directory: versions for people, a hash for the rest.
    key: String,
}

impl Versions {
    fn read() -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(RECIPE);
        let mut pinned = Vec::new();
        for (module, package) in [
            ("kubernetes", "k8s.io/kubernetes"),
            ("etcd", "go.etcd.io/etcd/server/v3"),
        ] {
            let directory = Path::new(MODULES).join(module);
            let read = |file: &str| {
                let path = directory.join(file);
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
            };
            let (go_mod, go_sum) = (read("go.mod")?, read("go.sum")?);
            hash.update(&go_mod);
            hash.update(&go_sum);
            pinned.push(required(&go_mod, package)?);
        }
        let digest = hash.finalize();
        let mut short = String::with_capacity(8);
        for byte in digest.iter().take(4) {
            // Writing to a String cannot fail.
            let _ = write!(short, "{byte:02x}");
        }
        let [kubernetes, etcd] = pinned.as_slice() else {
            bail!("two modules, two versions");
        };
        Ok(Self {
            key: format!("k8s-{kubernetes}-etcd-{etcd}-{short}"),
            kubernetes: kubernetes.clone(),
        })
    }

    /// Without its version linked in, the API server calls itself
    /// v0.0.0-master and takes other defaults for its features.
    fn link_flags(&self, program: Program) -> OsString {
        if program == Program::Etcd {
            return "-s -w".into();
        }
        let mut parts = self.kubernetes.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
        let stamp = "-X k8s.io/component-base/version.git";
        format!(
            "-s -w {stamp}Version={} {stamp}Major={major} {stamp}Minor={minor} \
             {stamp}TreeState=clean",
            self.kubernetes
        )
        .into()
    }
}

/// The version that a `go.mod` requires of a package.
fn required(go_mod: &str, package: &str) -> Result<String> {
    let version = |line: &str| {
        let rest = line.trim().trim_start_matches("require ").trim_start();
        let version = rest.strip_prefix(package)?.strip_prefix(' ')?;
        version.starts_with('v').then(|| version.to_owned())
    };
    go_mod
        .lines()
        .find_map(version)
        .with_context(|| format!("go.mod requires no {package}"))
}

/// The cache for what is downloaded and built once.
fn cache() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("LASTGASP_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("lastgasp")))
        .or_else(|| Some(set("HOME")?.join(".cache/lastgasp")))
        .context("no cache directory: set LASTGASP_CACHE or HOME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_version_is_read_from_both_forms_of_go_mod() {
        let one = "module m\n\nrequire k8s.io/kubernetes v1.34.2\n";
        let block = "require (\n\tk8s.io/kubernetes-x v0.1.0\n\tk8s.io/kubernetes v1.34.2\n)\n";
        for go_mod in [one, block] {
            let version = required(go_mod, "k8s.io/kubernetes").expect("it is there");
            assert_eq!(version, "v1.34.2");
        }
        assert!(required(one, "go.etcd.io/etcd").is_err());
    }

    #[test]
    fn the_committed_modules_give_a_key_and_a_version() {
        let versions = Versions::read().expect("the modules are committed");
        assert!(versions.key.starts_with("k8s-v1."), "{}", versions.key);
        let flags = versions.link_flags(Program::ApiServer);
        let flags = flags.to_string_lossy();
        assert!(flags.contains("gitVersion=v1.") && flags.contains("gitMajor=1 "));
    }
}
