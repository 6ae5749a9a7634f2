//! `lastgasp bugs`: which bug it was.

use std::fmt::Write as _;
use std::process::ExitCode;

use agent_decode::bugs::{self, Signature};
use anyhow::bail;

use super::out::{self, Format};

const EXAMPLES: &str = "\
Examples:
  lastgasp bugs list
  lastgasp bugs show cve-2024-42281
  lastgasp bugs list -o json | jq -r '.[] | select(.workaround.action) | .id'";

/// List and show the kernel bugs that kill Kubernetes nodes and are known by name
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All of them, one a line
    List {
        /// How to print it
        #[arg(
            short,
            long,
            value_enum,
            value_name = "FORMAT",
            default_value = "human"
        )]
        output: Format,
    },
    /// What is known of one: cause, versions, workaround, where it is from
    Show {
        /// Its id, as `lastgasp bugs list` has it
        id: String,
        /// How to print it
        #[arg(
            short,
            long,
            value_enum,
            value_name = "FORMAT",
            default_value = "human"
        )]
        output: Format,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = match args.command {
        Command::List { output } => match output {
            Format::Human => table(bugs::known()),
            Format::Json => serde_json::to_string_pretty(bugs::known())? + "\n",
            Format::Yaml => serde_yaml_ng::to_string(bugs::known())?,
        },
        Command::Show { id, output } => {
            let wanted = |bug: &&Signature| bug.id.eq_ignore_ascii_case(&id);
            let Some(bug) = bugs::known().iter().find(wanted) else {
                bail!("no bug {id} is known: `lastgasp bugs list` shows all");
            };
            match output {
                Format::Human => shown(bug),
                Format::Json => serde_json::to_string_pretty(bug)? + "\n",
                Format::Yaml => serde_yaml_ng::to_string(bug)?,
            }
        }
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(all: &[Signature]) -> String {
    let fixed = |bug: &Signature| {
        bug.fixed
            .mainline
            .map_or("-".to_owned(), |first| first.to_string())
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|bug| vec![bug.id.clone(), fixed(bug), bug.title.clone()])
        .collect();
    out::table(&["ID", "FIXED IN", "TITLE"], &rows)
}

fn shown(bug: &Signature) -> String {
    let mut text = format!(
        "{}: {}\n\n{}\n\n",
        bug.id,
        bug.title,
        bug.explanation.trim()
    );
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    if !bug.introduced.is_empty() {
        row("came with", bug.introduced.to_string());
    }
    if !bug.fixed.is_empty() {
        row("fixed in", bug.fixed.to_string());
    }
    for build in &bug.distributions {
        let fixed = build
            .fixed
            .as_ref()
            .map(|fixed| format!("{fixed} has the fix"));
        let affected = build
            .affected
            .as_ref()
            .map(|affected| format!("{affected} has the bug"));
        let said: Vec<String> = fixed.into_iter().chain(affected).collect();
        row(
            &build.name,
            format!("{} ({})", said.join(", "), build.source),
        );
    }
    if let Some(commit) = &bug.commit {
        row("fix", format!("commit {commit}"));
    }
    if let Some(workaround) = &bug.workaround {
        row("until then", workaround.text.clone());
    }
    for reference in &bug.references {
        row("see", format!("{} ({})", reference.url, reference.what));
    }
    text
}
