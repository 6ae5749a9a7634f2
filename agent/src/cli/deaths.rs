//! `lastgasp deaths`.

use std::process::ExitCode;

use agent_core::engine::rfc3339;

use super::ask::{Format, NOTHING_KNOWN, Source};
use super::out::{self, sanitize};
use crate::store::Summary;

const EXAMPLES: &str = "\
Examples:
  lastgasp deaths                          the newest first
  lastgasp deaths -o wide                  with boot, retry advice and kernel
  lastgasp deaths --node w01 -o json       for a script
  lastgasp deaths --store annotator.db     without an annotator running

Exit code: 0 if there are any, 3 if none is known, 1 if it cannot be told.";

/// List the node deaths that are known, newest first.
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
    let mut deaths = args.source.deaths(asked)?;
    if let Some(node) = &args.node {
        deaths.retain(|d| d.death.node.as_str() == node);
        deaths.truncate(args.limit as usize);
    }
    let text = match args.output {
        Some(Format::Json) => serde_json::to_string_pretty(&deaths)? + "\n",
        Some(Format::Yaml) => serde_yaml_ng::to_string(&deaths)?,
        Some(Format::Wide) => listed(&deaths, true),
        None => listed(&deaths, false),
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::from(if deaths.is_empty() {
        NOTHING_KNOWN
    } else {
        0
    }))
}

fn listed(deaths: &[Summary], wide: bool) -> String {
    if deaths.is_empty() {
        return "no deaths are known\n".to_owned();
    }
    let mut headings = vec!["TIME", "NODE", "STATE", "PROOF", "PODS", "REASON"];
    if wide {
        headings.splice(5..5, ["CODE", "RETRY", "KERNEL", "DEATH"]);
    }
    let rows: Vec<Vec<String>> = deaths
        .iter()
        .map(|summary| {
            let death = &summary.death;
            let mut row = vec![
                rfc3339(death.happened_at),
                death.node.to_string(),
                format!("{:?}", death.state),
                format!("{:?}", death.proof),
                summary.pods_annotated.to_string(),
                sanitize(&summary.reason),
            ];
            if wide {
                let kernel = death.kernel_release.as_deref().unwrap_or("-");
                let more = [
                    summary.reason_code.as_str().to_owned(),
                    summary.retry.as_str().to_owned(),
                    sanitize(kernel),
                    death.name.to_string(),
                ];
                row.splice(5..5, more);
            }
            row
        })
        .collect();
    out::table(&headings, &rows)
}
