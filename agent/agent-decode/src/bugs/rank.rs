//! Which known bugs a report looks like, and which of them its kernel can have.

use std::cmp::Reverse;

use serde::Serialize;

use crate::distribution;
use crate::report::Report;

use super::signature::{Build, Looks, Signature};
use super::versions::{Has, Versions};

/// What is to be thought of a candidate; the surest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It looks like it in all that was recorded, and this kernel has the bug.
    Likely,
    /// It looks like it, and nothing rules it out.
    Possible,
    /// It looks like it, but this kernel does not have the bug.
    RuledOut,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Likely => "likely",
            Self::Possible => "possible",
            Self::RuledOut => "ruled out",
        }
    }
}

/// What is to be thought of a bug, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Opinion {
    /// How sure it is.
    pub verdict: Verdict,
    /// What speaks for it; each a phrase.
    #[serde(rename = "for")]
    pub evidence: Vec<String>,
    /// What speaks against it, or is not known.
    pub against: Vec<String>,
    /// The first version of this kernel's series that has the fix; of mainline where its
    /// series has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_to: Option<String>,
    /// How much speaks for it; to compare bugs that one report looks like.
    pub score: u32,
}

/// A known bug that a report looks like.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The bug.
    #[serde(flatten)]
    pub bug: &'static Signature,
    /// What is to be thought of it.
    #[serde(flatten)]
    pub opinion: Opinion,
}

/// The known bugs that a report looks like, the likeliest first.
pub fn candidates(report: &Report) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = super::known()
        .iter()
        .filter_map(|bug| {
            let look = look(&bug.looks, report)?;
            let standing = of_kernel(bug, &Kernel::of(report));
            let opinion = opinion(look, standing);
            Some(Candidate { bug, opinion })
        })
        .collect();
    all.sort_by_key(|candidate| candidate.opinion.order());
    all
}

impl Opinion {
    /// The likeliest first.
    pub(super) fn order(&self) -> (Verdict, Reverse<u32>) {
        (self.verdict, Reverse(self.score))
    }
}

/// What a look and the kernel's version say together.
pub(super) fn opinion(look: Look, standing: Standing) -> Opinion {
    let Look {
        mut evidence,
        mut against,
        score,
    } = look;
    let looks_whole = against.is_empty();
    let (verdict, update_to) = match standing {
        Standing::Has { said, update_to } => {
            evidence.push(said);
            let verdict = if looks_whole {
                Verdict::Likely
            } else {
                Verdict::Possible
            };
            (verdict, update_to)
        }
        Standing::HasNot(said) => {
            against.push(said);
            (Verdict::RuledOut, None)
        }
        Standing::Unknown(said) => {
            against.push(said);
            (Verdict::Possible, None)
        }
    };
    Opinion {
        verdict,
        evidence,
        against,
        update_to,
        score,
    }
}

/// How far a report looks like a bug.
#[derive(Default)]
pub(super) struct Look {
    pub(super) evidence: Vec<String>,
    pub(super) against: Vec<String>,
    pub(super) score: u32,
}

impl Look {
    pub(super) fn good(&mut self, score: u32, said: String) {
        self.score += score;
        self.evidence.push(said);
    }
}

/// `None` if a report does not look like it.
fn look(looks: &Looks, report: &Report) -> Option<Look> {
    if !looks.kinds.contains(&report.kind) {
        return None;
    }
    let mut look = Look::default();
    file(looks, report, &mut look)?;
    function(looks, report, &mut look)?;
    stack(looks, report, &mut look)?;
    modules(looks, report, &mut look);
    for text in &looks.text {
        let said = [
            Some(&report.line),
            report.panic.as_ref(),
            report.condition.as_ref(),
        ];
        if !said
            .into_iter()
            .flatten()
            .any(|said| said.contains(text.as_str()))
        {
            return None;
        }
        look.good(1, format!("the kernel says {text:?}"));
    }
    Some(look)
}

