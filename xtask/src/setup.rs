//! `cargo xtask setup`: what the other commands need, checked and installed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::build::Arch;
use crate::run;

/// A group of things that belong to one kind of work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    /// The pinned Rust with clippy and rustfmt.
    Rust,
    /// The eBPF toolchain and linker.
    Ebpf,
    /// The C compiler for static binaries.
    Musl,
    /// The same for another machine.
    Cross(Arch),
    /// Booting kernels.
    Lab,
    /// Losing packets in network namespaces of this machine.
    Network,
    /// Building a real API server.
    ControlPlane,
}

/// Install what the other commands need, or check that it is there.
///
/// Toolchains come by rustup, programs by apt, and the eBPF linker is built
/// into the cache directory (LASTGASP_CACHE, else
/// $XDG_CACHE_HOME/lastgasp, else ~/.cache/lastgasp). What cannot be
/// installed is named with the way to get it. Other commands call this for
/// what they need.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing, only say what is missing; fails if something is.
    #[arg(long)]
    check: bool,
    /// Also what `build --target aarch64` needs.
    #[arg(long)]
    cross: bool,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let mut needs = vec![
        Need::Rust,
        Need::Ebpf,
        Need::Musl,
        Need::Lab,
        Need::Network,
        Need::ControlPlane,
    ];
    if args.cross {
        needs.push(Need::Cross(Arch::Aarch64));
    }
    let missing = missing(&needs)?;
    if missing.is_empty() {
        println!("everything is there");
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        for thing in &missing {
            println!("missing: {}", thing.what());
            println!("         {}", thing.by_hand()?);
        }
        return Ok(ExitCode::FAILURE);
    }
    let (ours, theirs): (Vec<_>, Vec<_>) = missing.into_iter().partition(Missing::installable);
    install(&ours)?;
    for thing in &theirs {
        println!("skipped: {}", thing.what());
        println!("         {}", thing.by_hand()?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that what a command needs is there.
pub(crate) fn require(needs: &[Need]) -> Result<()> {
    let missing = missing(needs)?;
    if let Some(thing) = missing.iter().find(|thing| !thing.installable()) {
        bail!("{} is missing: {}", thing.what(), thing.by_hand()?);
    }
    install(&missing)
}

/// Why a group of things cannot be had; `None`: it is there now.
pub(crate) fn obstacle(needs: &[Need]) -> Option<String> {
    require(needs).err().map(|error| format!("{error:#}"))
}

/// A toolchain file.
#[derive(Debug, Deserialize)]
pub(crate) struct Pin {
    pub(crate) channel: String,
    #[serde(default)]
    components: Vec<String>,
    #[serde(default)]
    targets: Vec<String>,
}

impl Pin {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct ToolchainFile {
            toolchain: Pin,
        }
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the toolchain pin {}", path.display()))?;
        let file: ToolchainFile = toml::from_str(&text)
            .with_context(|| format!("{} is not a toolchain file", path.display()))?;
        Ok(file.toolchain)
    }

    /// What `rustup component list --installed` must name.
    fn wanted(&self) -> Vec<String> {
        let mut wanted: Vec<_> = self.components.clone();
        wanted.push("rustc".to_owned());
        wanted.extend(
            self.targets
                .iter()
                .map(|target| format!("rust-std-{target}")),
        );
        wanted
    }

    fn is_installed(&self) -> Result<bool> {
        // Without the variable a rustup of today would install it right here.
        let output = rustup(&["component", "list", "--installed", "--toolchain"])
            .arg(&self.channel)
            .env("RUSTUP_AUTO_INSTALL", "0")
            .output()
            .context("cannot start rustup; install it from rustup.rs")?;
        let listed = String::from_utf8_lossy(&output.stdout);
        Ok(output.status.success() && holds_all(&listed, &self.wanted()))
    }

    fn install_command(&self) -> Command {
        let mut command = rustup(&["toolchain", "install", "--no-self-update"]);
        command.arg(&self.channel).args(["--profile", "minimal"]);
        for component in &self.components {
            command.args(["--component", component]);
        }
        for target in &self.targets {
            command.args(["--target", target]);
        }
        command
    }
}

/// Whether rustup's list has each wanted component; the list adds the host to
/// those that exist once a machine.
fn holds_all(listed: &str, wanted: &[String]) -> bool {
    let listed: BTreeSet<&str> = listed.lines().map(str::trim).collect();
    wanted.iter().all(|name| {
        listed.contains(name.as_str())
            || listed.contains(format!("{name}-{}", host_triple()).as_str())
    })
}

fn rustup(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(args).env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// The machine this runs on, as rustup names it.
pub(crate) fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", Arch::host().name())
}

/// The pinned linker of the eBPF crate.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkerPin {
    pub(crate) version: String,
    features: Vec<String>,
}

