//! `cargo xtask lab`.

use std::collections::{BTreeSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cases::lab::bless;
use cases::lab::coverage::Coverage;
use cases::lab::deaths::{Batch, Deaths};
use cases::lab::kept;
use cases::lab::plan::{self, Dice, Times};
use cases::lab::record::{self, DeathRecord, Log};
use cases::lab::report::{self, Cell, Matrix, Place};
use cases::lab::run::{self, How, Keep, Prepared, Task};
use cases::lab::scenes::{self, Plot, Scene};
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
/// delay and by an order to a random CPU. Exit code 0: nothing was missed.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Args {
    /// Kernels of tests/kernels.toml [default: all].
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Ways to die [default: all].
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(ways::names(false)))]
    way: Vec<String>,
    /// Scenes, in which something is special about the node: `all` or names
    /// [default: none; with --all all; with --quick all but one, on one kernel].
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(scenes::names().chain(["all"])))]
    scene: Vec<String>,
    /// CPUs of each machine [default: 2, and for scenes what they need; with --all 2, 4
    /// and 1].
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Vec<u32>,
    /// Added to the kernels' command line, for an experiment.
    #[arg(long, default_value = "", hide_default_value = true)]
    append: String,
    /// Deaths of each kernel and way [default: 1; with --all 10, and 2 of what is
    /// survived].
    #[arg(long)]
    runs: Option<usize>,
    /// Of these, how many boot anew instead of going on from the snapshot [default: 1;
    /// with --all none].
    #[arg(long)]
    cold: Option<usize>,
    /// Every CPU maps and unmaps memory meanwhile, as busy programs of several
    /// threads do: each time it waits for the other CPUs, also for a dying one.
    #[arg(long)]
    churn: bool,
    /// Machines side by side; more CPUs in them than the host has cause misses.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Two deaths of each kernel and way, one where it is survived (that takes some
    /// seconds), one cold boot a kernel: for the tests.
    #[arg(long, conflicts_with_all = ["runs", "all", "random"])]
    quick: bool,
    /// The whole matrix, into docs/coverage.json and docs/coverage.md. Goes on where
    /// it was stopped: what --json names has the deaths so far. A cell that got worse
    /// than docs/coverage.json has it fails.
    #[arg(long, conflicts_with = "random")]
    all: bool,
    /// This many deaths, drawn at random: kernel, CPUs, way, moment, and the CPU that
    /// dies. Goes on where it was stopped, if --seed is the same; what earlier builds
    /// died counts as well, and is told apart at the end. Their sum is kept in
    /// docs/deaths.json and docs/deaths.md: another machine goes on behind those.
    #[arg(long, value_name = "N")]
    random: Option<u64>,
    /// Seed of all that is random [default: from the clock; with --all and --random 1].
    #[arg(long)]
    seed: Option<u64>,
    /// Write a line of JSON a death to this file [default with --all:
    /// target/lab/all.jsonl, with --random target/lab/random.jsonl].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Begin anew, and forget the deaths so far.
    #[arg(long)]
    anew: bool,
    /// Stop after this many seconds; a later run goes on.
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
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

impl Args {
    /// Whether a later run goes on with what this one did.
    fn goes_on(&self) -> bool {
        self.all || self.random.is_some()
    }

    fn seed(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let drawn = if self.goes_on() {
            1
        } else {
            now.map_or(1, |now| now.as_secs())
        };
        self.seed.unwrap_or(drawn)
    }

