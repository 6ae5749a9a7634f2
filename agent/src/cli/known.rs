//! Known bugs that a report looks like, as people and scripts see them.

use std::fmt::Write as _;

use agent_core::recurrence::HasBug;
use agent_decode::bugs::{self, Action, Candidate, Signature, Standing, Verdict};
use serde::Serialize;

use super::out::sanitize;

/// Candidates that are shown in full; more are named.
const IN_FULL: usize = 3;

/// A candidate for scripts: what the bug is in short, and what to think of it.
#[derive(Debug, Serialize)]
pub(super) struct Short<'a> {
    id: &'a str,
    title: &'a str,
    verdict: Verdict,
    #[serde(rename = "for")]
    evidence: &'a [String],
    against: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    update_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workaround: Option<&'a str>,
    references: Vec<&'a str>,
}

impl<'a> From<&'a Candidate> for Short<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        let bug = candidate.bug;
        Self {
            id: &bug.id,
            title: &bug.title,
            verdict: candidate.opinion.verdict,
            evidence: &candidate.opinion.evidence,
            against: &candidate.opinion.against,
            update_to: candidate.opinion.update_to.as_deref(),
            workaround: bug.workaround.as_ref().map(|w| w.text.as_str()),
            references: bug.references.iter().map(|r| r.url.as_str()).collect(),
        }
    }
}

/// Whether a kernel has a known bug: by its release (`uname -r`) and, if known, its version
/// (`uname -v`).
pub(super) fn has_bug(id: &str, release: &str, version: Option<&str>) -> HasBug {
    match bugs::on_kernel(id, release, version) {
        Some(Standing::Has { update_to, .. }) => HasBug::Yes {
            fixed_in: update_to,
        },
        Some(Standing::HasNot(_)) => HasBug::No,
        Some(Standing::Unknown(_)) | None => HasBug::Unknown,
    }
}

/// Whether switching GRO and GSO off helps against this bug.
pub(super) fn is_gso_bug(bug: &Signature) -> bool {
    let action = bug.workaround.as_ref().and_then(|w| w.action);
    action == Some(Action::GsoOff)
}

/// Whether this kernel may have a bug against which that helps.
pub(super) fn may_have_gso_bug(release: &str, version: Option<&str>) -> bool {
    let mut bugs = bugs::known().iter().filter(|bug| is_gso_bug(bug));
    bugs.any(|bug| has_bug(&bug.id, release, version) != HasBug::No)
}

/// The bugs that it can be, and those that look like it and are ruled out.
pub(super) fn text(candidates: &[Candidate]) -> String {
    let (open, out): (Vec<_>, Vec<_>) = candidates
        .iter()
        .partition(|c| c.opinion.verdict != Verdict::RuledOut);
    let mut text = String::new();
    if open.len() > 1 {
        let _ = writeln!(text, "  {} known bugs look like this:", open.len());
    }
    for candidate in open.iter().take(IN_FULL) {
        one(&mut text, candidate);
    }
    let names = |all: &[&Candidate]| {
        all.iter()
            .map(|c| c.bug.id.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(more) = open.get(IN_FULL..).filter(|more| !more.is_empty()) {
        row(&mut text, "less like", &names(more));
    }
    if !out.is_empty() {
        let _ = writeln!(text, "  not, as this kernel does not have it:");
        for candidate in out {
            let why = candidate.opinion.against.last().map_or("", String::as_str);
            row(&mut text, "", &format!("{}: {why}", candidate.bug.id));
        }
    }
    text
}

fn one(text: &mut String, candidate: &Candidate) {
    let bug = candidate.bug;
    let sure = candidate.opinion.verdict.as_str();
    row(
        text,
        "known bug",
        &format!("{} ({sure}): {}", bug.id, bug.title),
    );
    row(
        text,
        "",
        &format!("for: {}", candidate.opinion.evidence.join("; ")),
    );
    if !candidate.opinion.against.is_empty() {
        row(
            text,
            "",
            &format!("against: {}", candidate.opinion.against.join("; ")),
        );
    }
    if let Some(update) = &candidate.opinion.update_to {
        row(text, "update to", update);
    }
    if let Some(workaround) = &bug.workaround {
        row(text, "until then", &workaround.text);
    }
    if let Some(reference) = bug.references.first() {
        row(text, "see", &reference.url);
    }
}

fn row(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<10} {}", sanitize(value));
}
