//! `lastgasp crd`.

use std::process::ExitCode;

use super::out;
use crate::k8s::crd_yaml;

const EXAMPLES: &str = "\
Example:
  lastgasp crd | kubectl apply -f -";

/// Print the definition of the resource NodeDeath, for kubectl apply.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    out::bytes(crd_yaml()?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
