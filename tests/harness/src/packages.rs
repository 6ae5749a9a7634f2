//! Debian packages of several releases at once, through the machine's own apt
//! but beside its own package lists: nothing of the machine is changed.
//!
//! The mirror, proxies and credentials are the machine's; the signatures are
//! checked by apt against Debian's archive keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::arch::Arch;
use crate::cache::{Cache, CacheLock};
use crate::kernels;
use crate::progress;
use crate::sources::{self, MIRROR_VARIABLE};
use crate::tool::{self, APT_CACHE, APT_CONFIG, APT_GET, DPKG_DEB, Skip};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const KEYRING_PACKAGE: &str = "debian-archive-keyring";
/// The suite whose keyring package knows the keys of younger suites.
const KEYRING_SUITE: &str = "trixie";

/// A release of Debian, and for which machines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suite {
    /// `trixie`.
    pub name: String,
    /// Whose packages are wanted.
    pub arches: Vec<Arch>,
}

/// Debian's archive, with package lists of its own.
#[derive(Debug)]
pub struct Packages {
    root: PathBuf,
    _lock: CacheLock,
}

impl Packages {
    /// Opens the private apt state and renews the lists of `suites`. Another
    /// process that does the same waits.
    pub fn open(cache: &Cache, suites: &[Suite]) -> Result<Self> {
        APT_GET.find()?;
        let lock = cache.lock("apt")?;
        let root = cache.path("apt");
        for dir in ["lists/partial", "archives/partial"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        // apt resolves against this: a machine where nothing is installed.
        write(&root.join("status"), "")?;
        write(&root.join("apt.conf"), &configuration(&root)?)?;
        let packages = Self { root, _lock: lock };
        packages.update(&mirror()?, suites)?;
        Ok(packages)
    }

    fn update(&self, mirror: &str, suites: &[Suite]) -> Result<()> {
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        progress::say(&format!("renewing package lists of {}", names.join(", ")));
        let fetched = self.root.join("debian-archive-keyring.gpg");
        let host = Path::new(KEYRING);
        let first = if fetched.exists() { &fetched } else { host };
        if !first.exists() {
            return Err(Skip(format!(
                "Debian's archive keys are missing ({KEYRING}); on Debian or Ubuntu: apt-get install {KEYRING_PACKAGE}"
            ))
            .into());
        }
        let Err(refused) = self.update_with(mirror, suites, first) else {
            return Ok(());
        };
        if !format!("{refused:#}").contains("NO_PUBKEY") {
            return Err(refused.context("apt cannot read Debian's package lists"));
        }
        // The machine is older than the keys of a young suite. The keyring
        // package of a release that the machine does trust has them.
        progress::say("fetching newer archive keys, verified by the older ones");
        let suite = Suite {
            name: KEYRING_SUITE.to_owned(),
            arches: vec![Arch::Amd64],
        };
        self.update_with(mirror, &[suite], first)?;
        let scratch = tempfile::tempdir_in(&self.root).context("no folder for the keyring")?;
        let debs = self.download(
            &[format!("{KEYRING_PACKAGE}/{KEYRING_SUITE}")],
            scratch.path(),
        )?;
        unpack(&debs, scratch.path())?;
        let from = scratch.path().join(KEYRING.trim_start_matches('/'));
        fs::copy(&from, &fetched)
            .with_context(|| format!("no keyring in the package: {}", from.display()))?;
        self.update_with(mirror, suites, &fetched)
            .context("apt cannot read Debian's package lists, not even with the newest keys")
    }

    fn update_with(&self, mirror: &str, suites: &[Suite], keyring: &Path) -> Result<()> {
        let mut list = String::new();
        for suite in suites {
            // A mirror may be frozen on purpose: signatures count, age does not.
            let arches: Vec<&str> = suite.arches.iter().map(|a| a.debian()).collect();
            let _ = writeln!(
                list,
                "deb [arch={} check-valid-until=no signed-by={}] {mirror} {} main",
                arches.join(","),
                keyring.display(),
                suite.name
            );
        }
        write(&self.root.join("sources.list"), &list)?;
        tool::run(self.apt_get()?.args(["update", "--error-on=any"]))?;
        Ok(())
    }

    /// The dependencies of `package` (`name:arch` or `name:arch/suite`), first
    /// alternatives only, without versions.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = self
            .show(package)
            .with_context(|| format!("Debian's package {package} is not known"))?;
        Ok(shown
            .lines()
            .find_map(|line| line.strip_prefix("Depends: "))
            .map(first_alternatives)
            .unwrap_or_default())
    }

    fn show(&self, package: &str) -> Result<String> {
        let mut command = self.apt(APT_CACHE)?;
        tool::text(command.args(["show", "--no-all-versions", package]))
    }

    /// The name with `:arch`, unless the package is one for all machines.
    fn qualified(&self, name: &str, arch: Arch) -> String {
        let own = format!("{name}:{}", arch.debian());
        match self.show(&own) {
            Ok(shown) if !shown.trim().is_empty() => own,
            _ => name.to_owned(),
        }
    }

