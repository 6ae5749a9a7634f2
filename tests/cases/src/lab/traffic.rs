//! Packets that are as they should be, in great numbers: the agent looks at them, and foretells
//! nothing.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::progress;
use harness::vm::Vm;

use super::stories::{Stage, beats};
use super::ways;
use crate::node;

/// Packets that GRO merges, of so many segments each (`tests/guest/src/traffic.rs`).
const MERGED: u64 = 3000;
const SEGMENTS: u64 = 19;

/// One pod sends to another for so long.
const SENT_MS: u64 = 5000;

/// Less than that in this time would be no load, in bytes.
const LEAST: u64 = 2_000_000;

/// Longer than an agent looks at the cost before it finds it too much, and how often that is
/// tried: how many packets these machines get through depends on the host.
const DEAR_MS: u64 = 15_000;
const TRIES: usize = 3;

/// What an agent's log says at its end of the packets that were taken apart.
#[derive(Debug)]
struct Seen {
    packets: u64,
    judged: u64,
    unjudged: u64,
    foreseen: u64,
    each_ns: u64,
}

impl Seen {
    /// Ends the agent, and reads its log.
    fn by(vm: &mut Vm) -> Result<Self> {
        vm.ask("stop /lastgasp 10000")?;
        let line = vm.ask("last /run/agent.log packets that skb_segment took apart")?;
        let number = |name: &str| -> Result<u64> {
            let words = &mut line.split(' ');
            let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let found = found.with_context(|| format!("no {name} in {line:?}"))?;
            found
                .parse()
                .with_context(|| format!("{name} is {found:?}"))
        };
        Ok(Self {
            packets: number("packets")?,
            judged: number("judged")?,
            unjudged: number("unjudged")?,
            foreseen: number("foreseen")?,
            each_ns: number("each_ns")?,
        })
    }

    fn nothing_foreseen(&self) -> Result<()> {
        ensure!(self.foreseen == 0, "packets foretold to kill: {self:?}");
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} packets, {} with a list, {} of those not judged, {} ns each",
            self.packets,
            self.judged + self.unjudged,
            self.unjudged,
            self.each_ns
        )
    }
}

/// See `scenes`.
pub fn merged(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    let segments: u64 = vm.ask(&format!("merged {MERGED}"))?.parse()?;
    // Some come too late to be merged with the others, and are taken apart all the same.
    ensure!(
        segments > MERGED * SEGMENTS / 2,
        "only {segments} segments were made of {MERGED} packets"
    );
    let seen = Seen::by(&mut vm)?;
    progress::say(&format!("merged: {seen}"));
    seen.nothing_foreseen()?;
    ensure!(seen.judged > MERGED / 2, "most had no list: {seen:?}");
    stage.no_death()
}

/// See `scenes`.
pub fn between_pods(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    for kind in ["tcp", "vxlan", "udp"] {
        let bytes: u64 = vm.ask(&format!("between-pods {kind} {SENT_MS}"))?.parse()?;
        let seen = Seen::by(&mut vm)?;
        progress::say(&format!("{kind}: {bytes} bytes, {seen}"));
        ensure!(bytes > LEAST, "only {bytes} bytes of {kind} arrived");
        ensure!(seen.packets > 100, "hardly a packet of {kind}: {seen:?}");
        seen.nothing_foreseen()?;
        node::start_agent(&mut vm, "")?;
    }
    beats(&mut vm, 2)?;
    stage.no_death()
}

/// See `scenes`.
pub fn dear(stage: &mut Stage) -> Result<()> {
    let mut vm = Vm::boot(&stage.machine)?;
    node::start_agent(&mut vm, "--predict-cost-max 1")?;
    let mut tries = 0;
    while vm
        .ask("last /run/agent.log not looked at any more")?
        .is_empty()
    {
        ensure!(tries < TRIES, "that is no load: {}", Seen::by(&mut vm)?);
        tries += 1;
        vm.ask(&format!("between-pods udp {DEAR_MS}"))?;
    }
    let seen = Seen::by(&mut vm)?;
    progress::say(&format!("too dear: {seen}"));
    // One that may not cost anything looks at nothing.
    node::start_agent(&mut vm, "--predict-cost-max 0")?;
    vm.ask("between-pods udp 2000")?;
    vm.ask("stop /lastgasp 10000")?;
    let said = vm.ask("last /run/agent.log took apart")?;
    ensure!(said.is_empty(), "it looked at packets: {said}");
    stage.no_death()
}

/// A second card: packets come in by it, and a second collector, that never answers, is
/// behind it.
const SECOND: &str = "10.3.0.1";
const BEHIND: &str = "10.3.0.2";

/// The next agent has switched everything within this: what is lost of its hello or the
/// advice comes again after a minute, and it looks for devices every ten seconds.
const ADVISED: Duration = Duration::from_secs(100);

/// The machine has died of traffic and come to its end within this.
const DEAD: Duration = Duration::from_secs(20);

/// What `lastgasp mitigate` says in the machine.
fn mitigate(vm: &mut Vm, command: &str) -> Result<String> {
    let said = vm.ask(&format!("output 10000 /lastgasp mitigate {command}"))?;
    Ok(said.replace('\x1e', "\n"))
}

/// A node whose agent may switch features off.
fn mitigating(stage: &Stage) -> Result<Vm> {
    let mut vm = Vm::boot(&stage.machine)?;
    vm.ask(&format!("open-road {SECOND}"))?;
    vm.ask(&format!(
        "sh /bin/busybox arp -s {BEHIND} 02:00:00:00:00:03"
    ))?;
    let flags = format!(
        "--mitigate gso=apply --collector {BEHIND}:{}",
        node::COLLECTOR_PORT
    );
    node::start_agent(&mut vm, &flags)?;
    beats(&mut vm, 2)?;
    Ok(vm)
}

/// It dies of the traffic.
fn die_of_it(mut vm: Vm) -> Result<()> {
    let way = ways::named("segment-traffic").context("no such way")?;
    node::die(&mut vm, way, Duration::ZERO, 0)?;
    let outcome = vm.finish(DEAD)?;
    let mut lines = outcome.console.iter().map(|(_, line)| line);
    ensure!(
        outcome.ended && lines.any(|line| line.contains("kernel BUG at net/core/skbuff.c")),
        "the traffic did not kill it"
    );
    Ok(())
}

/// See `scenes`.
pub fn mitigated(stage: &mut Stage) -> Result<()> {
    die_of_it(mitigating(stage)?)?;
    let mut vm = mitigating(stage)?;
    let until = Instant::now() + ADVISED;
    loop {
        let said = mitigate(&mut vm, "status")?;
        let is_off = |feature: &str| said.contains(feature) && said.contains("applied");
        if is_off("tap0: ") && is_off("rx-gro") && is_off("cve-2024-42281") {
            progress::say(&format!("mitigated: {}", said.lines().next().unwrap_or("")));
            break;
        }
        if Instant::now() > until {
            let node = format!("node/{}", node::NAME);
            let why = stage.annotator.ask(&["why", &node])?;
            bail!("nothing is switched off: {said}{why}");
        }
        beats(&mut vm, 1)?;
    }
    vm.ask("mangled")
        .context("the same traffic, with GRO and GSO off")?;
    beats(&mut vm, 2)?;
    let dead = stage.annotator.deaths()?.len();
    ensure!(dead == 1, "{dead} deaths, where one was died");
    let undone = mitigate(&mut vm, "undo")?;
    ensure!(
        undone.contains("tap0: on again"),
        "nothing was undone: {undone}"
    );
    die_of_it(vm).context("with GRO and GSO on again")
}
