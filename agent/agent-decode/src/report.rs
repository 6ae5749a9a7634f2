//! What was read out of a log: one report for each thing that happened.

use std::collections::BTreeMap;

use agent_core::model;
use serde::{Serialize, Serializer};

use crate::frames::Frame;
use crate::header::Taint;
use crate::kind::Kind;

/// Something that happened to a kernel, as its log tells it. Damage is a field, never an
/// error: what the log does not say is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What happened.
    #[serde(serialize_with = "word")]
    pub kind: Kind,
    /// One line for people: `NULL pointer dereference in foo_bar [foo]`.
    pub title: String,
    /// The kernel's own line that says what.
    pub line: String,
    /// The text of the panic that it ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<String>,
    /// Function in which the CPU was (RIP or PC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_function: Option<String>,
    /// The first function that is to blame: not those that report, wait, or do what others
    /// told them to (`skip.txt`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blamed_function: Option<String>,
    /// Module of the function to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Source file of the `BUG()`, `WARN()` or other check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in it. It moves with every build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_line: Option<u32>,
    /// What the kernel says of the condition that did not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The stack, innermost first.
    pub frames: Vec<Frame>,
    /// Kernel release (`uname -r`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// Where the release was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release_from: Option<Source>,
    /// Build of the kernel (`uname -v`), with what the distribution says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    /// Distribution, if release or version tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<&'static str>,
    /// What makes the kernel less trustworthy; absent if the log does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint: Option<Vec<Taint>>,
    /// Modules that were loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Process id of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// The work that a kernel worker did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workqueue: Option<String>,
    /// The machine, as its firmware names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Registers, in hexadecimal digits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<String, String>,
    /// Seconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<f64>,
    /// Why this report cannot be trusted in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted: Option<String>,
    /// The same for one crash however it was logged, and across builds of one kernel.
    pub fingerprint: String,
    /// Bytes before its first line.
    pub start: u64,
    /// Bytes up to the end of its last one.
    pub end: u64,
}

/// Where a log says which kernel it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// In the report.
    Report,
    /// In the banner of the boot.
    Boot,
    /// In the banner of the boot after it: most likely the same kernel.
    NextBoot,
}

fn word<S: Serializer>(kind: &Kind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.as_str())
}

impl Report {
    /// What of it goes into the record of a death.
    pub fn summary(&self) -> model::Report {
        model::Report {
            code: self.kind.reason(),
            title: self.title.clone(),
            line: self.line.clone(),
            fault_function: self.fault_function.clone(),
            module: self.module.clone(),
            kernel_release: self.kernel_release.clone(),
            comm: self.comm.clone(),
            corrupted: self.corrupted.clone(),
        }
    }
}

/// Which report of a boot tells why it ended.
///
/// The one that ended with a panic; an oops that the machine survived for days explains
/// nothing. Without a panic it is the gravest that happened, and of those the first, which
/// the others may have followed from. What happens to a container's own memory is nothing
/// that a machine dies of.
pub fn reason(reports: impl IntoIterator<Item = Report>) -> Option<Report> {
    let mut gravest: Option<Report> = None;
    for report in reports {
        if report.kind == Kind::CgroupOomKill {
            continue;
        }
        if report.panic.is_some() {
            return Some(report);
        }
        let weight = report.kind.weight();
        if gravest.as_ref().is_none_or(|g| g.kind.weight() < weight) {
            gravest = Some(report);
        }
    }
    gravest
}

/// The distribution that built a kernel, as far as its release and version tell.
pub(crate) fn distribution(release: &str, version: Option<&str>) -> Option<&'static str> {
    const IN_RELEASE: &[(&str, &str)] = &[
        (".el6.elrepo", "elrepo"),
        (".elrepo", "elrepo"),
        (".amzn", "Amazon Linux"),
        (".fc", "Fedora"),
        (".el", "RHEL"),
        ("uek.", "Oracle Linux"),
        (".azl", "Azure Linux"),
        (".cm2", "Azure Linux"),
        ("-flatcar", "Flatcar"),
        ("-talos", "Talos"),
        ("-bottlerocket", "Bottlerocket"),
        ("-cos", "Container-Optimized OS"),
        ("-microsoft-standard", "WSL"),
        ("-pve", "Proxmox"),
        ("-arch", "Arch Linux"),
        ("-MANJARO", "Manjaro"),
        ("-lp1", "openSUSE"),
    ];
    const IN_VERSION: &[(&str, &str)] = &[
        ("Debian", "Debian"),
        ("Ubuntu", "Ubuntu"),
        ("NixOS", "NixOS"),
        ("openSUSE", "openSUSE"),
        ("SUSE", "SUSE"),
        ("PREEMPT Chromium", "Container-Optimized OS"),
    ];
    let version = version.unwrap_or("");
    let of_release = IN_RELEASE.iter().find(|(mark, _)| release.contains(mark));
    let of_version = || IN_VERSION.iter().find(|(mark, _)| version.contains(mark));
    let found = of_release.or_else(of_version).map(|(_, name)| *name);
    // `5.15.0-25-generic`, `6.8.0-1021-aws`: an ABI number and a flavour.
    let is_ubuntu = || {
        let mut parts = release.split('-').skip(1);
        let abi = parts
            .next()
            .is_some_and(|abi| abi.bytes().all(|b| b.is_ascii_digit()));
        let flavours = [
            "generic",
            "aws",
            "azure",
            "gcp",
            "gke",
            "kvm",
            "lowlatency",
            "oracle",
        ];
        abi && parts
            .next()
            .is_some_and(|flavour| flavours.contains(&flavour))
    };
    let is_debian = || release.contains("+deb") || release.ends_with("-cloud-amd64");
    found
        .or_else(|| is_debian().then_some("Debian"))
        .or_else(|| is_ubuntu().then_some("Ubuntu"))
}

/// A short name for what happened and where (FNV-1a, 64 bits), in hexadecimal digits.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_by_their_marks() {
        for (release, version, expected) in [
            ("6.1.1-1.el9.elrepo.x86_64", None, Some("elrepo")),
            ("5.14.0-427.el9.x86_64", None, Some("RHEL")),
            (
                "6.1.0-50-cloud-amd64",
                Some("#1 SMP Debian 6.1.176-1"),
                Some("Debian"),
            ),
            ("6.12.107+deb13-cloud-amd64", None, Some("Debian")),
            ("5.15.0-25-generic", None, Some("Ubuntu")),
            ("6.8.0-1021-aws", None, Some("Ubuntu")),
            (
                "6.1.112-122.189.amzn2023.x86_64",
                None,
                Some("Amazon Linux"),
            ),
            ("6.6.58-flatcar", None, Some("Flatcar")),
            ("6.1.81", None, None),
        ] {
            assert_eq!(distribution(release, version), expected, "{release}");
        }
    }
}