fn file(looks: &Looks, report: &Report, look: &mut Look) -> Option<()> {
    let Some(file) = report
        .source_file
        .as_ref()
        .filter(|_| !looks.files.is_empty())
    else {
        return Some(());
    };
    // A build elsewhere has folders before it.
    let known = looks
        .files
        .iter()
        .find(|known| file.ends_with(known.as_str()))?;
    look.good(1, format!("the check that failed is in {known}"));
    Some(())
}

fn function(looks: &Looks, report: &Report, look: &mut Look) -> Option<()> {
    let Some(first) = looks.functions.first() else {
        return Some(());
    };
    let named = [
        report.fault_function.as_ref(),
        report.blamed_function.as_ref(),
    ];
    let is_known = |function: &&String| looks.functions.contains(function);
    if let Some(function) = named.into_iter().flatten().find(is_known) {
        look.good(4, format!("it happened in {function}"));
        return Some(());
    }
    if named.iter().any(Option::is_some) {
        // What is to blame may stand a little behind what the CPU was in.
        let frames = report
            .frames
            .iter()
            .filter(|f| f.reliable)
            .map(|f| &f.function);
        let function = frames.take(4).find(is_known)?;
        look.good(2, format!("{function} had called where it happened"));
        return Some(());
    }
    // A log that breaks off behind its first line says no more than the file.
    if look.score == 0 {
        return None;
    }
    look.against
        .push(format!("the log does not say that it happened in {first}"));
    Some(())
}

fn stack(looks: &Looks, report: &Report, look: &mut Look) -> Option<()> {
    if looks.stack.is_empty() && looks.stack_any.is_empty() {
        return Some(());
    }
    if report.frames.is_empty() {
        // Where nothing else is asked for, nothing speaks for it.
        if look.score == 0 {
            return None;
        }
        look.against.push("the stack is not in the log".to_owned());
        return Some(());
    }
    let is_there = |function: &&String| {
        report.fault_function.as_ref() == Some(*function)
            || report
                .frames
                .iter()
                .any(|frame| frame.function == **function)
    };
    if !looks.stack.iter().all(|function| is_there(&function)) {
        return None;
    }
    let any = looks.stack_any.iter().find(is_there);
    if any.is_none() && !looks.stack_any.is_empty() {
        return None;
    }
    let mut there: Vec<&str> = looks.stack.iter().chain(any).map(String::as_str).collect();
    there.dedup();
    look.good(
        there.len() as u32,
        format!("on the stack: {}", there.join(", ")),
    );
    Some(())
}

fn modules(looks: &Looks, report: &Report, look: &mut Look) {
    let Some(first) = looks.modules.first() else {
        return;
    };
    let is_loaded =
        |known: &&String| report.modules.contains(known) || report.module.as_ref() == Some(*known);
    match looks.modules.iter().find(is_loaded) {
        Some(module) => look.good(1, format!("{module} is loaded")),
        None if report.modules.is_empty() => look
            .against
            .push(format!("the log does not say that {first} is loaded")),
        None => look
            .against
            .push(format!("{first} is not among the loaded modules")),
    }
}

/// Whether a kernel has a bug.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It has.
    Has {
        /// Why, in words.
        said: String,
        /// The first version of its series that has the fix; of mainline where its series
        /// has none.
        update_to: Option<String>,
    },
    /// It has not, and why, in words.
    HasNot(String),
    /// Nobody can know, and why, in words.
    Unknown(String),
}

/// A kernel, as far as it is known.
pub(super) struct Kernel<'a> {
    /// `uname -r`.
    release: Option<&'a str>,
    /// `uname -v`.
    version: Option<&'a str>,
    distribution: Option<&'a str>,
}

impl<'a> Kernel<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        Self {
            release: report.kernel_release.as_deref(),
            version: report.kernel_version.as_deref(),
            distribution: report.distribution,
        }
    }
}

