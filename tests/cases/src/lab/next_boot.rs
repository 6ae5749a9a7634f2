//! Deaths whose log the next boot finds: in pstore, of a machine whose cable is pulled
//! before it dies, or where a crash kernel saved it. A real annotator is told.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_core::engine;
use agent_core::model::{Channel, DeathState, Evidence, HoldPoint, Proof};
use anyhow::{Context as _, Result, ensure};
use harness::arch::Arch;
use harness::cache::Cache;
use harness::tool::Skip;
use harness::vm::{Machine, Outcome, Vm};
use harness::{firmware, initramfs, kdump as crash_kernel, kernels};

use super::stories::Stage;
use super::verdict::{self, Verdict};
use super::ways::{self, Demand, Way};
use crate::node;

/// The name, among a death's other channels, of what the next boot finds in pstore.
pub const PSTORE: &str = "pstore";

/// That of what a crash kernel saved for it.
pub const KDUMP: &str = "kdump";

/// A kernel that dies is gone within this, the crash kernel too.
const END: Duration = Duration::from_secs(30);

/// What is there is found, sent and written down within this.
const TOLD: Duration = Duration::from_secs(20);

/// A kernel is held only if something is left to be sent: it dies so often, at most,
/// until it was.
const UNTIL_HELD: usize = 3;

/// One of them.
#[derive(Debug)]
pub struct NextBoot {
    /// How the kernel dies.
    pub way: &'static str,
    /// Where its log is kept.
    pub keeper: Keeper,
}

/// Where the log of a death is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keeper {
    /// RAM that a reset leaves as it is. The agent deletes what the annotator has.
    Ramoops,
    /// The firmware's store of errors (ACPI ERST). The agent leaves it as it is.
    Erst,
    /// Variables of the EFI firmware. The agent deletes what the annotator has.
    Efi,
    /// A file of a crash kernel, which takes over before or after the panic notifiers.
    /// The gasp gets out as well.
    CrashKernel {
        /// After them.
        after_notifiers: bool,
    },
}

/// What became of one, when it was told to die, and what the machine left behind.
type End = (Verdict, Instant, Outcome);

impl NextBoot {
    /// Dies on a machine of this kernel, and lets it boot again. [`Skip`] where the
    /// kernel or its machine has no such keeper.
    pub fn play(&self, machine: &Machine, kernel: &str) -> Result<End> {
        if machine.arch != Arch::Amd64 {
            let why = "the lab has pstore and crash kernels for x86 only";
            return Err(Skip(why.to_owned()).into());
        }
        let way = ways::named(self.way).with_context(|| format!("no way {}", self.way))?;
        let cache = Cache::open()?;
        match self.keeper {
            Keeper::CrashKernel { after_notifiers } => {
                let machine = with_crash_kernel(&cache, machine, kernel, after_notifiers)?;
                until_held(&machine, way, after_notifiers)
            }
            keeper => keeper.play(&cache, machine, way),
        }
    }
}

impl Keeper {
    /// Gives it to a machine; what it keeps is in files in `dir`.
    fn equip(self, cache: &Cache, machine: &mut Machine, dir: &Path) -> Result<()> {
        let file = |name: &str| dir.join(name).display().to_string();
        match self {
            Self::Ramoops => {
                machine.devices.extend([
                    "-object".into(),
                    format!(
                        "memory-backend-file,id=ram,share=on,size={}M,mem-path={}",
                        machine.memory,
                        file("ram")
                    ),
                    "-machine".into(),
                    "memory-backend=ram".into(),
                ]);
                machine.append.push_str(" memmap=2M$0x1e000000");
            }
            Self::Erst => machine.devices.extend([
                "-object".into(),
                format!(
                    "memory-backend-file,id=erst,share=on,size=0x80000,mem-path={}",
                    file("erst")
                ),
                "-device".into(),
                "acpi-erst,memdev=erst".into(),
            ]),
            Self::Efi => {
                let (code, variables) = firmware::efi(cache, dir)?;
                let flash = |options: &str, path: &Path| {
                    format!("if=pflash,format=raw{options},file={}", path.display())
                };
                machine.devices.extend([
                    "-drive".into(),
                    flash(",readonly=on", &code),
                    "-drive".into(),
                    flash("", &variables),
                ]);
            }
            Self::CrashKernel { .. } => {}
        }
        Ok(())
    }