    fn ways(&self) -> Vec<&'static Way> {
        let named = |way: &&Way| self.way.iter().any(|name| name == way.name);
        // Who names scenes only means these.
        let all = self.way.is_empty() && (self.scene.is_empty() || self.all);
        ways::ALL.iter().filter(|way| all || named(way)).collect()
    }

    fn scenes(&self) -> Vec<&'static Scene> {
        let named = |scene: &&Scene| self.scene.iter().any(|n| n == scene.name || n == "all");
        let all = (self.all || self.quick) && self.scene.is_empty() && self.way.is_empty();
        scenes::ALL.iter().filter(|s| all || named(s)).collect()
    }

    fn cpus(&self) -> Vec<u32> {
        match (self.cpus.is_empty(), self.all, self.random) {
            (false, ..) => self.cpus.clone(),
            (true, true, _) => vec![2, 4, 1],
            (true, _, Some(_)) => vec![2, 4],
            (true, false, None) if self.ways().is_empty() => Vec::new(),
            (true, false, None) => vec![2],
        }
    }

    /// CPUs and kernel of each machine, and how many of them only play scenes: the
    /// last ones.
    fn machines(&self) -> Result<(Vec<(u32, String)>, usize)> {
        let (cpus, mut kernels) = (self.cpus(), self.kernels()?);
        let mut machines = Vec::new();
        for cpus in &cpus {
            machines.extend(kernels.iter().map(|name| (*cpus, name.clone())));
        }
        let usual = machines.len();
        kernels.retain(|name| !self.quick || name == QUICK_SCENES_ON);
        let more: BTreeSet<u32> = self.scenes().iter().map(|scene| scene.cpus).collect();
        for more in more {
            if self.cpus.is_empty() && !cpus.contains(&more) {
                machines.extend(kernels.iter().map(|name| (more, name.clone())));
            }
        }
        let for_scenes = machines.len() - usual;
        Ok((machines, for_scenes))
    }

    fn kernels(&self) -> Result<Vec<String>> {
        if !self.kernel.is_empty() {
            return Ok(self.kernel.clone());
        }
        let mut all = kernels::all()?;
        all.retain(|spec| spec.quick || !self.quick);
        Ok(all.into_iter().map(|spec| spec.name).collect())
    }

    fn times(&self) -> Times {
        let runs = match (self.quick, self.all) {
            (true, _) => 2,
            (_, true) => self.runs.unwrap_or(10),
            _ => self.runs.unwrap_or(1),
        };
        Times {
            runs,
            survived: match (self.quick, self.all) {
                (true, _) => 1,
                (_, true) => runs.min(2),
                _ => runs,
            },
            cold: self.cold.unwrap_or(usize::from(!self.all)),
            cold_once: self.quick,
            next_boot: !self.quick,
        }
    }

    fn json(&self) -> Option<PathBuf> {
        let usual = match (self.all, self.random) {
            (true, _) => Some("target/lab/all.jsonl".into()),
            (_, Some(_)) => Some("target/lab/random.jsonl".into()),
            _ => None,
        };
        self.json.clone().or(usual)
    }
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
    let (ways, scenes) = (args.ways(), args.scenes());
    let (machines, for_scenes) = args.machines()?;
    if args.doctor {
        return doctor(args, &cache, &machines);
    }
    let build = node::build()?;
    let mut known = match args.json() {
        Some(path) if args.goes_on() && !args.anew => record::read(&path)?,
        _ => Vec::new(),
    };
    let before = known.len();
    let counts = |record: &DeathRecord| args.random.is_some() || record.build == build;
    known.retain(|record| counts(record) && !record.is_error());
    if known.len() < before {
        println!(
            "{} deaths of other builds, or that could not be run, left out",
            before - known.len()
        );
    }
    let mut run = Run {
        args,
        seed: args.seed(),
        log: match args.json() {
            Some(path) => Some(Log::open(&path, args.goes_on() && !args.anew)?),
            None => None,
        },
        build,
        until: args
            .time
            .map(|s| Instant::now() + std::time::Duration::from_secs(s)),
        records: known,
    };
    println!("seed {}, {} deaths known", run.seed, run.records.len());
    let left = match args.random {
        Some(count) => {
            let kept = Deaths::read(Path::new(kept::FOLDER))?;
            plan::left(count, run.seed, &run.records, &kept)
        }
        None => BTreeSet::new(),
    };
    if args.random.is_some() && left.is_empty() {
        println!("all of them have died before");
        keep(&run.records, run.seed)?;
        return Ok(true);
    }
    let dir = tempfile::Builder::new().prefix("lastgasp-lab-").tempdir()?;
    let mut prepared = Vec::new();
    for (cpus, name) in &machines {
        let start = Instant::now();
        let (kernel, machine) = machine(args, &cache, name, *cpus)?;
        let one = Prepared::new(name, &kernel.release, machine, args.churn, dir.path())
            .with_context(|| format!("kernel {name}"))?;
        println!(
            "{} x{cpus} ready after {:.1} s, clock {}",
            one.release,
            start.elapsed().as_secs_f64(),
            one.clock
        );
        prepared.push(one);
    }
    let usual = &prepared[..prepared.len() - for_scenes];
    let mut dice = Dice(run.seed);
    let mut first = match args.random {
        Some(_) => plan::drawn(usual, &ways, &left, run.seed),
        None => plan::all(usual, &ways, args.times(), &run.records, &mut dice),
    };
    let times = if args.all { 1 } else { args.runs.unwrap_or(1) };
    let mut special = plan::scenes(&prepared, &scenes, times, &run.records, &mut dice);
    let is_quick =
        |task: &Task<'_>| task.on.kernel == QUICK_SCENES_ON && task.how.name() != NOT_QUICK;
    special.retain(|task| !args.quick || is_quick(task));
    first.append(&mut special);
    ensure!(
        args.goes_on() || !first.is_empty(),
        "nothing to die: no machine has the CPUs that these scenes need"
    );
    let start = Instant::now();
    run.die(first)?;
    let lost = nowhere(args, usual, &ways);
    if args.quick {
        return run.again(&prepared, &mut dice, lost);
    }
    let matrix = Matrix::of(&run.records);
    println!("\n{}", report::table(&matrix));
    let (runs, good) = (matrix.sum(|cell| cell.runs), matrix.sum(|cell| cell.good));
    println!("{runs} deaths, these in {} s", start.elapsed().as_secs());
    for (build, deaths) in record::builds(&run.records) {
        println!("{deaths} by build {build}");
    }
    if args.random.is_some() {
        keep(&run.records, run.seed)?;
    }
    let failed = if args.all {
        cover(&matrix)?
    } else {
        runs - good
    };
    let failed = failed + lost;
    println!("{good} passed, {failed} failed");
    Ok(failed == 0)
}