/// Whether a kernel has a known bug: by its release (`uname -r`) and, if known, its version
/// (`uname -v`). `None` if no bug of this id is known.
pub fn on_kernel(id: &str, release: &str, version: Option<&str>) -> Option<Standing> {
    let bug = super::known().iter().find(|bug| bug.id == id)?;
    let kernel = Kernel {
        release: Some(release),
        version,
        distribution: distribution::distribution(release, version),
    };
    Some(of_kernel(bug, &kernel))
}

fn of_kernel(bug: &Signature, kernel: &Kernel<'_>) -> Standing {
    by_build(bug, kernel).unwrap_or_else(|| standing(&bug.introduced, &bug.fixed, kernel))
}

/// What the versions that have a bug and its fix say of a kernel.
pub(super) fn standing(introduced: &Versions, fixed: &Versions, kernel: &Kernel<'_>) -> Standing {
    let Some(release) = kernel.release else {
        return Standing::Unknown("the log does not say which kernel it was".to_owned());
    };
    let level = match distribution::level(release, kernel.version) {
        Ok(level) => level,
        Err(why) => return Standing::Unknown(why),
    };
    if !introduced.is_empty() {
        match introduced.has(level) {
            Has::NotBefore(Some(first)) => {
                return Standing::HasNot(format!("it came with {first}, this kernel is {level}"));
            }
            Has::NotBefore(None) => {
                let first = introduced
                    .mainline
                    .map_or_else(String::new, |first| format!(" with {first}"));
                return Standing::HasNot(format!("it came{first}, this kernel is {level}"));
            }
            Has::Since(_) | Has::Unknown => {}
        }
    }
    match fixed.has(level) {
        Has::Since(first) => Standing::HasNot(format!("fixed in {first}, this kernel is {level}")),
        Has::NotBefore(Some(first)) => Standing::Has {
            said: format!("fixed in {first}, this kernel is {level}"),
            update_to: Some(first.to_string()),
        },
        // That a series has no fix says that it has the bug only if it is known to.
        Has::NotBefore(None) if introduced.is_empty() => {
            Standing::Unknown(format!("it is not known whether {level} has the bug"))
        }
        Has::NotBefore(None) => Standing::Has {
            said: format!("this kernel is {level}, a series that no fix is known for"),
            update_to: fixed.mainline.map(|first| first.to_string()),
        },
        Has::Unknown => Standing::Unknown(format!("it is not known whether {level} has the fix")),
    }
}

/// What is recorded of a distribution's builds.
fn by_build(bug: &Signature, kernel: &Kernel<'_>) -> Option<Standing> {
    let (name, release) = (kernel.distribution?, kernel.release?);
    let this = numbers(release);
    let of = |known: &str| {
        let known = numbers(known);
        // Builds are counted within a version; flavours for clouds count from 1000.
        let is_same = this.get(..3) == known.get(..3)
            && (this.get(3) < Some(&1000)) == (known.get(3) < Some(&1000));
        is_same.then(|| this.cmp(&known))
    };
    let builds = || {
        bug.distributions
            .iter()
            .filter(|build: &&Build| build.name == name)
    };
    for build in builds() {
        if let Some(fixed) = build.fixed.as_deref()
            && of(fixed).is_some_and(std::cmp::Ordering::is_ge)
        {
            return Some(Standing::HasNot(format!(
                "{name} {fixed} has the fix, this kernel is {release}"
            )));
        }
        if let Some(affected) = build.affected.as_deref()
            && of(affected).is_some_and(std::cmp::Ordering::is_le)
        {
            return Some(Standing::Has {
                said: format!("{name} {affected} has the bug, this kernel is {release}"),
                update_to: build.fixed.as_ref().map(|fixed| format!("{name} {fixed}")),
            });
        }
    }
    None
}

