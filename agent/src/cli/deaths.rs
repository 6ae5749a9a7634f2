//! `lastgasp deaths`.

use std::process::ExitCode;

use agent_core::engine::rfc3339;
use agent_core::model::{NodeName, Timestamp};
use agent_core::recurrence::Kind;

use super::ask::{Format, NOTHING_KNOWN, Source};
use super::out::{self, sanitize};
use crate::store::{Removed, Summary};

const EXAMPLES: &str = "\
Examples:
  lastgasp deaths                          the newest first
  lastgasp deaths -o wide                  with code, retry advice, fingerprint and kernel
  lastgasp deaths --node w01 -o json       for a script
  lastgasp deaths --store annotator.db     without an annotator running

Exit code: 0 if there are any, 3 if none is known, 1 if it cannot be told.";

/// List the node deaths that are known, and the Node objects that were deleted,
/// newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Only those of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// How to print them [default: a table]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let asked = if args.node.is_some() {
        1_000
    } else {
        args.limit
    };
    let deaths = args
        .source
        .deaths(asked)?
        .into_iter()
        .map(|death| End::Death(Box::new(death)));
    let removed = args.source.removed(asked)?.into_iter();
    let removed = removed.map(|removed| End::Removed(Box::new(removed)));
    let mut ends: Vec<End> = deaths.chain(removed).collect();
    if let Some(node) = &args.node {
        ends.retain(|end| end.node().as_str() == node);
    }
    ends.sort_by_key(|end| std::cmp::Reverse(end.noticed()));
    ends.truncate(args.limit as usize);
    let text = match args.output {
        Some(Format::Json) => out::json(&ends)?,
        Some(Format::Yaml) => out::yaml(&ends)?,
        Some(Format::Wide) => listed(&ends, true),
        None => listed(&ends, false),
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::from(if ends.is_empty() {
        NOTHING_KNOWN
    } else {
        0
    }))
}

/// How a node went.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum End {
    Death(Box<Summary>),
    Removed(Box<Removed>),
}

impl End {
    fn node(&self) -> &NodeName {
        match self {
            Self::Death(summary) => &summary.death.node,
            Self::Removed(removed) => &removed.removal.node,
        }
    }

    fn noticed(&self) -> Timestamp {
        match self {
            Self::Death(summary) => summary.death.detected_at,
            Self::Removed(removed) => removed.removal.at,
        }
    }

    fn row(&self, wide: bool) -> Vec<String> {
        let none = || "-".to_owned();
        let (mut row, more) = match self {
            Self::Death(summary) => {
                let death = &summary.death;
                let row = [
                    rfc3339(death.happened_at),
                    death.node.to_string(),
                    format!("{:?}", death.state),
                    format!("{:?}", death.proof),
                    summary.pods_annotated.to_string(),
                    sanitize(&summary.reason),
                ];
                let more = [
                    summary.reason_code.as_str().to_owned(),
                    summary.retry.as_str().to_owned(),
                    match Kind::of(death) {
                        Kind::Crash(fingerprint) => sanitize(&fingerprint),
                        Kind::Code(_) | Kind::Ordered(_) => none(),
                    },
                    sanitize(death.kernel_release.as_deref().unwrap_or("-")),
                    death.name.to_string(),
                ];
                (row.to_vec(), more)
            }
            Self::Removed(removed) => {
                let removal = &removed.removal;
                let row = [
                    rfc3339(removal.at),
                    removal.node.to_string(),
                    "Removed".to_owned(),
                    none(),
                    none(),
                    sanitize(&removed.verdict),
                ];
                let more = [none(), none(), none(), none(), removal.name.clone()];
                (row.to_vec(), more)
            }
        };
        if wide {
            row.splice(5..5, more);
        }
        row
    }
}

fn listed(ends: &[End], wide: bool) -> String {
    if ends.is_empty() {
        return "no deaths are known\n".to_owned();
    }
    let mut headings = vec!["TIME", "NODE", "STATE", "PROOF", "PODS", "REASON"];
    if wide {
        headings.splice(5..5, ["CODE", "RETRY", "FINGERPRINT", "KERNEL", "DEATH"]);
    }
    let rows: Vec<Vec<String>> = ends.iter().map(|end| end.row(wide)).collect();
    out::table(&headings, &rows)
}
