//! What happens to nodes beside kernels that die, before a real annotator: which of it
//! is a death, and which must not be one.

use std::time::{Duration, Instant};

use agent_core::model::{Channel, DeathState, Proof, ReasonCode};
use anyhow::{Context as _, Result, bail, ensure};
use harness::disk;
use harness::vm::{Machine, Vm};
use lastgasp::store::Summary;
use tempfile::TempDir;

use super::ways;
use crate::annotator::Annotator;
use crate::node;

/// Shorter than the annotator's limit of silence, and longer; milliseconds of
/// `Limits::silence_ms` are 10,000.
const SHORT: Duration = Duration::from_secs(6);
const LONG: Duration = Duration::from_secs(16);

/// How long a machine is watched that is well.
const HEALTHY: Duration = Duration::from_secs(120);

/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A node that lives says so within this, once it may.
const SIGN: Duration = Duration::from_secs(20);

/// After an oops an agent waits this long before it says that it was survived: longer
/// than it takes to freeze the machine.
const SURVIVED: Duration = Duration::from_secs(20);

/// The annotator has written what follows from a datagram within this.
const WRITTEN: Duration = Duration::from_secs(10);

/// A machine's life in a story, at most.
const STORY: Duration = Duration::from_secs(300);

/// A machine and an annotator that hears it.
#[derive(Debug)]
pub struct Stage {
    /// The machine; its disk is empty.
    pub machine: Machine,
    /// The annotator.
    pub annotator: Annotator,
    /// Where both keep their files.
    pub dir: TempDir,
}