/// Keeps what is known of every cell; how many got worse, or are not told at all.
fn cover(matrix: &Matrix) -> Result<usize> {
    let dir = Path::new(kept::FOLDER);
    let coverage = Coverage::of(matrix);
    let before = Coverage::read(dir)?;
    let worse = coverage.worse_than(&before);
    for cell in &worse {
        println!("worse: {cell}");
    }
    let untold = coverage.untold(&before);
    for cell in &untold {
        println!("nobody tells of it: {cell}");
    }
    println!("{}", coverage.summary());
    if worse.is_empty() {
        coverage.over(&before)?.write(dir)?;
    }
    Ok(worse.len() + untold.len())
}

/// Keeps the sum of the deaths that were drawn, so that another machine goes on behind
/// them.
fn keep(records: &[DeathRecord], seed: u64) -> Result<()> {
    let dir = Path::new(kept::FOLDER);
    let Some(batch) = Batch::of(records, seed) else {
        return Ok(());
    };
    let deaths = Deaths::read(dir)?.with(batch);
    println!("all that are kept: {}", deaths.summary());
    deaths.write(dir)
}

fn machine(args: &Args, cache: &Cache, name: &str, cpus: u32) -> Result<(Kernel, Machine)> {
    let kernel = kernels::named(name)?.get(cache)?;
    let mut machine = node::machine(cache, &kernel, cpus)?;
    machine.append = format!("{} {}", machine.append, args.append);
    Ok((kernel, machine))
}

fn doctor(args: &Args, cache: &Cache, machines: &[(u32, String)]) -> Result<bool> {
    for (cpus, name) in machines {
        let (kernel, machine) = machine(args, cache, name, *cpus)?;
        let mut vm = Vm::boot(&machine).with_context(|| format!("kernel {name}"))?;
        println!("{} x{cpus}\n{}", kernel.release, node::doctor(&mut vm)?);
    }
    Ok(true)
}

/// Says which ways are possible on no kernel at all, and how many: then it is the way
/// that is wrong, a file's name perhaps, and not the kernels.
fn nowhere(args: &Args, prepared: &[Prepared], ways: &[&Way]) -> usize {
    if !args.kernel.is_empty() {
        return 0;
    }
    let is_lost = |way: &&&Way| {
        prepared
            .iter()
            .all(|on| on.impossible.contains_key(way.name))
    };
    let lost: Vec<&str> = ways.iter().filter(is_lost).map(|way| way.name).collect();
    for name in &lost {
        println!("{name}: possible on no kernel");
    }
    lost.len()
}

/// The kernel on which the tests play the scenes.
const QUICK_SCENES_ON: &str = "6.12";

/// The scene that takes too long for them.
const NOT_QUICK: &str = "healthy";

/// Deaths that a cell with a miss must die without another one.
const AGAIN: usize = 3;

