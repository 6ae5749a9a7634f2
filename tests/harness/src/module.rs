//! Kernel modules of the lab, built against the distribution's headers.
//!
//! A kernel's headers want the compiler that built it, which the machine may
//! not have: so gcc of the youngest suite is unpacked beside the machine, and
//! make runs in there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::kernels::{self, Kernel};
use crate::packages::{self, Packages};
use crate::progress;
use crate::tool::{self, Skip, UNSHARE};

/// The suite whose compiler builds for all kernels.
const SUITE: &str = "sid";

/// What make and the kernel's scripts call.
const PROGRAMS: &[&str] = &[
    "base-files",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "gcc",
    "grep",
    "libelf1t64",
    "libssl3t64",
    "make",
    "mawk",
    "sed",
];

/// For kernels of ARM machines, as well.
const CROSS: &str = "gcc-aarch64-linux-gnu";

const SOURCE: &str = include_str!("../../guest/module/boom.c");
const MAKEFILE: &str = include_str!("../../guest/module/Makefile");

/// `boom.ko` for this kernel, built if the cache does not have it yet; `None`
/// where there are no headers to build it with.
pub fn boom(cache: &Cache, kernel: &Kernel) -> Result<Option<PathBuf>> {
    let Some(headers) = &kernel.headers else {
        return Ok(None);
    };
    let mut hash = Sha256::new();
    hash.update(SOURCE);
    hash.update(MAKEFILE);
    let hash = hash.finalize();
    let key = format!(
        "modules/boom-{}-{:02x}{:02x}{:02x}",
        kernel.release, hash[0], hash[1], hash[2]
    );
    let dir = cache
        .fill(&key, |dir| build(cache, kernel, headers, dir))
        .with_context(|| format!("cannot build the crash module for {}", kernel.release))?;
    Ok(Some(dir.join("boom.ko")))
}

fn build(cache: &Cache, kernel: &Kernel, headers: &Path, dir: &Path) -> Result<()> {
    if !Path::new("/proc/self/ns/mnt").exists() || !is_root()? {
        return Err(
            Skip("kernel modules are built in a mount namespace, which needs root".into()).into(),
        );
    }
    let sysroot = compiler(cache, kernel.arch)?;
    let machine = match kernel.arch {
        Arch::Amd64 => "CC=gcc",
        Arch::Arm64 => "ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc",
    };
    progress::say(&format!("building the crash module for {}", kernel.release));
    fs::write(dir.join("boom.c"), SOURCE)?;
    fs::write(dir.join("Makefile"), MAKEFILE)?;
    let script = format!(
        "set -e
         mount --make-rprivate /
         cd {sysroot}
         mkdir -p usr/src usr/lib/kbuild-here mnt proc dev
         mount --bind {headers}/usr/src usr/src
         mount -t tmpfs none mnt
         for d in {headers}/usr/lib/linux-kbuild-*; do
             mkdir -p usr/lib/$(basename $d)
             mount --bind $d usr/lib/$(basename $d)
         done
         mkdir mnt/module
         mount --bind {dir} mnt/module
         mount -t proc proc proc
         mount --bind /dev dev
         exec chroot . /usr/bin/env -i PATH=/usr/bin:/usr/sbin LC_ALL=C \
             make -C /usr/src/linux-headers-{release} M=/mnt/module {machine} HOSTCC=gcc \
             KBUILD_MODPOST_WARN=1 CONFIG_DEBUG_INFO_BTF_MODULES= modules",
        sysroot = quoted(&sysroot)?,
        headers = quoted(headers)?,
        dir = quoted(dir)?,
        release = kernel.release,
    );
    tool::run(UNSHARE.command()?.args(["--mount", "sh", "-c", &script]))?;
    if !dir.join("boom.ko").is_file() {
        bail!("make ended well but left no boom.ko");
    }
    Ok(())
}

/// A compiler in a folder of its own.
fn compiler(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let mut programs = PROGRAMS.to_vec();
    let name = match arch {
        Arch::Amd64 => format!("compiler-{SUITE}"),
        Arch::Arm64 => {
            programs.push(CROSS);
            format!("compiler-{SUITE}-arm64")
        }
    };
    cache.fill(&name, |dir| {
        let packages = Packages::open(cache, &kernels::suites()?)?;
        let debs = packages.download_with_dependencies(SUITE, &programs)?;
        packages::unpack(&debs, dir)?;
        // Links that packages leave to their installation scripts.
        for (link, target) in [("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash")] {
            if !dir.join(link).exists() {
                std::os::unix::fs::symlink(target, dir.join(link))?;
            }
        }
        Ok(())
    })
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"));
    Ok(uid.is_some_and(|uid| uid.split_ascii_whitespace().nth(1) == Some("0")))
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path is not UTF-8")?;
    if text.contains('\'') {
        bail!("the path {text} has a quote in it; set LASTGASP_CACHE to another");
    }
    Ok(format!("'{text}'"))
}
