//! `lastgasp bugs`: which bug it was.

mod explain;
mod index;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use agent_decode::bugs::{self, Signature};
use anyhow::bail;

use super::ask::Source;
use super::out::{self, Format, Output};

const EXAMPLES: &str = "\
Examples:
  lastgasp bugs list
  lastgasp bugs show cve-2024-42281
  lastgasp bugs explain /var/log/kern.log
  lastgasp bugs explain w01                 the death of a node that the annotator knows
  git clone --depth 1 https://git.kernel.org/pub/scm/linux/security/vulns.git
  lastgasp bugs import vulns
  lastgasp bugs list -o json | jq -r '.[] | select(.workaround.action) | .id'";

/// Say which kernel bug it was: those known by name that kill Kubernetes nodes, and the
/// kernel's CVE records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Which bugs a log or a death may be of, what speaks for each and what against
    ///
    /// Exit codes: 0 there is one, 3 there is none, 1 it cannot be told.
    Explain {
        /// A log, `-` for standard input, or a death, node or pod that the annotator knows
        #[arg(value_name = "FILE|DEATH")]
        of: String,
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        index: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Take in the kernel's CVE records, for `explain`
    ///
    /// They are published as a git repository, vulns.git on git.kernel.org; all of it or
    /// its cve/published will do. Each import replaces the one before.
    Import {
        /// The directory with the records
        #[arg(value_name = "DIR")]
        from: PathBuf,
        #[command(flatten)]
        index: Place,
    },
    /// All of them, one a line
    List {
        #[command(flatten)]
        output: Output,
    },
    /// What is known of one: cause, versions, workaround, where it is from
    Show {
        /// Its id, as `lastgasp bugs list` has it
        id: String,
        #[command(flatten)]
        output: Output,
    },
}

/// Where the records are kept.
#[derive(Debug, clap::Args)]
struct Place {
    /// The file with the imported records [default: lastgasp/cve.jsonl below
    /// $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "FILE", env = "LASTGASP_CVE_INDEX")]
    index: Option<PathBuf>,
}

impl Place {
    fn path(self) -> PathBuf {
        self.index.unwrap_or_else(index::default_path)
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = match args.command {
        Command::Explain {
            of,
            source,
            index,
            output,
        } => {
            return explain::run(&of, &source, &index.path(), output.output);
        }
        Command::Import { from, index } => {
            let path = index.path();
            let imported = index::import(&from, &path)?;
            let unreadable = match imported.unreadable {
                0 => String::new(),
                count => format!("; {count} files are no record"),
            };
            format!(
                "{} records, {} bytes in {}{unreadable}\n",
                imported.records,
                imported.bytes,
                path.display()
            )
        }
        Command::List { output } => match output.output {
            Format::Human => table(bugs::known()),
            Format::Json => serde_json::to_string_pretty(bugs::known())? + "\n",
            Format::Yaml => serde_yaml_ng::to_string(bugs::known())?,
        },
        Command::Show { id, output } => {
            let wanted = |bug: &&Signature| bug.id.eq_ignore_ascii_case(&id);
            let Some(bug) = bugs::known().iter().find(wanted) else {
                bail!("no bug {id} is known: `lastgasp bugs list` shows all");
            };
            match output.output {
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