/// Reads the linker's pin from `agent-ebpf/Cargo.toml`.
pub(crate) fn linker_pin() -> Result<LinkerPin> {
    let path = run::root().join("agent-ebpf/Cargo.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table: toml::Table = text.parse()?;
    ["package", "metadata", "bpf-linker"]
        .into_iter()
        .try_fold(toml::Value::Table(std::mem::take(&mut table)), |at, key| {
            at.get(key).cloned()
        })
        .with_context(|| format!("{} has no [package.metadata.bpf-linker]", path.display()))?
        .try_into()
        .with_context(|| format!("[package.metadata.bpf-linker] in {}", path.display()))
}

fn tools() -> Result<PathBuf> {
    Ok(run::cache()?.join("tools"))
}

/// `PATH` with the cache's tools before everything else.
pub(crate) fn path_with_tools() -> Result<OsString> {
    let mut path = OsString::from(tools()?.join("bin"));
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    Ok(path)
}

/// Programs and files by the group that needs them, and the Debian package of
/// each. A path is looked for as it is, a name on `PATH`.
fn programs(need: Need) -> &'static [(&'static str, &'static str)] {
    match need {
        Need::Rust | Need::Ebpf => &[("cc", "gcc"), ("ld", "binutils")],
        Need::Musl => &[("cc", "gcc"), ("musl-gcc", "musl-tools")],
        Need::Cross(Arch::Aarch64) => &[
            ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            (
                "/usr/aarch64-linux-gnu/include/stdio.h",
                "libc6-dev-arm64-cross",
            ),
        ],
        Need::Cross(Arch::X86_64) => &[
            ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
            (
                "/usr/x86_64-linux-gnu/include/stdio.h",
                "libc6-dev-amd64-cross",
            ),
        ],
        Need::Lab => &[
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("qemu-system-aarch64", "qemu-system-arm"),
            ("cpio", "cpio"),
            ("xz", "xz-utils"),
            ("mkfs.ext4", "e2fsprogs"),
            ("zstd", "zstd"),
            ("depmod", "kmod"),
            ("dpkg-deb", "dpkg"),
            ("apt-get", "apt"),
            ("unshare", "util-linux"),
            ("make", "make"),
        ],
        Need::Network => &[
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("unshare", "util-linux"),
        ],
        Need::ControlPlane => &[],
    }
}

/// Something that is not there.
#[derive(Debug)]
enum Missing {
    Program {
        program: &'static str,
        package: &'static str,
    },
    Toolchain(Pin),
    Linker(LinkerPin),
    Go,
}

impl Missing {
    fn what(&self) -> String {
        match self {
            Self::Program { program, package } => format!("{program} (package {package})"),
            Self::Toolchain(pin) => format!(
                "Rust {} with {}",
                pin.channel,
                [pin.components.as_slice(), pin.targets.as_slice()]
                    .concat()
                    .join(", ")
            ),
            Self::Linker(pin) => format!("bpf-linker {}", pin.version),
            Self::Go => "Go 1.26 or newer, which builds the real API server".to_owned(),
        }
    }

    fn by_hand(&self) -> Result<String> {
        Ok(match self {
            Self::Program { package, .. } => run::line(&apt(&["install", package])),
            Self::Toolchain(pin) => run::line(&pin.install_command()),
            Self::Linker(pin) => run::line(&linker_command(pin)?),
            Self::Go => "install it from go.dev/doc/install, or set KUBEBUILDER_ASSETS to a \
                         directory with etcd, kube-apiserver and kube-controller-manager; \
                         without either the Kubernetes cases are skipped"
                .to_owned(),
        })
    }

    fn installable(&self) -> bool {
        match self {
            Self::Program { .. } => on_path("apt-get"),
            Self::Go => false,
            Self::Toolchain(_) | Self::Linker(_) => true,
        }
    }
}

fn missing(needs: &[Need]) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    let mut packages = BTreeSet::new();
    for need in needs {
        for (program, package) in programs(*need) {
            if !is_there(program) && packages.insert(package) {
                missing.push(Missing::Program { program, package });
            }
        }
        match need {
            Need::Rust | Need::Musl => {
                let pin = Pin::read(&run::root().join("rust-toolchain.toml"))?;
                if !missing
                    .iter()
                    .any(|m| matches!(m, Missing::Toolchain(p) if p.channel == pin.channel))
                    && !pin.is_installed()?
                {
                    missing.push(Missing::Toolchain(pin));
                }
            }
            Need::Cross(arch) => {
                let mut pin = Pin::read(&run::root().join("rust-toolchain.toml"))?;
                pin.targets = vec![arch.musl().to_owned()];
                if !pin.is_installed()? {
                    missing.push(Missing::Toolchain(pin));
                }
            }
            Need::Ebpf => {
                let pin = Pin::read(&run::root().join("agent-ebpf/rust-toolchain.toml"))?;
                if !pin.is_installed()? {
                    missing.push(Missing::Toolchain(pin));
                }
                let linker = linker_pin()?;
                if !linker_is_installed(&linker)? {
                    missing.push(Missing::Linker(linker));
                }
            }
            Need::ControlPlane => {
                let assets = std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|v| !v.is_empty());
                if !assets && !go_is_installed() {
                    missing.push(Missing::Go);
                }
            }
            Need::Lab | Need::Network => {}
        }
    }
    Ok(missing)
}

