//! Runs cells of the matrix, several machines side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_core::model::Inventory;
use anyhow::{Context as _, Result, ensure};
use harness::arch::Arch;
use harness::tool::Skip;
use harness::vm::{ConsoleLine, Machine, Outcome, Vm};
use harness::wire::Datagram;
use harness::{disk, host};

use lastgasp::gasp::protocol::{Frame, Kind};

use super::bless;
use super::channels::{self, Overheard};
use super::coverage::NEXT_BOOT;
use super::scenes::{Plot, Scene};
use super::stories::Stage;
use super::verdict::{self, Verdict};
use super::ways::{Demand, Way};
use crate::node;

/// A fatal way has this long to end the machine. On arm64 the finder of a hard lockup first
/// waits ten seconds of its own for the other CPU to show its stack, which here may take
/// twice as long (`nmi_trigger_cpumask_backtrace`, lib/nmi_backtrace.c).
const END: Duration = Duration::from_secs(40);

/// Has the agent turn netconsole on, on the kernel's command line (`--append`).
const NETCONSOLE_ON: &str = "LASTGASP_NETCONSOLE=auto";

/// A node that has booted says hello within this.
const HELLO: Duration = Duration::from_secs(20);

/// A survived one is watched this long, at most: a stall takes some seconds,
/// and the agent waits three more before it says that it was survived.
const WATCH: Duration = Duration::from_secs(20);

/// A kernel ready to be killed.
#[derive(Debug)]
pub struct Prepared {
    /// Its name in `tests/kernels.toml`.
    pub kernel: String,
    /// Its release.
    pub release: String,
    /// The machine; its disk is as it was with the agent warm.
    pub machine: Machine,
    /// The machine as it was with the agent warm.
    pub snapshot: PathBuf,
    /// What it had sent by then: that this boot is, at least.
    pub sent: Vec<Datagram>,
    /// What it reads the time from.
    pub clock: String,
    /// The ways in which it cannot die, and why.
    pub impossible: BTreeMap<&'static str, String>,
    /// Ways and scenes with a death that got no word out, after which it booted again.
    pub booted_again: Mutex<BTreeSet<String>>,
}

impl Prepared {
    /// Whether the next boot shall be asked about this death, which got no word out:
    /// one of each kind is enough, and which that is only shows then.
    pub fn asks_next_boot(&self, name: &str) -> bool {
        let mut booted = self
            .booted_again
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        booted.insert(name.to_owned())
    }

    /// Boots once, starts the agent, and saves the machine.
    /// With `churn` every CPU maps and unmaps memory meanwhile.
    pub fn new(
        kernel: &str,
        release: &str,
        mut machine: Machine,
        churn: bool,
        dir: &Path,
    ) -> Result<Self> {
        let path = |what| dir.join(format!("{kernel}-{}.{what}", machine.cpus));
        let (snapshot, disk) = (path("snapshot"), path("disk"));
        disk::empty(&disk)?;
        machine.disk = Some(disk);
        let mut vm = Vm::boot(&machine)?;
        node::start_agent(&mut vm, "")?;
        for cpu in (0..machine.cpus).filter(|_| churn) {
            vm.ask(&format!("churn {cpu}"))?;
        }
        let until = Instant::now() + HELLO;
        let mut sent = node::until_heartbeat(&vm, until)?;
        let inventory = loop {
            if let Some(inventory) = verdict::inventory(&sent)? {
                break inventory;
            }
            let left = until.saturating_duration_since(Instant::now());
            let datagram = vm.datagrams.recv_timeout(left);
            sent.push(datagram.context("the node says no hello")?);
        };
        if machine.arch == Arch::Amd64 {
            expect_the_best(&inventory)?;
        }
        let clock = node::clock(&mut vm)?;
        let impossible = node::impossible(&mut vm)?;
        vm.save(&snapshot).context("cannot save the machine")?;
        // And it still is one clock after the machine has come back.
        node::clock(&mut Vm::restore(&machine, &snapshot)?)?;
        Ok(Self {
            kernel: kernel.to_owned(),
            release: release.to_owned(),
            machine,
            snapshot,
            sent,
            clock,
            impossible,
            booted_again: Mutex::default(),
        })
    }
}

