//! `cargo xtask demo`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use cases::demo::{self, INTERRUPTED, Show};
use cases::lab::ways;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use harness::priority;
use harness::tool::Skip;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code after Ctrl-C.
const ENDED: u8 = 130;

/// Kills a kernel in a VM and shows what becomes of its pods.
///
/// A node boots with the shipped agent inside, the annotator runs beside it,
/// and the kernel dies. Exit code 0: all pods of the dead node carry the true
/// reason; 1: something is missing, and it is said what.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// The node's kernel: 6.1, 6.12 or 7 (tests/kernels.toml).
    #[arg(long, default_value = "6.1")]
    kernel: String,
    /// How it dies; of what is survived no pod must be told.
    #[arg(long, default_value = "null-softirq", value_name = "WAY")]
    #[arg(value_parser = PossibleValuesParser::new(ways::names(true)))]
    how: String,
    /// With a real API server and 110 pods, instead of the embedded store.
    #[arg(long)]
    kube: bool,
    /// Write the times to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where logs are kept if something is missing.
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    keep: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    priority::raise();
    let show = Show {
        kernel: args.kernel,
        how: args.how,
        kube: args.kube,
        json: args.json,
        keep: args.keep,
    };
    let result = end_when_told().and_then(|()| demo::run(&show));
    if INTERRUPTED.load(Ordering::Relaxed) {
        eprintln!("demo: ended; everything that it started is gone");
        return ExitCode::from(ENDED);
    }
    match result {
        Ok(missing) if missing.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) if error.downcast_ref::<Skip>().is_some() => {
            eprintln!("demo: this machine cannot run it: {error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C ends the demo in order, so that no machine or server is left behind;
/// a second one at once.
fn end_when_told() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime for signals")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if INTERRUPTED.swap(true, Ordering::Relaxed) {
                        std::process::exit(i32::from(ENDED));
                    }
                }
            });
        })?;
    Ok(())
}