fn install(missing: &[Missing]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let cache = run::cache()?;
    fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the cache directory {}", cache.display()))?;
    // Two checkouts may be set up at once; the second finds everything there.
    let lock = File::create(cache.join("setup.lock"))?;
    lock.lock().context("cannot lock the cache directory")?;
    run::say("setup");
    let packages: Vec<_> = missing
        .iter()
        .filter_map(|thing| match thing {
            Missing::Program { package, .. } => Some(*package),
            _ => None,
        })
        .collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    for thing in missing {
        match thing {
            Missing::Toolchain(pin) => {
                run::quietly(&thing.what(), &mut pin.install_command())?;
            }
            Missing::Linker(pin) if !linker_is_installed(pin)? => {
                run::quietly(&thing.what(), &mut linker_command(pin)?)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let mut words = vec!["install"];
    words.extend(packages);
    let what = format!("packages {}", packages.join(", "));
    // The lists of a fresh machine are empty or old; where they are not, the
    // first try is the quick way.
    if run::quietly(&what, &mut apt(&words)).is_ok() {
        return Ok(());
    }
    run::quietly("package lists", &mut apt(&["update"]))?;
    run::quietly(&what, &mut apt(&words))
}

/// apt-get, by sudo where needed; it never asks.
fn apt(words: &[&str]) -> Command {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    match words {
        ["install", packages @ ..] => command
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
        _ => command.args(words),
    };
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Who owns this process owns its directory in /proc.
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn linker_command(pin: &LinkerPin) -> Result<Command> {
    let toolchain = Pin::read(&run::root().join("agent-ebpf/rust-toolchain.toml"))?;
    let mut command = run::cargo(&run::root().join("agent-ebpf"));
    command
        .arg(format!("+{}", toolchain.channel))
        .args(["install", "bpf-linker", "--locked", "--force", "--version"])
        .arg(&pin.version)
        .args(["--no-default-features", "--features"])
        .arg(pin.features.join(","))
        .arg("--root")
        .arg(tools()?);
    // It is not part of this work tree's build.
    command.env_remove("CARGO_TARGET_DIR");
    Ok(command)
}

fn linker_is_installed(pin: &LinkerPin) -> Result<bool> {
    let output = Command::new(tools()?.join("bin/bpf-linker"))
        .arg("--version")
        .output();
    Ok(output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).trim() == format!("bpf-linker {}", pin.version)
    }))
}

fn go_is_installed() -> bool {
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    output.is_ok_and(|output| go_suffices(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether `go1.26.1` and the like is new enough for the modules of the API
/// server and of its store (`tests/controlplane/*/go.mod`).
fn go_suffices(version: &str) -> bool {
    let Some((1, minor)) = version.trim().strip_prefix("go").and_then(|version| {
        let (major, rest) = version.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    }) else {
        return false;
    };
    minor >= 26
}

fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        Path::new(program).exists()
    } else {
        on_path(program)
    }
}

/// System administration's programs are not on everybody's `PATH`, but found
/// by who needs them.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        for (version, enough) in [
            ("go1.26.0\n", true),
            ("go1.25.9", false),
            ("go1.26.1", true),
            ("go1.30rc1", true),
            ("go1.9.7", false),
            ("go1.23.12", false),
            ("devel +abc", false),
            ("", false),
        ] {
            assert_eq!(go_suffices(version), enough, "{version}");
        }
    }

    #[test]
    fn components_are_found_with_and_without_the_host() {
        let host = host_triple();
        let listed = format!("clippy-{host}\nrust-src\nrust-std-{host}\nrustc-{host}\n");
        let wanted = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(holds_all(
            &listed,
            &wanted(&["clippy", "rust-src", "rustc"])
        ));
        assert!(!holds_all(&listed, &wanted(&["rustfmt"])));
        assert!(!holds_all(
            &listed,
            &wanted(&["rust-std-aarch64-unknown-linux-musl"])
        ));
    }

    #[test]
    fn the_pins_of_this_repository_are_read() {
        let stable = Pin::read(&run::root().join("rust-toolchain.toml")).expect("is valid");
        assert!(stable.wanted().contains(&"clippy".to_owned()));
        let nightly =
            Pin::read(&run::root().join("agent-ebpf/rust-toolchain.toml")).expect("is valid");
        assert!(nightly.channel.starts_with("nightly-20"), "{nightly:?}");
        assert!(!linker_pin().expect("is valid").features.is_empty());
    }
}
