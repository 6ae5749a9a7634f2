//! What was read out of a log: one report for each thing that happened.

use std::collections::BTreeMap;

use agent_core::model;
use serde::{Serialize, Serializer};

use crate::bugs::{self, Candidate, Verdict};
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
    pub source_file: Option<String>,
    /// Line in it. It moves with every build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_line: Option<u32>,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
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
            fingerprint: Some(self.fingerprint.clone()),
            known_bugs: self.known_bugs(),
        }
    }
}

impl Report {
    /// Known bugs that this kernel may have.
    fn known_bugs(&self) -> Vec<model::KnownBug> {
        let may_have = |candidate: &Candidate| candidate.opinion.verdict != Verdict::RuledOut;
        let all = bugs::candidates(self).into_iter().filter(may_have);
        let short = |Candidate { bug, opinion }| model::KnownBug {
            id: bug.id.clone(),
            title: bug.title.clone(),
            likely: opinion.verdict == Verdict::Likely,
            fixed_in: opinion.update_to,
            workaround: bug.workaround.as_ref().map(|w| w.text.clone()),
            reference: bug.references.first().map(|r| r.url.clone()),
        };
        all.take(KNOWN_MAX).map(short).collect()
    }
}

/// Known bugs that go into the record of a death.
const KNOWN_MAX: usize = 3;

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
    use crate::decode_text;

    const LOG: &str = "kernel BUG at net/core/skbuff.c:4230!\n\
        invalid opcode: 0000 [#1] PREEMPT SMP NOPTI\n\
        CPU: 3 PID: 29 Comm: ksoftirqd/3 Not tainted RELEASE #1\n\
        RIP: 0010:skb_segment+0x2b2/0x930\nCall Trace:\n <TASK>\n \
        tcp_gso_segment+0x13a/0x160\n inet_gso_segment+0x34/0xf0\n </TASK>\n\
        Kernel panic - not syncing: Fatal exception in interrupt\n";

    /// Known bugs in the record of a death on a kernel: whether likely, and where fixed.
    fn known(release: &str) -> Vec<(String, bool, Option<String>)> {
        let report = decode_text(&LOG.replace("RELEASE", release)).expect("a report");
        let bugs = report.known_bugs.into_iter();
        bugs.map(|bug| (bug.id, bug.likely, bug.fixed_in)).collect()
    }

    #[test]
    fn the_record_of_a_death_names_bugs_that_its_kernel_may_have() {
        let one = |id: &str, version: &str| (id.to_owned(), true, Some(version.to_owned()));
        let on = known("6.1.102");
        assert_eq!(on[0], one("cve-2024-42281", "6.1.103"));
        let on = known("6.1.1-1.el9.elrepo.x86_64");
        assert_eq!(
            on[..2],
            [
                one("cve-2022-50365", "6.1.2"),
                one("cve-2024-42281", "6.1.103")
            ]
        );
        let fixed = known("6.1.103");
        assert!(
            fixed
                .iter()
                .all(|(id, likely, _)| !likely && id != "cve-2024-42281"),
            "{fixed:?}"
        );
    }
}
