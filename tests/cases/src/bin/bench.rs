//! `cargo xtask bench`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cases::bench::{Figure, agent, collector, decode, drops, predictor};
use cases::kube;
use clap::{Parser, Subcommand, ValueEnum as _};
use harness::controlplane::Options;
use harness::priority;
use harness::tool::Skip;

/// Measures, each thing beside its yardstick in the same run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    bench: Bench,
    /// Write a line of JSON a figure to this file.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What the agent costs a node that does not die: at rest, and under 10,000
    /// log lines a second.
    ///
    /// Runs on this machine; needs root there, and fills its kernel log with
    /// debug lines. With --kernel it runs in a lab machine instead.
    Agent {
        /// Kernels of tests/kernels.toml to measure in.
        #[arg(long, value_delimiter = ',')]
        kernel: Vec<String>,
        /// Seconds at rest.
        #[arg(long, default_value_t = 20)]
        rest: u64,
        /// Seconds under load.
        #[arg(long, default_value_t = 10)]
        load: u64,
        /// How often each.
        #[arg(long, default_value_t = 1)]
        runs: usize,
    },
    /// What the collector takes in on one core: the highest rate without a loss,
    /// a burst, overload, memory, lines on disk.
    ///
    /// Beside a bare recvmmsg loop and rsyslog, over loopback. Needs two CPUs
    /// that nobody else uses, and CAP_NET_ADMIN for large buffers.
    Collector {
        /// How often each rate is looked for.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only these parts.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<collector::Part>,
    },
    /// How fast crash logs and logs of a machine that is well are read, on one thread.
    ///
    /// Beside a pass of one regular expression over the same bytes.
    Decode {
        /// How often.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// What it costs to count dropped packets, a packet, at the rate at which one CPU can lose
    /// them.
    ///
    /// Beside nothing, an empty program in the same form, and bpftrace that counts by reason,
    /// in network namespaces of this machine. Every packet has to be in the sum. Needs root.
    Drops {
        /// How often.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Random and mutated datagrams through the receiver: no crash, no memory
    /// without bound, every one counted.
    Hostile {
        /// Datagrams.
        #[arg(default_value_t = 10_000_000)]
        count: u64,
    },
    /// The annotation of a dead node's 110 pods on a real API server, beside a
    /// bare loop of the same patches.
    Pods {
        /// Dead nodes.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// What looking at packets costs that the kernel takes apart, a call.
    ///
    /// In a lab machine, on hot traffic between pods, beside an empty program at the same
    /// calls. Needs a kernel with fentry.
    Predictor {
        /// A kernel of tests/kernels.toml.
        #[arg(long, default_value = "6.12")]
        kernel: String,
        /// How often.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// How long a commit waits while the annotator's store drops what is too much.
    ///
    /// Makes a store of about 65 KB a death in DIR; 10,000 deaths stay.
    Prune {
        /// Deaths.
        #[arg(default_value_t = 12_000)]
        deaths: u64,
        /// Where there is room for it.
        #[arg(long, value_name = "DIR", default_value = "target/prune")]
        dir: PathBuf,
    },
    /// A receiver of `collector`, in a process of its own.
    #[command(hide = true)]
    Sink {
        kind: collector::sink::Kind,
        #[arg(long, default_value_t = 0)]
        pause_us: u64,
    },
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref::<Skip>().is_some() => {
            println!("SKIPPED: bench: {error:#}");
            ExitCode::from(u8::from(std::env::var_os("CI").is_some()))
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let json = match &args.bench {
        Bench::Agent {
            kernel,
            rest,
            load,
            runs,
        } => {
            let times = agent::Times {
                rest: Duration::from_secs(*rest),
                load: Duration::from_secs((*load).max(1)),
                runs: (*runs).max(1),
            };
            bench_agent(kernel, times)?
        }
        Bench::Collector { rounds, only } => bench_collector(only, (*rounds).max(1))?,
        Bench::Decode { runs } => told("decode", decode::run((*runs).max(1))?)?,
        Bench::Drops { runs } => told("drops", drops::run((*runs).max(1))?)?,
        Bench::Hostile { count } => of_the_agent("hostile", &[&count.to_string()])?,
        Bench::Prune { deaths, dir } => {
            let dir = std::path::absolute(dir)?;
            let dir = dir.to_str().context("no text")?;
            of_the_agent("prune", &[dir, &deaths.to_string()])?
        }
        Bench::Pods { runs } => pods(*runs)?,
        Bench::Predictor { kernel, runs } => {
            told("predictor", predictor::run(kernel, (*runs).max(1))?)?
        }
        Bench::Sink { kind, pause_us } => {
            return collector::sink::run(*kind, Duration::from_micros(*pause_us));
        }
    };
    if let Some(path) = &args.json {
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn bench_agent(kernels: &[String], times: agent::Times) -> Result<String> {
    let mut json = String::new();
    let mut show = |name: &str, figures: Vec<Figure>| -> Result<()> {
        println!("{name}\n{}", agent::table(&figures));
        for figure in figures {
            writeln!(json, "{}", figure.json("agent"))?;
        }
        Ok(())
    };
    if kernels.is_empty() {
        show("the agent on this machine", agent::here(times)?)?;
    }
    for kernel in kernels {
        let name = format!("the agent on {kernel}, emulated processor");
        show(&name, agent::in_vm(kernel, times)?)?;
    }
    Ok(json)
}

fn bench_collector(only: &[collector::Part], rounds: usize) -> Result<String> {
    priority::raise();
    let all = collector::Part::value_variants();
    let parts = if only.is_empty() { all } else { only };
    let mut json = String::new();
    println!("{}", collector::heading());
    let measured = collector::run(parts, rounds, &mut |figure| {
        println!("{}", collector::line(&figure));
        writeln!(json, "{}", figure.json("collector"))?;
        Ok(())
    });
    priority::lower();
    measured?;
    Ok(json)
}

/// Tells figures as they are kept.
fn told(bench: &str, figures: Vec<Figure>) -> Result<String> {
    let mut json = String::new();
    for figure in figures {
        let line = figure.json(bench);
        println!("{line}");
        writeln!(json, "{line}")?;
    }
    Ok(json)
}

/// The bench is the agent's own; its lines of JSON are passed on.
fn of_the_agent(bench: &str, args: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["bench", "--quiet", "--package", "lastgasp"])
        // What was built for the static binary is built for this target.
        .args(["--target", "x86_64-unknown-linux-musl", "--bench", bench])
        .arg("--")
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    ensure!(output.status.success(), "bench {bench} failed");
    let mut json = String::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        writeln!(json, "{line}")?;
    }
    Ok(json)
}

fn pods(runs: usize) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    let lines = runtime.block_on(async {
        let cluster = kube::start(Options::default())?;
        Box::pin(kube::bench_pods(&cluster, runs)).await
    })?;
    let mut json = String::new();
    for line in lines {
        writeln!(json, "{line}")?;
    }
    print!("{json}");
    Ok(json)
}
