//! Distribution kernels: fetched once, kept unpacked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::packages::{Packages, Suite, versioned};

/// A line of `tests/kernels.toml`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KernelSpec {
    /// What people call it: `6.1`.
    pub name: String,
    /// The Debian suite that has it.
    pub suite: String,
    /// The flavour in the package's name: `cloud-amd64`.
    pub flavour: String,
    /// Its machine.
    #[serde(default)]
    pub arch: Arch,
    /// A release that is not the newest: `6.18.15+deb13`.
    pub release: Option<String>,
    /// Whether the archive has headers, for a crash module.
    #[serde(default = "yes")]
    pub headers: bool,
    /// Whether the tests boot it (`lab --quick`).
    #[serde(default = "yes")]
    pub quick: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelList {
    kernel: Vec<KernelSpec>,
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name in `tests/kernels.toml`.
    pub name: String,
    /// Its machine.
    pub arch: Arch,
    /// `uname -r`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The folder with `kernel/` and `modules.builtin`.
    pub modules: PathBuf,
    /// Root of the unpacked header packages (`usr/src`, `usr/lib`), if there
    /// are any.
    pub headers: Option<PathBuf>,
}

/// The kernels that `text`, in the form of `tests/kernels.toml`, lists.
pub fn parse_list(text: &str) -> Result<Vec<KernelSpec>> {
    let list: KernelList = toml::from_str(text).context("the list of kernels cannot be read")?;
    Ok(list.kernel)
}

/// The lab's kernels, in the order of `tests/kernels.toml`.
pub fn all() -> Result<Vec<KernelSpec>> {
    parse_list(include_str!("../../kernels.toml"))
}

/// The releases that they come from, and for which machines.
pub(crate) fn suites() -> Result<Vec<Suite>> {
    let mut suites: Vec<Suite> = Vec::new();
    for spec in all()? {
        let known = suites.iter().position(|suite| suite.name == spec.suite);
        let at = known.unwrap_or_else(|| {
            suites.push(Suite {
                name: spec.suite.clone(),
                // The compiler is always one for this machine.
                arches: vec![Arch::Amd64],
            });
            suites.len() - 1
        });
        if !suites[at].arches.contains(&spec.arch) {
            suites[at].arches.push(spec.arch);
        }
    }
    Ok(suites)
}

/// The kernel called `name` in `tests/kernels.toml`.
pub fn named(name: &str) -> Result<KernelSpec> {
    let all = all()?;
    let names: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
    all.iter()
        .find(|spec| spec.name == name)
        .cloned()
        .ok_or_else(|| {
            anyhow!(
                "no kernel {name} in the lab; there are {}",
                names.join(", ")
            )
        })
}

impl KernelSpec {
    fn folder(&self) -> String {
        format!("kernels/{}", self.name)
    }

    /// The kernel, fetched if the cache does not have it yet.
    pub fn get(&self, cache: &Cache) -> Result<Kernel> {
        let root = cache
            .fill(&self.folder(), |dir| self.fetch(cache, dir))
            .with_context(|| format!("kernel {} is not available", self.name))?;
        self.unpacked(&root)
    }

    fn fetch(&self, cache: &Cache, dir: &Path) -> Result<()> {
        let packages = Packages::open(cache, &suites()?)?;
        let of_kernel = |name: &str| {
            [
                "linux-image-",
                "linux-modules-",
                "linux-binary-",
                "linux-headers-",
                "linux-kbuild-",
            ]
            .iter()
            .any(|prefix| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        for (part, prefix) in [("image", "linux-image-"), ("headers", "linux-headers-")] {
            if part == "headers" && !self.headers {
                continue;
            }
            let package = if let Some(release) = &self.release {
                format!("{prefix}{release}-{}", self.flavour)
            } else {
                let arch = self.arch.debian();
                let meta = format!("{prefix}{}:{arch}/{}", self.flavour, self.suite);
                versioned(&packages.depends(&meta)?, prefix)?.to_owned()
            };
            let mut names = packages.closure(&package, self.arch, of_kernel)?;
            if part == "headers" {
                names.retain(|name| !name.starts_with("linux-image-"));
                // Programs that run here, whatever kernel they build for.
                for name in &mut names {
                    if name.starts_with("linux-kbuild-") {
                        *name = name.replace(":arm64", ":amd64");
                    }
                }
            }
            packages.unpack(&names, &dir.join(part))?;
        }
        self.unpacked(dir).map(drop)
    }

    fn unpacked(&self, root: &Path) -> Result<Kernel> {
        let image_root = root.join("image");
        let modules = ["usr/lib/modules", "lib/modules"]
            .iter()
            .find_map(|dir| only_entry(&image_root.join(dir)))
            .ok_or_else(|| anyhow!("no modules in {}", image_root.display()))?;
        let release = modules
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| anyhow!("no release in {}", modules.display()))?
            .to_owned();
        let image = [
            image_root.join(format!("boot/vmlinuz-{release}")),
            modules.join("vmlinuz"),
        ]
        .into_iter()
        .find(|file| file.is_file());
        let Some(image) = image else {
            bail!("no vmlinuz in {}", image_root.display());
        };
        Ok(Kernel {
            name: self.name.clone(),
            arch: self.arch,
            release,
            image,
            modules,
            headers: self.headers.then(|| root.join("headers")),
        })
    }
}

fn only_entry(dir: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(dir).ok()?.flatten();
    let first = entries.next()?.path();
    entries.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lab_has_old_and_new_kernels_and_says_so() -> Result<()> {
        let names: Vec<String> = all()?.into_iter().map(|spec| spec.name).collect();
        assert_eq!(
            names,
            [
                "5.10",
                "6.1",
                "6.12",
                "6.18",
                "6.12-generic",
                "7",
                "7.3",
                "6.1-arm64",
                "6.12-arm64"
            ]
        );
        let error = named("2.4").expect_err("too old").to_string();
        assert!(
            error.contains("5.10, 6.1, 6.12, 6.18, 6.12-generic, 7, 7.3"),
            "{error}"
        );
        Ok(())
    }

    #[test]
    fn a_field_that_nobody_reads_is_refused() {
        let text = "[[kernel]]\nname='a'\nsuite='b'\nflavour='c'\nsha256='d'\n";
        assert!(parse_list(text).is_err());
    }
}