/// Fails if the verifier refuses the programs that are best where x86 is concerned, which
/// no death may show: others take their place.
fn expect_the_best(inventory: &Inventory) -> Result<()> {
    for (role, how) in [("log lines", "fexit"), ("packets of death", "fentry")] {
        let found = inventory.probes.iter().find(|(name, _)| name == role);
        let status = found.map_or("missing", |(_, status)| status.as_str());
        ensure!(
            status.starts_with(how),
            "{role}: {status}, not {how}: `lab --doctor` has the verifier's reason"
        );
    }
    Ok(())
}

/// One death to be died.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// On which kernel.
    pub on: &'a Prepared,
    /// How.
    pub how: How,
    /// Boot anew instead of going on from the snapshot.
    pub cold: bool,
    /// Before the trigger.
    pub delay_us: u64,
    /// The CPU that is told to die; a scene has one of its own.
    pub on_cpu: u32,
    /// Its number, if it was drawn.
    pub draw: Option<u64>,
    /// If no word got out, and none did before, the machine boots again: does that say
    /// that it died?
    pub next_boot: bool,
}

/// How something ends.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// A way to die, on a machine with nothing special about it.
    Way(&'static Way),
    /// A scene.
    Scene(&'static Scene),
}

impl How {
    /// The name of a way or a scene; no two have the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Way(way) => way.name,
            Self::Scene(scene) => scene.name,
        }
    }
}

impl Task<'_> {
    /// The ways that the machine must be able to die in.
    fn ways(&self) -> impl Iterator<Item = &'static str> {
        let (way, scene) = match self.how {
            How::Way(way) => (Some(way.name), None),
            How::Scene(scene) => (None, Some(scene)),
        };
        way.into_iter()
            .chain(scene.into_iter().flat_map(Scene::ways))
    }

    fn on_cpu(&self) -> u32 {
        match self.how {
            How::Way(_) => self.on_cpu,
            How::Scene(scene) => scene.on_cpu(),
        }
    }
}

/// What became of a task.
#[derive(Debug)]
pub enum Fate {
    /// It died, and this is what came out.
    Died(Verdict),
    /// This kernel cannot die so; why.
    NotPossible(String),
}

/// One death that was died.
#[derive(Debug)]
pub struct Done<'a> {
    /// Which.
    pub task: Task<'a>,
    /// What became of it, or why it could not be run.
    pub end: Result<Fate>,
    /// Time for all of it.
    pub wall: Duration,
    /// How much of it the host was not run itself, in milliseconds, if that is known.
    pub stolen_ms: Option<u64>,
}

/// What is written down of deaths.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// Console and datagrams of those that miss something.
    pub misses: &'a Path,
    /// Consoles of those that miss nothing, for the decoder's tests.
    pub bless: Option<&'a Path>,
}

/// Works until the queue is empty.
pub fn work<'a>(queue: &Mutex<VecDeque<Task<'a>>>, done: &Sender<Done<'a>>, keep: Keep<'_>) {
    loop {
        let Some(task) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) else {
            return;
        };
        let (start, stolen) = (Instant::now(), host::stolen_ms());
        // What shows only on the way, and is nobody's fault.
        let end = die(&task, keep).or_else(|error| match error.downcast() {
            Ok(Skip(why)) => Ok(Fate::NotPossible(why)),
            Err(error) => Err(error),
        });
        let stolen_ms = host::stolen_ms()
            .zip(stolen)
            .map(|(now, then)| now.saturating_sub(then));
        let one = Done {
            task,
            end,
            wall: start.elapsed(),
            stolen_ms,
        };
        if done.send(one).is_err() {
            return;
        }
    }
}

