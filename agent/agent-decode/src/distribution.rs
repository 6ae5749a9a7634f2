//! Who built a kernel, and which stable kernel it was built from.
//!
//! A release string is a name that its builder chose. What follows a stable
//! series carries that series' version; what takes single fixes into an old
//! version for years carries a version that says nothing of its fixes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kernel of a stable series, or the mainline kernel that it began with.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Level {
    /// Series: 6 and 1 of 6.1.103.
    pub series: (u16, u16),
    /// Its stable release: 103 of 6.1.103, 0 of 6.1.
    pub patch: u16,
}

impl FromStr for Level {
    type Err = String;

    /// Reads `6.1` and `6.1.103`, and nothing else.
    fn from_str(text: &str) -> Result<Self, String> {
        match Self::begin(text) {
            Some((level, "")) => Ok(level),
            _ => Err(format!("{text:?} is no kernel version like 6.1 or 6.1.103")),
        }
    }
}

impl TryFrom<String> for Level {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.to_string()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.series;
        match self.patch {
            0 => write!(f, "{major}.{minor}"),
            patch => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

impl Level {
    /// The version that a text begins with, and what stands behind it.
    fn begin(text: &str) -> Option<(Self, &str)> {
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let series = (major, minor);
        Some(match rest.strip_prefix('.').and_then(number) {
            Some((patch, rest)) => (Self { series, patch }, rest),
            None => (Self { series, patch: 0 }, rest),
        })
    }
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    Some((digits.parse().ok()?, rest))
}

/// What a builder's release string says of the stable kernel in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Follows {
    /// It begins with the stable kernel's version.
    Stable,
    /// The stable version stands in `uname -v`: `#1 SMP Debian 6.1.176-1`.
    InVersion,
    /// It begins with a version into which fixes are taken one by one.
    Backports,
}

/// A builder, and how its kernels are told.
struct Builder {
    name: &'static str,
    /// What their release holds.
    release: &'static str,
    /// What their version (`uname -v`) holds; empty: anything.
    version: &'static str,
    follows: Follows,
}

const fn b(release: &'static str, name: &'static str, follows: Follows) -> Builder {
    Builder {
        name,
        release,
        version: "",
        follows,
    }
}

const fn v(version: &'static str, name: &'static str, follows: Follows) -> Builder {
    Builder {
        name,
        release: "",
        version,
        follows,
    }
}

/// The first that fits counts.
const BUILDERS: &[Builder] = {
    use Follows::{Backports, InVersion, Stable};
    &[
        b(".elrepo", "elrepo", Stable),
        b("uek", "Oracle Linux", Backports),
        b(".amzn", "Amazon Linux", Stable),
        b(".fc", "Fedora", Stable),
        b(".el", "RHEL", Backports),
        b(".oe", "openEuler", Backports),
        b(".al7", "Alibaba Cloud Linux", Backports),
        b(".al8", "Alibaba Cloud Linux", Backports),
        b(".an8", "Anolis OS", Backports),
        b(".an23", "Anolis OS", Backports),
        b(".tl3", "TencentOS", Backports),
        b(".tl4", "TencentOS", Backports),
        b(".azl", "Azure Linux", Stable),
        b(".cm2", "Azure Linux", Stable),
        b(".ph", "Photon OS", Stable),
        b("-flatcar", "Flatcar", Stable),
        b("-talos", "Talos", Stable),
        b("-bottlerocket", "Bottlerocket", Stable),
        b("-cos", "Container-Optimized OS", Stable),
        b("-gardenlinux", "Garden Linux", Stable),
        b("-linuxkit", "LinuxKit", Stable),
        b("-microsoft-standard", "WSL", Stable),
        b("-pve", "Proxmox", Backports),
        b("-arch", "Arch Linux", Stable),
        b("-MANJARO", "Manjaro", Stable),
        b("-gentoo", "Gentoo", Stable),
        b("-lts", "Alpine", Stable),
        b("-virt", "Alpine", Stable),
        b("-lp1", "openSUSE", Backports),
        b("-default", "SUSE", Backports),
        b("+deb", "Debian", Stable),
        v("Debian", "Debian", InVersion),
        v("Ubuntu", "Ubuntu", Backports),
        v("NixOS", "NixOS", Stable),
        v("openSUSE", "openSUSE", Backports),
        v("SUSE", "SUSE", Backports),
        v("PREEMPT Chromium", "Container-Optimized OS", Stable),
    ]
};

const UBUNTU: Builder = b("", "Ubuntu", Follows::Backports);
const DEBIAN: Builder = b("", "Debian", Follows::InVersion);

fn builder(release: &str, version: &str) -> Option<&'static Builder> {
    let is = |b: &&Builder| release.contains(b.release) && version.contains(b.version);
    BUILDERS.iter().find(is).or_else(|| {
        // `6.1.0-50-cloud-amd64`, `5.15.0-25-generic`: an ABI number and a flavour.
        let (abi, flavour) = release.split_once('-')?.1.split_once('-')?;
        let has_abi = abi.bytes().all(|b| b.is_ascii_digit()) && release.contains(".0-");
        let is_debian = ["amd64", "arm64"]
            .iter()
            .any(|arch| flavour.ends_with(arch));
        match flavour {
            _ if !has_abi => None,
            _ if is_debian => Some(&DEBIAN),
            "generic" | "aws" | "azure" | "gcp" | "gke" | "kvm" | "lowlatency" | "oracle" => {
                Some(&UBUNTU)
            }
            _ => None,
        }
    })
}

