//! `lastgasp completions`.

use std::process::ExitCode;

use clap::CommandFactory;

/// Print a completion script for a shell.
///
/// Example: lastgasp completions bash > /etc/bash_completion.d/lastgasp
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "lastgasp",
        &mut script,
    );
    super::out::bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