/// The numbers of a release, up to the first word: 6, 8, 0 and 31 of `6.8.0-31-generic`.
fn numbers(release: &str) -> Vec<u32> {
    let parts = release.split(['.', '-', '_']);
    parts.map_while(|part| part.parse().ok()).take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports;

    /// Verdicts on each bug for the reporter's crash on a kernel.
    fn on(release: &str) -> Vec<(&'static str, Verdict)> {
        let log = format!(
            "kernel BUG at net/core/skbuff.c:4230!\n\
             invalid opcode: 0000 [#1] PREEMPT SMP NOPTI\n\
             CPU: 3 PID: 29 Comm: ksoftirqd/3 Not tainted {release} #1\n\
             RIP: 0010:skb_segment+0x2b2/0x930\n\
             Call Trace:\n <TASK>\n tcp_gso_segment+0x13a/0x160\n inet_gso_segment+0x34/0xf0\n </TASK>\n"
        );
        let reports = reports(log.as_bytes());
        candidates(&reports[0])
            .into_iter()
            .map(|c| (c.bug.id.as_str(), c.opinion.verdict))
            .collect()
    }

    fn of(release: &str, id: &str) -> Option<Verdict> {
        on(release)
            .into_iter()
            .find(|(bug, _)| *bug == id)
            .map(|(_, verdict)| verdict)
    }

    #[test]
    fn bugs_that_look_alike_are_told_apart_by_the_version() {
        let id = "cve-2024-42281";
        assert_eq!(of("6.1.1-1.el9.elrepo.x86_64", id), Some(Verdict::Likely));
        assert_eq!(of("6.1.102", id), Some(Verdict::Likely));
        assert_eq!(of("6.1.103", id), Some(Verdict::RuledOut));
        assert_eq!(of("6.12.1", id), Some(Verdict::RuledOut));
        assert_eq!(of("4.9.300", id), Some(Verdict::RuledOut), "before it came");
        assert_eq!(
            of("5.14.0-427.el9.x86_64", id),
            Some(Verdict::Possible),
            "backports are not known"
        );
        assert_eq!(
            of("6.8.0-31-generic", id),
            Some(Verdict::Likely),
            "seen to crash"
        );
        assert_eq!(of("6.8.0-149-generic", id), Some(Verdict::RuledOut));
        assert_eq!(
            of("6.8.0-100-generic", id),
            Some(Verdict::Possible),
            "between the two"
        );
        assert_eq!(
            of("6.8.0-1021-aws", id),
            Some(Verdict::Possible),
            "a flavour counts on its own"
        );
        assert_eq!(of("6.1.1", "cve-2022-49872"), Some(Verdict::RuledOut));
        assert_eq!(on("6.1.1")[0].1, Verdict::Likely);
    }

    #[test]
    fn a_kernel_has_a_bug_whether_or_not_it_crashed() {
        let has = |release: &str, version| on_kernel("cve-2024-42281", release, version);
        let fixed_in = |release: &str, version| match has(release, version) {
            Some(Standing::Has { update_to, .. }) => update_to,
            _ => None,
        };
        assert_eq!(fixed_in("6.1.81", None).as_deref(), Some("6.1.103"));
        assert!(matches!(has("6.1.103", None), Some(Standing::HasNot(_))));
        let el9 = "5.14.0-427.el9.x86_64";
        assert!(matches!(has(el9, None), Some(Standing::Unknown(_))));
        // Debian says it in the version alone.
        let debian = "6.1.0-18-amd64";
        assert!(matches!(has(debian, None), Some(Standing::Unknown(_))));
        let version = Some("#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)");
        assert_eq!(fixed_in(debian, version).as_deref(), Some("6.1.103"));
        assert_eq!(on_kernel("no such bug", "6.1.81", None), None);
    }

    #[test]
    fn a_log_that_breaks_off_after_its_first_line_names_what_it_may_be() {
        let reports = reports(b"kernel BUG at net/core/skbuff.c:4230!\n");
        let all = candidates(&reports[0]);
        assert!(all.iter().any(|c| c.bug.id == "cve-2024-42281"), "{all:?}");
        assert!(
            all.iter().all(|c| c.opinion.verdict == Verdict::Possible),
            "{all:?}"
        );
    }
}