    /// Has the booted kernel use it for pstore.
    fn prepare(self, vm: &mut Vm) -> Result<()> {
        // What has no file is built in, or is not there at all, which shows below.
        let insert = |module: &str| {
            let (name, _) = module.split_once(' ').unwrap_or((module, ""));
            format!("sh if [ -e /modules/{name} ]; then /bin/busybox insmod /modules/{module}; fi")
        };
        let (modules, backend): (&[&str], _) = match self {
            Self::Ramoops => (
                &[
                    "reed_solomon.ko",
                    "ramoops.ko mem_address=0x1e000000 mem_size=0x100000 record_size=0x20000",
                ],
                "ramoops",
            ),
            Self::Erst => (&[], "erst"),
            // Since 6.1 its name is efi_pstore.
            Self::Efi => (&["efi_pstore.ko"], "efi"),
            Self::CrashKernel { .. } => return Ok(()),
        };
        for module in modules {
            vm.ask(&insert(module))?;
        }
        let used = vm.ask("read /sys/module/pstore/parameters/backend");
        let used = used.unwrap_or_default();
        if !used.starts_with(backend) {
            let why = format!("there is no pstore by {backend}: its backend is {used:?}");
            return Err(Skip(why).into());
        }
        vm.ask("sh /bin/busybox mount -t pstore pstore /sys/fs/pstore")?;
        Ok(())
    }

    /// Pulls the cable, dies, and has the next boot tell of it by pstore.
    fn play(self, cache: &Cache, machine: &Machine, way: &Way) -> Result<End> {
        let mut stage = Stage::new(machine)?;
        self.equip(cache, &mut stage.machine, stage.dir.path())?;
        let mut vm = Vm::boot(&stage.machine)?;
        self.prepare(&mut vm)?;
        start(&mut vm)?;
        vm.cable(false)?;
        let mut end = die(vm, way)?;
        say(&mut end.0, PSTORE, || self.found(&stage, way));
        Ok(end)
    }

    /// The next boot finds it, and lets go of the record if it is told to, but only when
    /// the annotator has it. Gives when that was, as [`told`].
    fn found(self, stage: &Stage, way: &Way) -> Result<f64> {
        let mut vm = Vm::boot(&stage.machine)?;
        self.prepare(&mut vm)?;
        let found = vm.ask("list /sys/fs/pstore")?;
        ensure!(found.contains("dmesg-"), "pstore has nothing: {found:?}");
        let delete = self != Self::Erst;
        node::start_agent(&mut vm, if delete { "--pstore-delete" } else { "" })?;
        let ms = told(stage, way, Channel::Pstore)?;
        // The receipt is noted before anything is deleted.
        vm.ask("wait /var/lib/lastgasp/records.json 10000")?;
        let gone = gone(&mut vm, delete)?;
        ensure!(gone == delete, "deleted: {gone}, wanted: {delete}");
        Ok(ms)
    }
}

/// The machine with a crash kernel in it, which takes over before or after the panic
/// notifiers.
fn with_crash_kernel(
    cache: &Cache,
    machine: &Machine,
    kernel: &str,
    after_notifiers: bool,
) -> Result<Machine> {
    let kernel = kernels::named(kernel)?.get(cache)?;
    let guest = node::binary("LASTGASP_GUEST")?;
    let init = initramfs::File::copy("/init", 0o755, &guest)?;
    let (files, append) = crash_kernel::files(cache, &kernel, &[init], after_notifiers)?;
    let mut machine = machine.clone();
    // Kernels unpack one archive behind the other.
    let more = initramfs::archive(&files);
    machine.initramfs = [&*machine.initramfs, &more].concat().into();
    machine.append.push_str(&append);
    machine.memory = 768;
    Ok(machine)
}

