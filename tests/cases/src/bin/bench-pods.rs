//! `cargo xtask bench pods`: JSON lines on standard output or into a file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use cases::kube::{bench_pods, start};
use clap::Parser;
use harness::controlplane::Options;

/// Times the annotation of a dead node's 110 pods on a real API server.
#[derive(Debug, Parser)]
struct Args {
    /// Dead nodes to measure.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Write the figures here as well.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let cluster = start(Options::default())?;
    let lines = Box::pin(bench_pods(&cluster, args.runs)).await?;
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}")?;
    }
    stdout().write_all(text.as_bytes())?;
    if let Some(path) = args.json {
        let mut file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}
