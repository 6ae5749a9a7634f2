//! `lastgasp fleet`.

use std::fmt::Write;
use std::process::ExitCode;

use agent_core::engine::rfc3339;
use agent_core::model::NodeName;
use agent_core::recurrence::{Apart, Asked, Dimension, Fleet, Group, Row, Trait, node_days_text};
use anyhow::{Context, ensure};
use jiff::{Span, SpanRelativeTo, Unit};

use super::ask::{Format, NOTHING_KNOWN, Source};
use super::out::{self, Style, sanitize, styled};

const EXAMPLES: &str = "\
Examples:
  lastgasp fleet                           all deaths, the most frequent first
  lastgasp fleet --since 30d               of the last 30 days
  lastgasp fleet --fingerprint 3f2a        one crash, by how its fingerprint begins
  lastgasp fleet --fingerprint Unknown     ends without a word, by their reason code
  lastgasp fleet --node w01                what w01 died of, and who else did
  lastgasp fleet -o json | jq -r '.groups[].sentence'
  lastgasp fleet --store annotator.db      without an annotator running

How to read it:
  Deaths with one fingerprint are one crash, on whatever kernel. NODE-DAYS is how long
  nodes were seen alive there: no death in a short time means nothing. Of a kernel on
  which nobody died it says `too few to tell` if fewer than three deaths were to be
  expected, at the rate of the kernels where nodes do die. Deaths of one node count once
  for that, as what kills it may be its own. `only with` is what all that died had, where
  nodes without it lived for so long that this is no chance; what is named together
  cannot be told apart.

Exit code: 0 if there are deaths, 3 if none is known, 1 if it cannot be told.";

/// Rows of a group that are shown; with -o wide all.
const ROWS_SHOWN: usize = 8;
/// Nodes of a group that are named; with -o wide all.
const NODES_NAMED: usize = 5;

/// Show which deaths recur, on which kernels, firmware and drivers, and who never died.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Only what this node died of, and how often it did
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only deaths whose fingerprint begins so, or with this reason code
    #[arg(long, value_name = "PREFIX|CODE")]
    fingerprint: Option<String>,
    /// Only what happened this long ago or less: 30d, 12h, 2w [default: all that is kept]
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// How to print it [default: text]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let node = match &args.node {
        None => None,
        Some(name) => {
            Some(NodeName::new(name).with_context(|| format!("{name:?} is no name of a node"))?)
        }
    };
    let asked = Asked {
        fingerprint: args.fingerprint.clone(),
        node,
    };
    let since_s = args.since.as_deref().map(seconds).transpose()?;
    let fleet = args.source.fleet(&asked, since_s)?;
    let text = match args.output {
        Some(Format::Json) => serde_json::to_string_pretty(&fleet)? + "\n",
        Some(Format::Yaml) => serde_yaml_ng::to_string(&fleet)?,
        Some(Format::Wide) => told(&fleet, &asked, true, out::colour())?,
        None => told(&fleet, &asked, false, out::colour())?,
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::from(if fleet.groups.is_empty() {
        NOTHING_KNOWN
    } else {
        0
    }))
}

/// Seconds of a duration as people write it; a day has 24 hours.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("--since {text:?} is no duration like 30d, 12h or 2w");
    let span: Span = text.parse().with_context(wrong)?;
    let seconds = span
        .total((Unit::Second, SpanRelativeTo::days_are_24_hours()))
        .with_context(wrong)?;
    ensure!(seconds >= 1.0, "{}", wrong());
    Ok(seconds as u64)
}

fn told(fleet: &Fleet, asked: &Asked, wide: bool, colour: bool) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if let Some(node) = &fleet.node {
        writeln!(
            text,
            "{}: {}, {} seen over {}",
            node.node,
            counted(node.deaths, "death", "deaths"),
            counted(node.boots, "boot", "boots"),
            node_days_text(node.node_days)
        )?;
    } else if let Some(node) = &asked.node {
        writeln!(text, "nothing is known of {node}")?;
    }
    writeln!(
        text,
        "{} in all; {} seen alive for {}, {} of them never died",
        counted(fleet.deaths, "death", "deaths"),
        counted(fleet.nodes, "node", "nodes"),
        node_days_text(fleet.node_days),
        fleet.never_died.nodes
    )?;
    if let Some(since) = fleet.since {
        writeln!(text, "since {}", rfc3339(since))?;
    }
    if fleet.groups.is_empty() {
        text.push_str("no such deaths are known\n");
    }
    for group in &fleet.groups {
        text.push('\n');
        told_group(&mut text, group, wide, colour)?;
    }
    if fleet.groups_left_out > 0 {
        let more = counted(fleet.groups_left_out, "more kind", "more kinds");
        writeln!(text, "\nand {more} of death, with fewer deaths each")?;
    }
    if wide && !fleet.never_died.names.is_empty() {
        let names = &fleet.never_died.names;
        let all = fleet.never_died.nodes;
        writeln!(text, "\nnever died: {}", listed(names, all, names.len()))?;
    }
    Ok(text)
}