/// A run of the lab, and the deaths that it knows of.
struct Run<'a> {
    args: &'a Args,
    seed: u64,
    build: String,
    log: Option<Log>,
    until: Option<Instant>,
    records: Vec<DeathRecord>,
}

impl Run<'_> {
    /// Dies all of `tasks`.
    fn die(&mut self, tasks: VecDeque<Task<'_>>) -> Result<()> {
        let (total, start) = (tasks.len(), Instant::now());
        let queue = Mutex::new(tasks);
        let keep = Keep {
            misses: &self.args.keep,
            bless: self.args.bless.then(|| Path::new(bless::FOLDER)),
        };
        let (sender, results) = mpsc::channel();
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..self.args.jobs.max(1) {
                let (queue, sender) = (&queue, sender.clone());
                scope.spawn(move || run::work(queue, &sender, keep));
            }
            drop(sender);
            for (count, done) in results.iter().enumerate() {
                let record = DeathRecord::new(&done, &self.build, self.seed);
                if !record.misses.is_empty() {
                    let cell = format!("{} x{} {}", record.case.kernel, record.cpus, record.way);
                    println!("\r{cell}: {}{}", record.misses.join("; "), record.host());
                }
                if let Some(log) = &mut self.log {
                    log.add(&record)?;
                }
                self.records.push(record);
                if std::io::stdout().is_terminal() {
                    let seconds = start.elapsed().as_secs();
                    print!("\r{}/{total} deaths, {seconds} s", count + 1);
                    let _ = std::io::stdout().flush();
                }
                if self.until.is_some_and(|until| Instant::now() > until)
                    && let Ok(mut queue) = queue.lock()
                {
                    queue.clear();
                }
            }
            Ok(())
        })
    }

    /// One death in some hundreds loses lines on a host that stands still for a moment: a
    /// cell that missed something dies again, and may miss nothing then.
    fn again(mut self, prepared: &[Prepared], dice: &mut Dice, lost: usize) -> Result<bool> {
        let is_bad = |cell: &Cell| cell.good != cell.runs;
        let first = Matrix::of(&self.records);
        let mut tasks = VecDeque::new();
        for (place, _) in first.0.iter().filter(|(_, cell)| is_bad(cell)) {
            let is_it = |on: &&Prepared| on.kernel == place.kernel && on.machine.cpus == place.cpus;
            let way = ways::named(&place.way).map(How::Way);
            let how = way.or_else(|| scenes::named(&place.way).map(How::Scene));
            let (Some(on), Some(how)) = (prepared.iter().find(is_it), how) else {
                continue;
            };
            println!(
                "{} {} missed something: {AGAIN} more deaths of it",
                place.kernel, place.way
            );
            tasks.extend((0..AGAIN).map(|_| dice.task(on, how, false)));
        }
        let known = self.records.len();
        self.die(tasks)?;
        let second = Matrix::of(&self.records[known..]);
        let matrix = Matrix::of(&self.records);
        println!("\n{}", report::table(&matrix));
        let missed_again = |place| {
            let found = second.0.iter().find(|(known, _)| known == place);
            found.is_none_or(|(_, cell)| is_bad(cell))
        };
        let bad = first.0.iter().filter(|(_, cell)| is_bad(cell));
        let mut failed = lost;
        for (place, _) in bad {
            let of_it = self.records.iter().filter(|r| Place::of(r) == *place);
            let misses: Vec<&str> = of_it.flat_map(|r| &r.misses).map(String::as_str).collect();
            // `cargo xtask test` says what failed again at its end.
            let what = if missed_again(place) {
                failed += 1;
                "FAILED"
            } else {
                "missed at first"
            };
            let (machine, misses) = (place.machine(), misses.join("; "));
            println!("{what}: {machine} {}: {misses}", place.way);
        }
        // Where the tests play it, it is possible unless something of the lab is missing.
        for (place, cell) in &matrix.0 {
            let scene = scenes::named(&place.way).map(|scene| &scene.plot);
            if let (Some(why), Some(Plot::NextBoot(_))) = (&cell.not_possible, scene) {
                println!("SKIPPED: {} {}: {why}", place.machine(), place.way);
            }
        }
        let impossible = matrix.sum(|cell| usize::from(cell.not_possible.is_some()));
        let passed = matrix.0.len() - impossible - failed.min(matrix.0.len() - impossible);
        println!("{passed} passed, {failed} failed, {impossible} not possible");
        Ok(failed == 0)
    }
}