fn die(task: &Task<'_>, keep: Keep<'_>) -> Result<Fate> {
    if let Some(why) = task.ways().find_map(|way| task.on.impossible.get(way)) {
        return Ok(Fate::NotPossible(why.clone()));
    }
    let dir = tempfile::Builder::new()
        .prefix("lastgasp-death-")
        .tempdir()?;
    let disk = dir.path().join("disk");
    let mut machine = task.on.machine.clone();
    machine.disk = Some(disk.clone());
    let (vm, way, demand) = match task.how {
        How::Scene(scene) => match &scene.plot {
            Plot::Story(story, _) => {
                let told = Stage::new(&machine).and_then(|mut stage| story(&mut stage));
                return Ok(Fate::Died(Verdict::of(told)));
            }
            Plot::NextBoot(it) => {
                let (verdict, since, outcome) = it.play(&machine, &task.on.kernel)?;
                if !verdict.misses.is_empty() {
                    save(task, since, &outcome, &verdict, keep.misses)?;
                }
                return Ok(Fate::Died(verdict));
            }
            Plot::Death(death) => {
                disk::empty(&disk)?;
                (death.stage(&machine)?, death.way()?, death.demand)
            }
        },
        How::Way(way) if !task.cold => (restore(task, &disk)?, way, way.demand_on(machine.cpus)),
        How::Way(way) => {
            disk::empty(&disk)?;
            let mut vm = Vm::boot(&machine)?;
            node::start_agent(&mut vm, "")?;
            (vm, way, way.demand_on(machine.cpus))
        }
    };
    let (mut verdict, since, outcome) = kill(task, vm, way, demand)?;
    let is_silent = verdict.word_ms.is_none() && !way.is_survived();
    if task.next_boot && is_silent && task.on.asks_next_boot(task.how.name()) {
        // It may be dead before its next heartbeat.
        let before = match task.how {
            How::Way(_) if !task.cold => [&task.on.sent[..], &outcome.datagrams].concat(),
            _ => outcome.datagrams.clone(),
        };
        let said = next_boot(&machine, &before)?;
        if said != "yes" {
            verdict.misses.push(format!("next boot: {said}"));
        }
        verdict.channels.insert(NEXT_BOOT, (said, None));
    }
    if !verdict.misses.is_empty() {
        save(task, since, &outcome, &verdict, keep.misses)?;
    } else if let (Some(dir), true) = (keep.bless, demand != Demand::End) {
        bless::write(dir, &task.on.kernel, way.name, since, &outcome.console)?;
    }
    Ok(Fate::Died(verdict))
}

/// The machine as it was with the agent warm, with a disk of its own.
fn restore(task: &Task<'_>, disk: &Path) -> Result<Vm> {
    let mut machine = task.on.machine.clone();
    let warm = machine.disk.replace(disk.to_owned());
    let warm = warm.context("the machine has no disk")?;
    fs::copy(warm, disk).context("cannot copy the machine's disk")?;
    Vm::restore(&machine, &task.on.snapshot)
}

fn kill(
    task: &Task<'_>,
    mut vm: Vm,
    way: &Way,
    demand: Demand,
) -> Result<(Verdict, Instant, Outcome)> {
    let since = Instant::now();
    node::die(
        &mut vm,
        way,
        Duration::from_micros(task.delay_us),
        task.on_cpu(),
    )?;
    let outcome = if way.is_survived() {
        watch(vm)?
    } else if way.ends() {
        vm.finish(END)?
    } else {
        until_halted(vm)?
    };
    let mut verdict = verdict::judge(way, demand, since, &outcome)?;
    let is_demanded = matches!(task.how, How::Scene(scene) if scene.has_netconsole());
    if is_demanded || task.on.machine.append.contains(NETCONSOLE_ON) {
        let trigger = since + Duration::from_micros(task.delay_us);
        let told = channels::netconsole(way, trigger, &outcome.console, &outcome.datagrams);
        if is_demanded && told == Overheard::No {
            verdict.misses.push("netconsole did not tell it".to_owned());
        }
        if is_demanded {
            let lines = channels::kept_lines(&outcome.datagrams);
            let twice = verdict::shown_twice(way, since, &outcome, &lines)?;
            let twice = twice.iter().map(|line| format!("shown twice: {line}"));
            verdict.misses.extend(twice);
            if lines.is_empty() {
                verdict
                    .misses
                    .push("netconsole's lines are not kept".to_owned());
            }
        }
        let said = (told.word().to_owned(), told.ms());
        verdict.channels.insert(channels::NETCONSOLE, said);
    }
    Ok((verdict, since, outcome))
}