fn told_group(text: &mut String, group: &Group, wide: bool, colour: bool) -> std::fmt::Result {
    // What has no fingerprint has no more in common than its code.
    let code = match &group.fingerprint {
        None if group.deaths > 1 => format!(" with code {}, the newest", group.code.as_str()),
        _ => String::new(),
    };
    let head = format!(
        "{} of {}{code}: {}",
        counted(group.deaths, "death", "deaths"),
        counted(group.nodes_died, "node", "nodes"),
        group.reason
    );
    writeln!(text, "{}", styled(&sanitize(&head), Style::Bold, colour))?;
    writeln!(text, "  {}", sanitize(&group.sentence))?;
    if let Some(own) = &group.on_node {
        writeln!(text, "  {}", sanitize(own))?;
    }
    let mut field = |name: &str, value: &str| writeln!(text, "  {name:<11}  {}", sanitize(value));
    for (index, apart) in group.apart.iter().enumerate() {
        field(if index == 0 { "only with" } else { "" }, &only_with(apart))?;
    }
    if let Some(fingerprint) = &group.fingerprint {
        field("fingerprint", fingerprint)?;
    }
    field("code", group.code.as_str())?;
    let last = rfc3339(group.last);
    if group.deaths > 1 {
        field("when", &format!("{} to {last}", rfc3339(group.first)))?;
    } else {
        field("when", &last)?;
    }
    let most = if wide { group.nodes.len() } else { NODES_NAMED };
    let names: Vec<String> = group
        .nodes
        .iter()
        .map(|died| match died.deaths {
            1 => died.node.to_string(),
            times => format!("{} ({times})", died.node),
        })
        .collect();
    field("nodes", &listed(&names, group.nodes_died, most))?;
    text.push('\n');
    let shown = if wide { group.rows.len() } else { ROWS_SHOWN };
    let rows: Vec<Vec<String>> = group.rows.iter().take(shown).map(row).collect();
    let headings = [
        "KERNEL",
        "FIRMWARE",
        "DRIVER",
        "DEATHS",
        "NODES",
        "NODE-DAYS",
        "EXPECTED",
    ];
    for line in out::table(&headings, &rows).lines() {
        writeln!(text, "  {line}")?;
    }
    let rest = group.rows.len().saturating_sub(shown) as u64 + group.rows_left_out;
    if rest > 0 {
        let more = counted(rest, "more row", "more rows");
        let way = if wide { "" } else { " (-o wide)" };
        writeln!(text, "  and {more}{way}")?;
    }
    Ok(())
}

fn row(row: &Row) -> Vec<String> {
    let or_none = |value: &str| match value {
        "" => "-".to_owned(),
        value => sanitize(value),
    };
    let expected = row.expected.map(|expected| format!("{expected:.1}"));
    vec![
        or_none(&row.kernel),
        or_none(&row.firmware),
        or_none(&row.network_drivers.join(",")),
        row.deaths.to_string(),
        format!("{} of {}", row.nodes_died, row.nodes.max(row.nodes_died)),
        format!("{:.1}", row.node_days),
        expected.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// What all that died had.
fn only_with(apart: &Apart) -> String {
    let named = |t: &Trait| format!("{} {}", dimension(t.of), t.value);
    let all: Vec<String> = apart.traits.iter().map(named).collect();
    let mut text = all.join(", ");
    if apart.traits_left_out > 0 {
        let _ = write!(text, " and {} more", apart.traits_left_out);
    }
    let _ = write!(
        text,
        ": none died without over {}, where {:.1} were to be expected",
        node_days_text(apart.node_days_without),
        apart.without.expected
    );
    text
}

fn dimension(of: Dimension) -> &'static str {
    match of {
        Dimension::Kernel => "kernel",
        Dimension::Firmware => "firmware",
        Dimension::NetworkDriver => "network driver",
        Dimension::Hardware => "hardware",
        Dimension::Microcode => "microcode",
        Dimension::Os => "OS",
        Dimension::Machine => "machine",
        Dimension::Module => "module",
    }
}

fn listed<T: ToString>(names: &[T], all: u64, max: usize) -> String {
    let shown: Vec<String> = names.iter().take(max).map(T::to_string).collect();
    let mut text = shown.join(", ");
    let rest = all.saturating_sub(shown.len() as u64);
    if rest > 0 {
        let _ = write!(text, " and {rest} more");
    }
    text
}

fn counted(count: u64, one: &str, more: &str) -> String {
    let unit = if count == 1 { one } else { more };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests;