/// Dies until it was held where the crash kernel takes over; the gasp gets out, and the
/// next boot tells of the same death by the log that was saved.
fn until_held(machine: &Machine, way: &Way, after_notifiers: bool) -> Result<End> {
    let point = if after_notifiers {
        HoldPoint::CrashStop
    } else {
        HoldPoint::CrashKexec
    };
    let mut deaths = 0;
    loop {
        let stage = Stage::new(machine)?;
        let mut vm = Vm::boot(&stage.machine)?;
        if let Err(error) = vm.ask("crash-kernel") {
            return Err(Skip(format!("it takes no crash kernel: {error:#}")).into());
        }
        start(&mut vm)?;
        let mut end = die(vm, way)?;
        let verdict = &mut end.0;
        say(verdict, KDUMP, || saved(&stage, way));
        deaths += 1;
        let is_held = verdict.held_at.contains(&point);
        // There is nothing to wait for if all was out before.
        let may_be = verdict.held_at.is_empty() && deaths < UNTIL_HELD;
        if is_held || !may_be || !verdict.misses.is_empty() {
            if !is_held {
                let held_at = &verdict.held_at;
                let miss = format!("held at {held_at:?}, not at {point:?}, {deaths} deaths");
                verdict.misses.push(miss);
            }
            return Ok(end);
        }
    }
}

/// The next boot finds what the crash kernel saved. Gives when that was, as [`told`].
fn saved(stage: &Stage, way: &Way) -> Result<f64> {
    let mut vm = Vm::boot(&stage.machine)?;
    let saved = vm.ask("list /var/lib/lastgasp/crash/127.0.0.1-now");
    let saved = saved.context("the crash kernel saved nothing")?;
    ensure!(
        saved == "vmcore-dmesg.txt",
        "the crash kernel saved {saved:?}"
    );
    node::start_agent(&mut vm, "--crash-dir /var/lib/lastgasp/crash")?;
    let ms = told(stage, way, Channel::Vmcore)?;
    vm.ask("wait /var/lib/lastgasp/records.json 10000")?;
    Ok(ms)
}

/// Starts the agent, and waits for a heartbeat behind its hello.
fn start(vm: &mut Vm) -> Result<()> {
    node::start_agent(vm, "")?;
    node::until_heartbeat(vm, Instant::now() + TOLD).map(drop)
}

/// Kills the machine. What of it gets out is looked at, and nothing is missed.
fn die(mut vm: Vm, way: &Way) -> Result<End> {
    let since = Instant::now();
    node::die(&mut vm, way, Duration::ZERO, 0)?;
    let outcome = vm.finish(END)?;
    let verdict = verdict::judge(way, Demand::End, since, &outcome)?;
    Ok((verdict, since, outcome))
}

/// Has the next boot of a machine that did end say by this channel how it died, and
/// gives the verdict when.
fn say(verdict: &mut Verdict, channel: &'static str, told: impl FnOnce() -> Result<f64>) {
    if !verdict.misses.is_empty() {
        return;
    }
    let said = match told() {
        Ok(ms) => ("yes".to_owned(), Some(ms)),
        Err(error) => {
            verdict.misses.push(format!("next boot: {error:#}"));
            ("no".to_owned(), None)
        }
    };
    verdict.channels.insert(channel, said);
}

/// Waits until the one death has its reason by this channel. Gives when that was, in
/// milliseconds after the agent was ready.
fn told(stage: &Stage, way: &Way, by: Channel) -> Result<f64> {
    let start = Instant::now();
    let death = loop {
        let mut deaths = stage.annotator.deaths()?;
        let is_by = |e: &Evidence| e.channel == by;
        if let [one] = &mut deaths[..]
            && one.death.evidence.iter().any(is_by)
        {
            break deaths.swap_remove(0).death;
        }
        ensure!(
            start.elapsed() < TOLD,
            "it told nothing by {by:?}: {:?}",
            deaths.iter().map(|d| &d.death.evidence).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let ms = start.elapsed().as_secs_f64() * 1e3;
    ensure!(
        (death.state, death.proof) == (DeathState::Returned, Proof::P4),
        "{:?} {:?}",
        death.state,
        death.proof
    );
    let reason = engine::reason_code(&death);
    ensure!(reason == way.code, "reason {reason:?}, not {:?}", way.code);
    let gasped = death.evidence.iter().any(|e| e.channel == Channel::Gasp);
    let should = by == Channel::Vmcore;
    ensure!(gasped == should, "the gasp got out: {gasped}");
    Ok(ms)
}

/// Whether the records leave pstore; `wanted` is how long that is waited for.
fn gone(vm: &mut Vm, wanted: bool) -> Result<bool> {
    let patience = Duration::from_secs(if wanted { 10 } else { 1 });
    let until = Instant::now() + patience;
    loop {
        let left = vm.ask("list /sys/fs/pstore")?;
        if !left.contains("dmesg-") {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
