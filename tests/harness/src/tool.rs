//! Programs of the machine, and what to install where one is missing.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

/// Why a case cannot be run on this machine: not a failure of what is tested.
/// Found again behind an [`anyhow::Error`] by `downcast_ref`.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// A program, and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    name: &'static str,
    package: &'static str,
}

/// Runs the machines.
pub const QEMU_X86_64: Tool = Tool::new("qemu-system-x86_64", "qemu-system-x86");
/// Runs those with ARM processors.
pub const QEMU_AARCH64: Tool = Tool::new("qemu-system-aarch64", "qemu-system-arm");
/// Fetches packages.
pub const APT_GET: Tool = Tool::new("apt-get", "apt");
/// Answers what a package needs.
pub const APT_CACHE: Tool = Tool::new("apt-cache", "apt");
/// Tells the machine's own settings.
pub const APT_CONFIG: Tool = Tool::new("apt-config", "apt");
/// Unpacks packages.
pub const DPKG_DEB: Tool = Tool::new("dpkg-deb", "dpkg");
/// Unpacks kernel modules.
pub const XZ: Tool = Tool::new("xz", "xz-utils");
/// Makes a file system.
pub const MKFS: Tool = Tool::new("mkfs.ext4", "e2fsprogs");
/// Gives a process another priority.
pub const NICE: Tool = Tool::new("nice", "coreutils");
/// Gives a thread another scheduling class.
pub const CHRT: Tool = Tool::new("chrt", "util-linux");
/// Gives a compiler its own view of the file system.
pub const UNSHARE: Tool = Tool::new("unshare", "util-linux");
/// Makes network namespaces and devices.
pub const IP: Tool = Tool::new("ip", "iproute2");
/// Makes rules that drop packets.
pub const NFT: Tool = Tool::new("nft", "nftables");
/// Another receiver of log lines.
pub const RSYSLOGD: Tool = Tool::new("rsyslogd", "rsyslog");
/// Another tracer.
pub const BPFTRACE: Tool = Tool::new("bpftrace", "bpftrace");

impl Tool {
    const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }

    /// The Debian package that has it.
    pub(crate) fn package(self) -> &'static str {
        self.package
    }

    /// Where it is, or a [`Skip`] that says what to install.
    pub fn find(self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            // Not on every user's path, but where they are.
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|dir| dir.join(self.name))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                Skip(format!(
                    "{} is not installed; on Debian or Ubuntu: apt-get install {}",
                    self.name, self.package
                ))
                .into()
            })
    }

    /// A command that runs it.
    pub fn command(self) -> Result<Command> {
        Ok(Command::new(self.find()?))
    }
}

/// Runs to the end; an exit status other than 0 is an error that carries the
/// command and the end of what it said.
pub fn run(command: &mut Command) -> Result<Output> {
    let shown = show(command);
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
        bail!("`{shown}` ended with {}:\n  {tail}", output.status);
    }
    Ok(output)
}

/// [`run`], and its standard output as text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&run(command)?.stdout).into_owned())
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    let words: Vec<_> = words.into_iter().map(OsStr::to_string_lossy).collect();
    let mut shown = words.join(" ");
    if let Some((at, _)) = shown.char_indices().nth(400) {
        shown.truncate(at);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_a_skip_that_names_its_package() {
        let error = Tool::new("no-such-program", "some-package")
            .find()
            .expect_err("it is not there");
        let skip = error.downcast_ref::<Skip>().expect("a skip");
        assert!(
            skip.0.contains("no-such-program") && skip.0.ends_with("some-package"),
            "{skip}"
        );
    }

    #[test]
    fn a_failing_command_says_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = run(&mut command).expect_err("exit status 3").to_string();
        for part in ["sh -c", "exit status: 3", "out", "err"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
