//! `lastgasp trace`: what a running kernel does to packets.

mod drops;

use std::process::ExitCode;

/// Watch live what the kernel does to packets
///
/// Runs on the machine that is watched, as root or with CAP_BPF and CAP_PERFMON. With
/// CAP_SYSLOG functions have names, with CAP_SYS_PTRACE namespaces have owners.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Drops(drops::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Drops(args) => drops::run(args),
    }
}