/// The distribution that built a kernel, as far as its release (`uname -r`) and version
/// (`uname -v`) tell.
pub(crate) fn distribution(release: &str, version: Option<&str>) -> Option<&'static str> {
    Some(builder(release, version.unwrap_or(""))?.name)
}

/// The stable kernel that a kernel was built from, or why that cannot be told. It has at
/// least the fixes of that kernel.
pub fn level(release: &str, version: Option<&str>) -> Result<Level, String> {
    let version = version.unwrap_or("");
    let no = || format!("{release} does not begin with a kernel version");
    let (level, rest) = Level::begin(release).ok_or_else(no)?;
    if rest.contains("-rc") {
        return Err(format!(
            "{release} is a release candidate: what is in it is not recorded"
        ));
    }
    let Some(builder) = builder(release, version) else {
        let is_plain = rest.trim_end_matches('+').is_empty();
        let unknown =
            || format!("it is not known whether the builder of {release} follows a stable series");
        return is_plain.then_some(level).ok_or_else(unknown);
    };
    let name = builder.name;
    match builder.follows {
        Follows::Stable => Ok(level),
        Follows::InVersion => {
            let behind = version
                .split_once(name)
                .and_then(|(_, rest)| Level::begin(rest.trim_start()));
            let (level, _) = behind.ok_or_else(|| {
                format!("{release} names {name}'s ABI; its version (uname -v) would say which kernel it is")
            })?;
            Ok(level)
        }
        Follows::Backports => Err(format!(
            "{name} takes single fixes into its kernels: {release} does not say which"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builders_and_levels_are_told_by_their_marks() {
        let debian = Some("#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-08-20)");
        for (release, version, name, at) in [
            (
                "6.1.1-1.el9.elrepo.x86_64",
                None,
                Some("elrepo"),
                Some("6.1.1"),
            ),
            ("5.14.0-427.el9.x86_64", None, Some("RHEL"), None),
            (
                "5.15.0-205.149.5.1.el9uek.x86_64",
                None,
                Some("Oracle Linux"),
                None,
            ),
            (
                "6.1.0-50-cloud-amd64",
                debian,
                Some("Debian"),
                Some("6.1.176"),
            ),
            ("6.1.0-50-cloud-amd64", None, Some("Debian"), None),
            ("5.10.0-33-arm64", None, Some("Debian"), None),
            (
                "6.12.107+deb13-cloud-amd64",
                None,
                Some("Debian"),
                Some("6.12.107"),
            ),
            ("5.15.0-25-generic", None, Some("Ubuntu"), None),
            ("6.8.0-1021-aws", None, Some("Ubuntu"), None),
            (
                "6.1.112-122.189.amzn2023.x86_64",
                None,
                Some("Amazon Linux"),
                Some("6.1.112"),
            ),
            (
                "6.11.4-301.fc41.x86_64",
                None,
                Some("Fedora"),
                Some("6.11.4"),
            ),
            ("6.6.58-flatcar", None, Some("Flatcar"), Some("6.6.58")),
            ("6.6.58-talos", None, Some("Talos"), Some("6.6.58")),
            (
                "6.6.150.1-1.azl3",
                None,
                Some("Azure Linux"),
                Some("6.6.150"),
            ),
            ("5.14.21-150500.55.19-default", None, Some("SUSE"), None),
            ("6.8.12-4-pve", None, Some("Proxmox"), None),
            ("6.6.56+", None, None, Some("6.6.56")),
            ("6.1.81", None, None, Some("6.1.81")),
            ("6.1.81-custom", None, None, None),
            ("6.11.0-rc3", None, None, None),
            ("6.11.0-rc3-talos", None, Some("Talos"), None),
            ("garbage", None, None, None),
            ("6.99999.1", None, None, None),
        ] {
            assert_eq!(distribution(release, version), name, "{release}");
            let at = at.map(|at| at.parse().expect("a level"));
            assert_eq!(level(release, version).ok(), at, "{release}");
        }
    }

    #[test]
    fn a_level_is_written_as_it_is_read() {
        for text in ["6.1", "6.1.103", "5.10.224"] {
            assert_eq!(text.parse::<Level>().expect("a level").to_string(), text);
        }
        for text in ["", "6", "6.", "6.1.x", "v6.1", "6.1.1.1", "6.1 "] {
            assert!(text.parse::<Level>().is_err(), "{text}");
        }
    }
}
