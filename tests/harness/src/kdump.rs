//! A crash kernel for the machines: the same kernel once more, which saves the log
//! of the one that died with the tool that distributions use.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::initramfs::{self, File};
use crate::kernels::Kernel;
use crate::packages;

/// The packages of the tool and of what it is linked with, and the suite.
const PACKAGES: [&str; 2] = ["kexec-tools", "libc6"];
const SUITE: &str = "trixie";

/// Memory that is kept free for it.
const RESERVED: &str = "crashkernel=192M";

/// What a machine needs to load a crash kernel: files for its initramfs, to which
/// the crash kernel's own adds `more`, and something for the command line.
/// `after_notifiers`: the dying kernel runs its panic notifiers first.
pub fn files(
    cache: &Cache,
    kernel: &Kernel,
    more: &[File],
    after_notifiers: bool,
) -> Result<(Vec<File>, String)> {
    let names = PACKAGES.map(|name| format!("{name}:amd64/{SUITE}"));
    let root = packages::unpacked(cache, "vmcore-dmesg", &names)?;
    let find = |places: [&str; 2]| -> Result<PathBuf> {
        let mut paths = places.iter().map(|place| root.join(place));
        let found = paths.find(|path| path.is_file());
        found.with_context(|| format!("no {} in {}", places[0], root.display()))
    };
    let libc = "lib/x86_64-linux-gnu/libc.so.6";
    let loader = "lib64/ld-linux-x86-64.so.2";
    let mut own = initramfs::modules(kernel)?;
    own.extend_from_slice(more);
    for (path, places) in [
        (
            "/sbin/vmcore-dmesg",
            ["usr/sbin/vmcore-dmesg", "sbin/vmcore-dmesg"],
        ),
        (
            "/lib/x86_64-linux-gnu/libc.so.6",
            [&format!("usr/{libc}"), libc],
        ),
        (
            "/lib64/ld-linux-x86-64.so.2",
            [&format!("usr/{loader}"), loader],
        ),
    ] {
        own.push(File::copy(path, 0o755, &find(places)?)?);
    }
    let file = |path: &str, bytes: Vec<u8>| File {
        path: path.into(),
        mode: 0o644,
        bytes,
    };
    let command_line = "console=ttyS0 quiet panic=-1 nr_cpus=1 reset_devices";
    let files = vec![
        File::copy("/crash/kernel", 0o644, &kernel.image)?,
        file("/crash/initramfs", initramfs::archive(&own)),
        file("/crash/command-line", command_line.into()),
    ];
    let notifiers = if after_notifiers {
        " crash_kexec_post_notifiers"
    } else {
        ""
    };
    Ok((files, format!(" {RESERVED}{notifiers}")))
}
