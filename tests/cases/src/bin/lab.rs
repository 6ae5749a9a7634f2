//! `cargo xtask lab`.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use anyhow::{Context as _, Result};
use cases::lab::bless;
use cases::lab::report::{self, Cell};
use cases::lab::run::{self, Delays, End, Keep, Prepared, Task};
use cases::lab::ways::{self, Way};
use cases::node;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use harness::cache::Cache;
use harness::kernels::Kernel;
use harness::tool::Skip;
use harness::vm::{Machine, Vm};
use harness::{kernels, priority};

/// Kills real kernels, and counts what of each death got out.
///
/// Each kernel is booted once under QEMU's software emulation with the shipped
/// agent inside; most deaths then start from that snapshot, after a random
/// delay. Exit code 0: nothing was missed.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Args {
    /// Kernels of tests/kernels.toml [default: all].
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Ways to die [default: all].
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(ways::names(false)))]
    way: Vec<String>,
    /// CPUs of each machine.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Added to the kernels' command line, for an experiment.
    #[arg(long, default_value = "", hide_default_value = true)]
    append: String,
    /// Deaths of each kernel and way.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Of these, how many boot anew instead of going on from the snapshot.
    #[arg(long, default_value_t = 1)]
    cold: usize,
    /// Every CPU maps and unmaps memory meanwhile, as busy programs of several
    /// threads do: each time it waits for the other CPUs, also for a dying one.
    #[arg(long)]
    churn: bool,
    /// Machines side by side; more CPUs in them than the host has cause misses.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Two deaths of each kernel and way, one where it is survived (that takes some
    /// seconds), one cold boot a kernel: for the tests.
    #[arg(long, conflicts_with = "runs")]
    quick: bool,
    /// Seed of the delays [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// Write a line of JSON a death to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep console and datagrams of every death that missed something here.
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    keep: PathBuf,
    /// Nobody dies: print what `lastgasp doctor` says on each kernel.
    #[arg(long)]
    doctor: bool,
    /// Write the console of a death of each kernel and way into the decoder's
    /// test data, with what it reads in it: look at that before you commit it.
    #[arg(long)]
    bless: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    priority::raise();
    let result = lab(&args);
    priority::lower();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.downcast_ref::<Skip>().is_some() => {
            println!("SKIPPED: lab: {error:#}");
            // In CI a part that cannot run is a failure.
            ExitCode::from(u8::from(std::env::var_os("CI").is_some()))
        }
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn lab(args: &Args) -> Result<bool> {
    let cache = Cache::open()?;
    let ways = chosen(&args.way);
    let names: Vec<String> = if args.kernel.is_empty() {
        kernels::all()?.into_iter().map(|spec| spec.name).collect()
    } else {
        args.kernel.clone()
    };
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    if args.doctor {
        return doctor(args, &cache, &names);
    }
    println!("seed {seed}");
    let dir = tempfile::Builder::new().prefix("lastgasp-lab-").tempdir()?;
    let mut prepared = Vec::new();
    for name in &names {
        let start = Instant::now();
        let (kernel, machine) = machine(args, &cache, name)?;
        let one = Prepared::new(name, &kernel.release, machine, args.churn, dir.path())
            .with_context(|| format!("kernel {name}"))?;
        println!(
            "{} ready after {:.1} s, clock {}",
            one.release,
            start.elapsed().as_secs_f64(),
            one.clock
        );
        prepared.push(one);
    }

    let mut delays = Delays(seed);
    let first = tasks(args, &prepared, &ways, &mut delays);
    let mut json = match &args.json {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let mut cells: Vec<((String, &'static str), Cell)> = Vec::new();
    for one in &prepared {
        cells.extend(
            ways.iter()
                .map(|way| ((one.kernel.clone(), way.name), Cell::default())),
        );
    }
    let start = Instant::now();
    die(args, first, &mut cells, json.as_mut())?;
    if args.quick {
        // One death in some hundreds loses lines on a host that stands still for a moment:
        // a cell that missed something dies again, and may miss nothing then.
        let again = again(&cells, &prepared, &mut delays);
        let before: Vec<(usize, usize)> = cells.iter().map(|(_, c)| (c.runs, c.good)).collect();
        die(args, again, &mut cells, json.as_mut())?;
        println!("\n{}", report::table(&cells));
        let held = |((_, cell), (runs, good)): (&(_, Cell), &(usize, usize))| {
            good == runs || cell.good - good == cell.runs - runs
        };
        let impossible = cells
            .iter()
            .filter(|(_, c)| c.not_possible.is_some())
            .count();
        let passed = cells.iter().zip(&before).filter(|pair| held(*pair)).count() - impossible;
        let failed = cells.len() - passed - impossible + nowhere(args, &cells);
        println!("{passed} passed, {failed} failed, {impossible} not possible");
        return Ok(failed == 0);
    }
    println!("\n{}", report::table(&cells));
    let sum = |of: fn(&Cell) -> usize| cells.iter().map(|(_, cell)| of(cell)).sum::<usize>();
    let (runs, good) = (sum(|cell| cell.runs), sum(|cell| cell.good));
    println!("{runs} deaths in {} s", start.elapsed().as_secs());
    let failed = runs - good + nowhere(args, &cells);
    println!("{good} passed, {failed} failed");
    Ok(failed == 0)
}

fn machine(args: &Args, cache: &Cache, name: &str) -> Result<(Kernel, Machine)> {
    let kernel = kernels::named(name)?.get(cache)?;
    let mut machine = node::machine(cache, &kernel, args.cpus)?;
    machine.append = format!("{} {}", machine.append, args.append);
    Ok((kernel, machine))
}

fn doctor(args: &Args, cache: &Cache, names: &[String]) -> Result<bool> {
    for name in names {
        let (kernel, machine) = machine(args, cache, name)?;
        let mut vm = Vm::boot(&machine).with_context(|| format!("kernel {name}"))?;
        println!("{}\n{}", kernel.release, node::doctor(&mut vm)?);
    }
    Ok(true)
}

/// Says which ways are possible on no kernel at all, and how many: then it is
/// the way that is wrong, a file's name perhaps, and not the kernels.
fn nowhere(args: &Args, cells: &[((String, &'static str), Cell)]) -> usize {
    if !args.kernel.is_empty() {
        return 0;
    }
    let somewhere = |name: &str| {
        let mut of_way = cells.iter().filter(|((_, way), _)| *way == name);
        of_way.any(|(_, cell)| cell.not_possible.is_none())
    };
    let lost: BTreeSet<&str> = cells.iter().map(|((_, way), _)| *way).collect();
    let lost: Vec<&str> = lost.into_iter().filter(|name| !somewhere(name)).collect();
    for name in &lost {
        println!("{name}: possible on no kernel");
    }
    lost.len()
}

fn chosen(names: &[String]) -> Vec<&'static Way> {
    let wanted = |way: &&Way| names.is_empty() || names.iter().any(|name| name == way.name);
    ways::ALL.iter().filter(wanted).collect()
}

/// Deaths that a cell with a miss must die without another one.
const AGAIN: usize = 3;

/// More deaths for the cells that missed something.
fn again<'a>(
    cells: &[((String, &'static str), Cell)],
    prepared: &'a [Prepared],
    delays: &mut Delays,
) -> VecDeque<Task<'a>> {
    let mut tasks = VecDeque::new();
    for ((kernel, name), cell) in cells {
        let on = prepared.iter().find(|one| one.kernel == *kernel);
        let way = ways::named(name);
        let (Some(on), Some(way), false) = (on, way, cell.good == cell.runs) else {
            continue;
        };
        println!("{kernel} {name} missed something: {AGAIN} more deaths of it");
        for _ in 0..AGAIN {
            let delay_us = delays.next_us();
            tasks.push_back(Task {
                on,
                way,
                cold: false,
                delay_us,
            });
        }
    }
    tasks
}

/// Dies all of `tasks` and adds them to their cells.
fn die(
    args: &Args,
    tasks: VecDeque<Task<'_>>,
    cells: &mut [((String, &'static str), Cell)],
    mut json: Option<&mut File>,
) -> Result<()> {
    let (total, start) = (tasks.len(), Instant::now());
    let queue = Mutex::new(tasks);
    let keep = Keep {
        misses: &args.keep,
        bless: args.bless.then(|| Path::new(bless::FOLDER)),
    };
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..args.jobs.max(1) {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || run::work(queue, &sender, keep));
        }
        drop(sender);
        for (count, done) in results.iter().enumerate() {
            let key = (done.task.on.kernel.clone(), done.task.way.name);
            if let Some((_, cell)) = cells.iter_mut().find(|(k, _)| *k == key) {
                cell.add(&done);
            }
            match &done.end {
                Ok(End::Died(verdict)) if verdict.misses.is_empty() => {}
                Ok(End::Died(verdict)) => {
                    let misses = verdict.misses.join("; ");
                    println!("\r{} {}: {misses}{}", key.0, key.1, report::host(&done));
                }
                Ok(End::NotPossible(why)) => {
                    println!("\r{} {}: not possible: {why}", key.0, key.1);
                }
                Err(error) => println!("\r{} {}: {error:#}", key.0, key.1),
            }
            if let Some(out) = &mut json {
                report::json_line(out, &done, args.cpus)?;
            }
            if std::io::stdout().is_terminal() {
                print!(
                    "\r{}/{total} deaths, {} s",
                    count + 1,
                    start.elapsed().as_secs()
                );
                let _ = std::io::stdout().flush();
            }
        }
        Ok(())
    })
}

/// Kernels take turns, so that a run that is cut short has some of each.
fn tasks<'a>(
    args: &Args,
    prepared: &'a [Prepared],
    ways: &[&'static Way],
    delays: &mut Delays,
) -> VecDeque<Task<'a>> {
    let runs = if args.quick { 2 } else { args.runs };
    let mut tasks = VecDeque::new();
    for run in 0..runs {
        for (index, way) in ways.iter().enumerate() {
            if args.quick && run > 0 && way.is_survived() {
                continue;
            }
            for on in prepared {
                let cold = if args.quick {
                    run == 0 && index == 0
                } else {
                    run < args.cold
                };
                tasks.push_back(Task {
                    on,
                    way,
                    cold,
                    delay_us: delays.next_us(),
                });
            }
        }
    }
    tasks
}