    /// `package`, and what it depends on as far as `wanted` says so; each with
    /// `:arch` where it has one.
    pub fn closure(
        &self,
        package: &str,
        arch: Arch,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let package = self.qualified(package, arch);
        let mut found = BTreeSet::from([package.clone()]);
        let mut open = vec![package];
        while let Some(next) = open.pop() {
            for name in self.depends(&next)?.into_iter().filter(|name| wanted(name)) {
                let name = self.qualified(&name, arch);
                if found.insert(name.clone()) {
                    open.push(name);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Downloads exactly these packages (`name:arch` or `name/suite`) into `dir`
    /// and returns the files.
    pub fn download(&self, names: &[String], dir: &Path) -> Result<Vec<PathBuf>> {
        progress::say(&format!("downloading {}", names.join(" ")));
        tool::run(self.apt_get()?.arg("download").args(names).current_dir(dir))?;
        debs(dir)
    }

    /// Downloads exactly these packages and unpacks them into `dir`.
    pub fn unpack(&self, names: &[String], dir: &Path) -> Result<()> {
        // Beside them: a machine may have little room for temporary files.
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let debs = tempfile::tempdir_in(dir).context("no folder for packages")?;
        unpack(&self.download(names, debs.path())?, dir)
    }

    /// Downloads these packages of `suite` and everything that they need on a
    /// machine where nothing is installed; returns the files.
    pub fn download_with_dependencies(&self, suite: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.root.join("archives");
        for old in debs(&archives)? {
            fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        progress::say(&format!(
            "downloading {} with all they need",
            names.join(" ")
        ));
        tool::run(
            self.apt_get()?
                .args([
                    "install",
                    "--download-only",
                    "--no-install-recommends",
                    "-y",
                    "-t",
                    suite,
                ])
                .args(names),
        )?;
        debs(&archives)
    }

    fn apt_get(&self) -> Result<Command> {
        let mut command = self.apt(APT_GET)?;
        command.arg("-q");
        Ok(command)
    }

    fn apt(&self, tool: tool::Tool) -> Result<Command> {
        let mut command = tool.command()?;
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }
}

/// The folder of this name in the cache, with these packages (as
/// [`Packages::download`] takes them) unpacked in it; fetched if it is not there yet.
pub fn unpacked(cache: &Cache, folder: &str, names: &[String]) -> Result<PathBuf> {
    cache.fill(folder, |dir| {
        Packages::open(cache, &kernels::suites()?)?.unpack(names, dir)
    })
}

/// Unpacks packages into `dir`, without running any of their scripts.
pub fn unpack(debs: &[PathBuf], dir: &Path) -> Result<()> {
    for deb in debs {
        tool::run(DPKG_DEB.command()?.arg("-x").arg(deb).arg(dir))?;
    }
    Ok(())
}

/// apt's settings: private folders, and of the machine's own settings those
/// that say how to reach the network. Its hooks stay out: they are about the
/// machine's own packages.
fn configuration(root: &Path) -> Result<String> {
    let machine = tool::text(APT_CONFIG.command()?.args([
        "dump",
        "Acquire::",
        "Dir::Etc::netrc",
        "Dir::Etc::netrcparts",
        "Dir::Etc",
    ]))?;
    let reach = |line: &&str| {
        let line = line.to_ascii_lowercase();
        [
            "acquire::http",
            "acquire::ftp",
            "acquire::retries",
            "acquire::forceipv",
        ]
        .iter()
        .any(|prefix| line.starts_with(prefix))
    };
    let mut text: String = machine
        .lines()
        .filter(reach)
        .fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "{line}");
            all
        });
    let root = root.display();
    let _ = write!(
        text,
        r#"Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Log "{root}";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Get::Assume-Yes "true";
// The cache may be in a folder that apt's own user cannot read.
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
"#
    );
    Ok(text)
}

fn mirror() -> Result<String> {
    if let Ok(set) = std::env::var(MIRROR_VARIABLE)
        && !set.is_empty()
    {
        return Ok(set);
    }
    let parts = Path::new("/etc/apt/sources.list.d");
    let mut files: Vec<PathBuf> = fs::read_dir(parts)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    files
        .iter()
        .find_map(|file| {
            let deb822 = match file.extension()?.to_str()? {
                "sources" => true,
                "list" => false,
                _ => return None,
            };
            sources::debian_mirror(&fs::read_to_string(file).ok()?, deb822)
        })
        .ok_or_else(|| {
            anyhow!(Skip(format!(
                "the machine's apt sources offer no Debian `main`: set {MIRROR_VARIABLE} to the URI of a Debian mirror"
            )))
        })
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", dir.display()))?
            .path();
        if path.extension().is_some_and(|ext| ext == "deb") {
            found.insert(path.file_name().map(ToOwned::to_owned), path);
        }
    }
    Ok(found.into_values().collect())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The names in a `Depends` field: `a (= 1), b | c` is `a`, `b`.
fn first_alternatives(field: &str) -> Vec<String> {
    field
        .split(',')
        .filter_map(|one| one.split('|').next()?.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect()
}

/// The one of `names` that starts with `prefix` and a digit: the package of a
/// kernel release among those that a meta package needs.
pub fn versioned<'a>(names: &'a [String], prefix: &str) -> Result<&'a str> {
    let of_release = |name: &&String| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    match names.iter().find(of_release) {
        Some(name) => Ok(name),
        None => bail!("no package {prefix}* among {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depends_field_gives_first_alternatives() {
        let field = "linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), x (>= 1) | y, python3:any";
        let names = first_alternatives(field);
        assert_eq!(
            names,
            [
                "linux-base-cloud-amd64",
                "linux-image-7.2.13+deb14-cloud-amd64",
                "x",
                "python3"
            ]
        );
        assert_eq!(
            versioned(&names, "linux-image-").ok(),
            Some("linux-image-7.2.13+deb14-cloud-amd64")
        );
        assert!(versioned(&names, "linux-headers-").is_err());
    }
}