/// What the next boot of a machine tells of the one that said `before`. Its hello may come
/// behind its first heartbeat.
fn next_boot(machine: &Machine, before: &[Datagram]) -> Result<String> {
    let mut vm = Vm::boot(machine)?;
    node::start_agent(&mut vm, "")?;
    let until = Instant::now() + HELLO;
    let mut after = node::until_heartbeat(&vm, until).context("the next boot")?;
    loop {
        let said = verdict::next_boot(before, &after)?;
        if said == "yes" {
            return Ok(said);
        }
        let left = until.saturating_duration_since(Instant::now());
        match vm.datagrams.recv_timeout(left) {
            Ok(datagram) => after.push(datagram),
            Err(_) => return Ok(said),
        }
    }
}

/// Waits until the agent says that it was survived; a little longer, so
/// that a death which comes after all is seen.
fn watch(vm: Vm) -> Result<Outcome> {
    let until = Instant::now() + WATCH;
    let mut heard = Vec::new();
    while let Ok(datagram) = vm
        .datagrams
        .recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        let frame = Frame::parse(&datagram.payload);
        let survived = frame.is_ok_and(|frame| frame.kind() == Kind::Survived);
        heard.push(datagram);
        if survived {
            break;
        }
    }
    let mut outcome = vm.finish(Duration::from_millis(200))?;
    heard.append(&mut outcome.datagrams);
    outcome.datagrams = heard;
    Ok(outcome)
}

/// Waits until the kernel says that it has halted, its last words.
fn until_halted(vm: Vm) -> Result<Outcome> {
    let until = Instant::now() + END;
    let halted = |(_, line): &ConsoleLine| line.ends_with("reboot: System halted");
    while Instant::now() < until && !vm.console().iter().any(halted) {
        std::thread::sleep(Duration::from_millis(5));
    }
    vm.finish(Duration::ZERO)
}

/// The autopsy with the functions' names instead of addresses, which are the same in
/// every machine that goes on from the snapshot.
fn with_names(task: &Task<'_>, autopsy: &[String]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let mut vm = restore(task, &dir.path().join("disk"))?;
    let with_names = |line: &String| {
        let (cpu, addresses) = line.split_once(": ").context("no addresses")?;
        Ok(format!(
            "{cpu}: {}",
            vm.ask(&format!("symbols {addresses}"))?
        ))
    };
    autopsy.iter().map(with_names).collect()
}

/// Writes console and datagrams of a death that missed something.
fn save(
    task: &Task<'_>,
    since: Instant,
    outcome: &Outcome,
    verdict: &Verdict,
    dir: &Path,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let name = format!(
        "{}-{}-{}-{}.txt",
        task.on.kernel,
        task.on.machine.cpus,
        task.how.name(),
        task.delay_us
    );
    let ms = |at: Instant| at.saturating_duration_since(since).as_secs_f64() * 1e3;
    let mut text = format!(
        "{}, cold {}, on CPU {}, after {} us\n\n",
        task.how.name(),
        task.cold,
        task.on_cpu(),
        task.delay_us
    );
    for miss in &verdict.misses {
        writeln!(text, "miss: {miss}")?;
    }
    if !outcome.autopsy.is_empty() {
        let is_of_snapshot = matches!(task.how, How::Way(_)) && !task.cold;
        let names = is_of_snapshot.then(|| with_names(task, &outcome.autopsy));
        let names = names.and_then(Result::ok);
        let autopsy = names.unwrap_or_else(|| outcome.autopsy.clone());
        writeln!(
            text,
            "\nwhere its CPUs were, and what is on their stacks\n{}",
            autopsy.join("\n")
        )?;
    }
    text.push_str(
        "\nwaits for a CPU of the host, by thread of the machine; ms since the command\n",
    );
    for wait in &outcome.waits {
        writeln!(
            text,
            "{:9.1} {} waited {} ms",
            ms(wait.over),
            wait.thread,
            wait.ms
        )?;
    }
    text.push_str("\nconsole, ms since the command\n");
    for (at, line) in outcome.console.iter().filter(|(at, _)| *at >= since) {
        writeln!(text, "{:9.1} {line}", ms(*at))?;
    }
    text.push_str("\ndatagrams, ms since the command\n");
    for datagram in &outcome.datagrams {
        let said = match Frame::parse(&datagram.payload) {
            Ok(frame) => format!("{:?} seq {} {:?}", frame.kind(), frame.seq(), frame.body()),
            Err(error) => format!("unreadable: {error}"),
        };
        writeln!(text, "{:9.1} {said}", ms(datagram.at))?;
    }
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
