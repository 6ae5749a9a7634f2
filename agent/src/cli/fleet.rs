//! `lastgasp fleet`.

use std::fmt::Write;
use std::process::ExitCode;

use agent_core::engine::rfc3339;
use agent_core::model::NodeName;
use agent_core::recurrence::{Apart, Asked, Dimension, Fleet, Group, Row, Trait, node_days_text};
use anyhow::{Context, bail};
use clap::builder::NonEmptyStringValueParser;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp, Unit};

use super::ask::{Format, NOTHING_KNOWN, Source};
use super::out::{self, Style, sanitize, styled};

const EXAMPLES: &str = "\
Examples:
  lastgasp fleet                           all deaths, the most frequent first
  lastgasp fleet --since 30d               of the last 30 days
  lastgasp fleet --since 2026-11-01        since a date or time (UTC)
  lastgasp fleet --fingerprint 3f2a        one crash, by how its fingerprint begins
  lastgasp fleet --fingerprint KernelBug   all with this reason code
  lastgasp fleet --node w01                what w01 died of, and who else did
  lastgasp fleet -o wide                   all rows and nodes, and who never died
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
    #[arg(long, value_name = "PREFIX|CODE", value_parser = NonEmptyStringValueParser::new())]
    fingerprint: Option<String>,
    /// Only what happened this long ago or less (30d, 12h, 2w), or since then (2026-11-01,
    /// 2026-11-01T10:00Z) [default: all that is kept]
    #[arg(long, value_name = "DURATION|TIME")]
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
    let now = Timestamp::now();
    let since_s = args.since.as_deref().map(|text| seconds(text, now));
    let since_s = since_s.transpose()?;
    let fleet = args.source.fleet(&asked, since_s)?;
    let text = match args.output {
        Some(Format::Json) => out::json(&fleet)?,
        Some(Format::Yaml) => out::yaml(&fleet)?,
        output => {
            let look = Look {
                wide: output.is_some(),
                colour: out::colour(),
                columns: out::columns(),
            };
            told(&fleet, &asked, look)?
        }
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::from(if fleet.groups.is_empty() {
        NOTHING_KNOWN
    } else {
        0
    }))
}

/// How many seconds ago that is: a duration as people write it, of days of 24 hours, or a
/// date or time, in UTC unless it says otherwise.
fn seconds(text: &str, now: Timestamp) -> anyhow::Result<u64> {
    let day = SpanRelativeTo::days_are_24_hours();
    let ago = match text.parse::<Span>() {
        Ok(span) => span.total((Unit::Second, day)).ok(),
        Err(_) => time(text).map(|at| now.duration_since(at).as_secs_f64()),
    };
    match ago {
        Some(seconds) if seconds >= 1.0 => Ok(seconds as u64),
        _ => bail!(
            "--since {text:?} is neither a duration like 30d, 12h or 2w nor a time that is past, \
             like 2026-11-01 or 2026-11-01T10:00Z"
        ),
    }
}

fn time(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let at: DateTime = text.parse().ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// How it is shown.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// All of it, however wide.
    wide: bool,
    colour: bool,
    /// Of the terminal.
    columns: Option<usize>,
}

fn told(fleet: &Fleet, asked: &Asked, look: Look) -> Result<String, std::fmt::Error> {
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
    let mut all = format!("{} in all; ", counted(fleet.deaths, "death", "deaths"));
    match fleet.nodes {
        0 => all.push_str("no node was seen alive"),
        nodes => write!(
            all,
            "{} seen alive for {}, {} of them never died",
            counted(nodes, "node", "nodes"),
            node_days_text(fleet.node_days),
            fleet.never_died.nodes
        )?,
    }
    writeln!(text, "{}", out::wrapped(&all, 0, 2, look.columns))?;
    if let Some(since) = fleet.since {
        writeln!(text, "since {}", rfc3339(since))?;
    }
    if fleet.groups.is_empty() && fleet.deaths > 0 {
        text.push_str("none of them is of what was asked for\n");
    }
    for group in &fleet.groups {
        text.push('\n');
        told_group(&mut text, group, look)?;
    }
    if fleet.groups_left_out > 0 {
        let more = counted(fleet.groups_left_out, "more kind", "more kinds");
        writeln!(text, "\nand {more} of death, with fewer deaths each")?;
    }
    if look.wide && !fleet.never_died.names.is_empty() {
        let names = &fleet.never_died.names;
        let all = fleet.never_died.nodes;
        let names = format!("never died: {}", listed(names, all, names.len()));
        writeln!(text, "\n{}", out::wrapped(&names, 0, 2, look.columns))?;
    }
    Ok(text)
}

fn told_group(text: &mut String, group: &Group, look: Look) -> std::fmt::Result {
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
    let head = out::wrapped(&sanitize(&head), 0, 2, look.columns);
    writeln!(text, "{}", styled(&head, Style::Bold, look.colour))?;
    for said in [Some(&group.sentence), group.on_node.as_ref()] {
        let Some(said) = said else { continue };
        let said = out::wrapped(&sanitize(said), 2, 4, look.columns);
        writeln!(text, "  {said}")?;
    }
    let mut field = |name: &str, value: &str| {
        let value = out::wrapped(&sanitize(value), 15, 15, look.columns);
        writeln!(text, "  {name:<11}  {value}")
    };
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
    let most = if look.wide {
        group.nodes.len()
    } else {
        NODES_NAMED
    };
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
    let shown = if look.wide {
        group.rows.len()
    } else {
        ROWS_SHOWN
    };
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
    // What is indented is no longer in the table.
    let within = look.columns.filter(|_| !look.wide);
    let within = within.map(|columns| columns.saturating_sub(2));
    let table = out::table_within(&headings, &rows, within, &[&[1, 2], &[0]]);
    for line in table.lines() {
        writeln!(text, "  {line}")?;
    }
    let rest = group.rows.len().saturating_sub(shown) as u64 + group.rows_left_out;
    if rest > 0 {
        let more = counted(rest, "more row", "more rows");
        let way = if look.wide { "" } else { " (-o wide)" };
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