impl Stage {
    /// For a machine like this one, with a disk of its own.
    pub fn new(machine: &Machine) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lastgasp-story-")
            .tempdir()?;
        let annotator = Annotator::start(dir.path(), None)?;
        let image = dir.path().join("disk");
        disk::empty(&image)?;
        let mut machine = machine.clone();
        machine.disk = Some(image);
        machine.forward.clone_from(&annotator.listen);
        machine.limit = STORY;
        Ok(Self {
            machine,
            annotator,
            dir,
        })
    }

    /// Boots it, with its agent.
    pub fn boot(&self) -> Result<Vm> {
        let mut vm = Vm::boot(&self.machine)?;
        node::start_agent(&mut vm, "")?;
        beats(&mut vm, 2)?;
        Ok(vm)
    }

    /// The one death that there must be soon, once it stands so.
    fn death(&self, state: DeathState, within: Duration) -> Result<Summary> {
        let until = Instant::now() + within;
        loop {
            let mut deaths = self.annotator.deaths()?;
            if deaths.len() == 1 && deaths[0].death.state == state {
                return Ok(deaths.swap_remove(0));
            }
            if Instant::now() > until {
                let found: Vec<DeathState> = deaths.iter().map(|d| d.death.state).collect();
                bail!("one death {state:?} is expected, there are {found:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The node is known to be silent.
    fn silent(&self) -> Result<()> {
        let said = self
            .annotator
            .ask(&["why", &format!("node/{}", node::NAME)])?;
        ensure!(said.contains("Silent"), "it is not silent: {said}");
        Ok(())
    }

    /// There is none, and there was none.
    pub fn no_death(&self) -> Result<()> {
        let deaths = self.annotator.deaths()?;
        let reasons: Vec<&str> = deaths.iter().map(|d| d.reason.as_str()).collect();
        ensure!(deaths.is_empty(), "false deaths: {reasons:?}");
        Ok(())
    }
}

/// Waits for so many heartbeats that were sent from now on.
pub fn beats(vm: &mut Vm, count: u32) -> Result<()> {
    while vm.datagrams.try_recv().is_ok() {}
    let until = Instant::now() + SIGN + HEARTBEAT * count;
    for _ in 0..count {
        node::until_heartbeat(vm, until)?;
    }
    Ok(())
}

/// The boot before has ended, by what this channel says.
fn ended_without_a_word(stage: &Stage, by: Channel) -> Result<()> {
    let told = stage.death(DeathState::Returned, WRITTEN)?;
    let evidence: Vec<Channel> = told.death.evidence.iter().map(|e| e.channel).collect();
    ensure!(
        evidence.contains(&by),
        "evidence by {evidence:?}, not {by:?}"
    );
    ensure!(
        told.death.proof == Proof::P4,
        "proof {:?}",
        told.death.proof
    );
    ensure!(
        told.reason_code == ReasonCode::Unknown && told.reason.contains("without a word"),
        "reason {:?}",
        told.reason
    );
    Ok(())
}

/// See `scenes`.
pub fn power_cut(stage: &mut Stage) -> Result<()> {
    // Dropped, a machine is gone at once.
    drop(stage.boot()?);
    let _next = stage.boot()?;
    ended_without_a_word(stage, Channel::PreviousBoot)
}

/// See `scenes`.
pub fn disk_full(stage: &mut Stage) -> Result<()> {
    let mut vm = Vm::boot(&stage.machine)?;
    // Both end because there is no more room, the second also for what the first one's
    // metadata took.
    let fill = "! /bin/busybox dd if=/dev/zero bs=1k of=/var/lib/lastgasp/full";
    vm.ask(&format!("sh {fill}1; /bin/busybox sync; {fill}2"))?;
    node::start_agent(&mut vm, "")?;
    beats(&mut vm, 2)?;
    drop(vm);
    let _next = stage.boot()?;
    ended_without_a_word(stage, Channel::Heartbeat)
}

/// See `scenes`.
pub fn frozen_short(stage: &mut Stage) -> Result<()> {
    frozen(stage, SHORT)
}

/// See `scenes`.
pub fn frozen_long(stage: &mut Stage) -> Result<()> {
    frozen(stage, LONG)
}

fn frozen(stage: &Stage, time: Duration) -> Result<()> {
    let mut vm = stage.boot()?;
    vm.freeze()?;
    std::thread::sleep(time);
    stage.no_death()?;
    if time == LONG {
        stage.silent()?;
    }
    vm.go_on()?;
    beats(&mut vm, 3)?;
    stage.no_death()
}

/// See `scenes`.
pub fn frozen_oops(stage: &mut Stage) -> Result<()> {
    let mut vm = Vm::boot(&stage.machine)?;
    // A pod, that could be told.
    vm.ask("mkdir /var/log/pods/shop_cart-0_0b5e9c1a-52d4-4e55-9a3f-000000000000")?;
    let flags = format!("--survived-ms {}", SURVIVED.as_millis());
    node::start_agent(&mut vm, &flags)?;
    beats(&mut vm, 2)?;
    let way = ways::named("oops-survived").context("no such way")?;
    node::die(&mut vm, way, Duration::ZERO, 0)?;
    stage.death(DeathState::Suspected, WRITTEN)?;
    vm.freeze()?;
    std::thread::sleep(LONG);
    let told = stage.death(DeathState::Suspected, WRITTEN)?;
    ensure!(
        told.pods_annotated == 0,
        "{} pods were told",
        told.pods_annotated
    );
    vm.go_on()?;
    stage.death(DeathState::Survived, SURVIVED + SIGN).map(drop)
}

/// See `scenes`.
pub fn uplink_flap(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    for time in [SHORT, LONG] {
        vm.cable(false)?;
        std::thread::sleep(time);
        stage.no_death()?;
        if time == LONG {
            stage.silent()?;
        }
        vm.cable(true)?;
        beats(&mut vm, 3)?;
    }
    stage.no_death()
}

/// See `scenes`.
pub fn orderly_reboot(stage: &mut Stage) -> Result<()> {
    const COMMAND: &str = "systemctl --no-block reboot";
    let mut vm = stage.boot()?;
    vm.ask(&format!("ask {COMMAND}"))?;
    vm.ask("stop /lastgasp 10000")?;
    let way = ways::named("reboot-f").context("no such way")?;
    node::die(&mut vm, way, Duration::ZERO, 0)?;
    let outcome = vm.finish(SIGN)?;
    ensure!(outcome.ended, "the machine did not reboot");
    let mut next = stage.boot()?;
    beats(&mut next, 2)?;
    // The agent did not see the order any more, but who asked for it.
    let said = stage
        .annotator
        .ask(&["why", &format!("node/{}", node::NAME)])?;
    for part in [COMMAND, ways::POD_UID, "stopped in an orderly way"] {
        ensure!(said.contains(part), "nothing of {part:?}: {said}");
    }
    stage.no_death()
}

/// See `scenes`.
pub fn healthy(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    for cpu in 0..stage.machine.cpus {
        vm.ask(&format!("churn {cpu}"))?;
    }
    vm.ask("pour 10.0.2.2:9 1")?;
    let until = Instant::now() + HEALTHY;
    while Instant::now() < until {
        // Much is logged, and what kills no machine happens.
        vm.ask("flood 200 2000")?;
        vm.ask("sh echo w > /proc/sysrq-trigger; echo l > /proc/sysrq-trigger")?;
        beats(&mut vm, 1)?;
    }
    stage.no_death()
}

/// See `scenes`.
pub fn agent_upgrade(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    vm.ask("stop /lastgasp 10000")?;
    node::start_agent(&mut vm, "")?;
    beats(&mut vm, 2)?;
    vm.ask("sh /bin/busybox killall -9 lastgasp")?;
    let pid = node::start_agent(&mut vm, "")?;
    ensure!(pid > 1, "the agent has no PID of its own");
    beats(&mut vm, 12)?;
    stage.no_death()
}
