//! `lastgasp bugs explain`: which bug a log or a death may be of.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use agent_decode::bugs::{Found, Index, candidates};
use agent_decode::{Report, reason};
use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use super::super::ask::{NOTHING_KNOWN, Source};
use super::super::decode::each;
use super::super::known::{self, Short};
use super::super::out::{self, Format, sanitize};
use super::index;
use crate::store::Query;

/// Lines of a death that are asked for.
const LINES: u32 = 8_192;
/// Records that are shown.
const SHOWN: usize = 5;

/// A report and what it may be, for scripts.
#[derive(Serialize)]
struct Explained<'a> {
    report: &'a Report,
    known_bugs: Vec<Short<'a>>,
    records: &'a [Found<'a>],
}

pub(super) fn run(
    of: &str,
    source: &Source,
    index: &Path,
    output: Format,
) -> anyhow::Result<ExitCode> {
    let Some(report) = report(of, source)? else {
        out::bytes(format!("nothing in {} tells of a crash\n", sanitize(of)).as_bytes())?;
        return Ok(ExitCode::from(NOTHING_KNOWN));
    };
    let opened = index::open(index)?;
    let found = opened
        .as_ref()
        .map(|index| index.search(&report))
        .unwrap_or_default();
    let known = candidates(&report);
    let all = || Explained {
        report: &report,
        known_bugs: known.iter().map(Short::from).collect(),
        records: &found,
    };
    let text = match output {
        Format::Json => serde_json::to_string_pretty(&all())? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(&all())?,
        Format::Human => {
            let mut text = format!("{}\n{}", sanitize(&report.title), known::text(&known));
            text.push_str(&records(opened.as_ref(), &found));
            text
        }
    };
    out::bytes(text.as_bytes())?;
    let is_known = !known.is_empty() || !found.is_empty();
    Ok(if is_known {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOTHING_KNOWN)
    })
}

/// Why a boot ended: of logs, or of a death that the annotator knows.
fn report(of: &str, source: &Source) -> anyhow::Result<Option<Report>> {
    let path = Path::new(of);
    if of == "-" || path.exists() {
        let mut reports = Vec::new();
        let read = each(&[path.to_owned()], &mut |_, report| {
            reports.push(report.clone());
            Ok(())
        });
        ensure!(read || !reports.is_empty(), "{of} cannot be read");
        return Ok(reason(reports));
    }
    let why = source.why(&Query::Any(of.to_owned()), LINES);
    let Some(answer) =
        why.with_context(|| format!("{of} is no file, and no death can be asked for"))?
    else {
        bail!("{of} is neither a file nor a death, node or pod that the annotator knows");
    };
    let lines: Vec<_> = answer.lines.into_iter().map(|line| line.line).collect();
    Ok(reason(agent_decode::reports_of(&lines)))
}

fn records(index: Option<&Index>, found: &[Found<'_>]) -> String {
    let Some(index) = index else {
        return "  The kernel's CVE records are not here: `lastgasp bugs import --help` says how to get them.\n".to_owned();
    };
    if found.is_empty() {
        return format!("  None of {} CVE records looks like it.\n", index.len());
    }
    let mut text = format!(
        "  Of {} CVE records these look like it, the likeliest first:\n",
        index.len()
    );
    for found in found.iter().take(SHOWN) {
        let (record, opinion) = (found.record, &found.opinion);
        let sure = opinion.verdict.as_str();
        let _ = writeln!(
            text,
            "  {} ({sure}, {} points): {}",
            record.id,
            opinion.score,
            sanitize(&record.title)
        );
        let mut row = |name: &str, all: &[String]| {
            if !all.is_empty() {
                let _ = writeln!(text, "    {name}: {}", sanitize(&all.join("; ")));
            }
        };
        row("for", &opinion.evidence);
        row("against", &opinion.against);
        row("update to", opinion.update_to.as_slice());
    }
    if found.len() > SHOWN {
        let _ = writeln!(
            text,
            "  and {} more (-o json has them)",
            found.len() - SHOWN
        );
    }
    text
}
