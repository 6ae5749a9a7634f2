//! What follows from what was said: `step(now, input) -> outputs`.
//!
//! Pure and synchronous. The state of a death is a function of a few facts
//! (which words were heard, the newest sign of life, whether another boot came
//! after), each of which only grows, so neither the order of datagrams nor
//! their number changes the verdict.

mod account;
mod annotations;
mod asked;
mod case;
mod explain;
mod fleet;
mod io;
mod lease;
mod log;
mod mitigation;
mod overheard;
mod record;
mod removal;
mod text;
mod unheard;
mod verdict;

use std::collections::BTreeMap;

use case::Case;
use fleet::Fleet;
use lease::LeaseWatch;
use overheard::Unproven;
use record::Found;
use verdict::Facts;

use crate::model::{
    Body, BootId, Channel, Death, DeathState, Gasp, Inventory, NodeName, Notice, Proof, Report,
    Stop, Timestamp, Word,
};

pub use annotations::{Keys, VALUE_MAX, annotations, is_prefix};
pub use asked::{asker_text, stopped, told_text};
pub(crate) use explain::is_ordered;
pub use explain::{Retry, by, packet_text, reason, reason_code, retry, silent};
pub use io::{Action, Input, KnownNode, Limits, Output, Stats};
pub use log::merged;
pub use mitigation::mitigation_text;
pub use removal::{removed, shows_more};
pub use text::{escaped, is_plain, rfc3339};

/// Longest time one step can move the engine's own clock, in milliseconds.
///
/// Silence is measured in time the engine itself lived through. A wall clock
/// set forward, or an annotator that was stopped for an hour, therefore proves
/// no silence: the loop ticks every second, so two seconds is a late tick.
const STEP_MAX_MS: u64 = 2_000;

type Key = (NodeName, BootId);

/// The decisions. See the module.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    fleet: Fleet,
    cases: BTreeMap<Key, Case>,
    /// Of boots that no case is of.
    unproven: Unproven,
    last: Option<Timestamp>,
    clock_ms: u64,
    evicted_deaths: u64,
    unplaced: u64,
    cut: case::Cut,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            fleet: Fleet::new(limits.nodes),
            cases: BTreeMap::new(),
            unproven: Unproven::default(),
            last: None,
            clock_ms: 0,
            evicted_deaths: 0,
            unplaced: 0,
            cut: case::Cut::default(),
        }
    }

    /// Takes back what an earlier process recorded. Nothing follows from it
    /// by itself: pending actions are in the store, not here.
    pub fn restore(
        &mut self,
        nodes: impl IntoIterator<Item = KnownNode>,
        deaths: impl IntoIterator<Item = Death>,
    ) {
        let mut deaths: Vec<Death> = deaths.into_iter().collect();
        // Older boots first, so that the newest ends up as the running one.
        deaths.sort_by_key(|d| d.detected_at);
        for mut death in deaths {
            if !self.limits.leases {
                death.lease = LeaseWatch::default().opinion_of(false);
            }
            self.fleet.restore(&death.node, death.boot, self.clock_ms);
            let key = (death.node.clone(), death.boot);
            if death.proof == Proof::P0 {
                self.unproven.put(key, death);
                continue;
            }
            self.make_room();
            self.cases
                .insert(key, Case::restore(death, self.clock_ms, &self.limits));
        }
        for known in nodes {
            let boot = self.fleet.restore(&known.node, known.boot, self.clock_ms);
            boot.noted = known.noted;
            // What its hello says of the boot before it may be still to come.
            boot.introduced = known.inventory.is_some();
            // When is not stored; whatever it says after undoes it.
            boot.life.goodbye_ns = known.stopped.into();
            if let Some(inventory) = known.inventory {
                boot.introduce(&inventory);
            }
            if let Some(silence) = known.silence.filter(|s| s.boot == known.boot) {
                boot.noted = silence.heard.or(known.noted);
                boot.lease.opinion = silence.lease;
                self.fleet.restore_silence(&known.node, silence.since);
            }
            // A death of an earlier boot may have been found later.
            self.fleet.put_last(&known.node, known.boot);
        }
    }

    /// Takes in one fact at a time `now` and says what follows from it.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        if let Input::Overheard { node, boot, report } = input {
            // Not even time passes: whoever sends these must not prove silence.
            self.overheard(now, node, boot, report, &mut out);
            return out;
        }
        let passed = self.last.map_or(0, |last| now.since(last));
        self.clock_ms += passed.min(STEP_MAX_MS);
        self.last = Some(now);
        match input {
            Input::Said(gasp) => self.said(now, gasp, &mut out),
            Input::Decoded { node, boot, report } => {
                self.meet(now, &node, None, boot, &mut out);
                self.decoded(now, node, boot, report, &mut out);
            }
            Input::Leased { node, lease } => self.lease(now, &node, lease, &mut out),
            Input::Recorded {
                node,
                by,
                record,
                printed_ns,
                report,
            } => {
                self.meet(now, &node, None, by, &mut out);
                let found = Found {
                    by,
                    record,
                    printed_ns,
                    report,
                };
                self.recorded(now, node, found, &mut out);
            }
            Input::NodeDeleted(deleted) => self.removed(now, *deleted, &mut out),
            Input::Tick => self.tick(now, &mut out),
            Input::Overheard { .. } => {}
        }
        out
    }

    /// What is held and what was dropped.
    pub fn stats(&self) -> Stats {
        Stats {
            nodes: self.fleet.len(),
            silent: self.fleet.silent(),
            deaths: self.cases.len() + self.unproven.len(),
            evicted_nodes: self.fleet.evicted(),
            evicted_deaths: self.evicted_deaths,
            records_unplaced: self.unplaced,
            evidence_cut: self.cut.evidence,
            words_cut: self.cut.words,
            unproven_dropped: self.unproven.dropped(),
        }
    }

    /// The deaths in memory, by node and boot.
    pub fn deaths(&self) -> impl Iterator<Item = &Death> {
        let cases = self.cases.values().map(|case| &case.death);
        cases.chain(self.unproven.deaths())
    }

    fn said(&mut self, now: Timestamp, gasp: Gasp, out: &mut Vec<Output>) {
        let uid = gasp.node_uid.clone();
        self.meet(now, &gasp.node, uid.clone(), gasp.boot, out);
        let mono = gasp.mono_ns;
        let boot = self.fleet.recall(&gasp.node, gasp.boot, self.clock_ms);
        let life = &mut boot.life;
        let fresh = mono > life.newest_ns();
        match gasp.body {
            Body::Hello(inventory) => {
                life.alive_ns = life.alive_ns.max(mono);
                boot.introduce(&inventory);
                let previous = inventory.previous.clone();
                self.seen(&gasp.node, uid, gasp.boot, Some(inventory), out);
                self.look_back(now, &gasp.node, gasp.boot, previous, out);
                self.alive(now, &(gasp.node, gasp.boot), fresh, out);
            }
            // What the record says comes as `Recorded`.
            Body::Heartbeat | Body::Record(_) => {
                life.alive_ns = life.alive_ns.max(mono);
                self.alive(now, &(gasp.node, gasp.boot), fresh, out);
            }
            Body::Survived => {
                life.alive_ns = life.alive_ns.max(mono);
                life.survived_ns = life.survived_ns.max(mono);
                self.alive(now, &(gasp.node, gasp.boot), fresh, out);
            }
            Body::Goodbye(told) => {
                life.goodbye_ns = life.goodbye_ns.max(mono);
                life.survived_ns = life.survived_ns.max(mono);
                self.seen(&gasp.node, uid, gasp.boot, None, out);
                let runs = self.fleet.current(&gasp.node) == Some(gasp.boot);
                if let Some(told) = told.filter(|_| runs && fresh) {
                    out.push(Output::Stopped(Box::new(Stop {
                        node: gasp.node.clone(),
                        boot: gasp.boot,
                        at: now,
                        told: *told,
                    })));
                }
                self.alive(now, &(gasp.node, gasp.boot), fresh, out);
            }
            Body::Word(word) => {
                let sent_after_ms = mono.saturating_sub(word.at_ns) / 1_000_000;
                let happened = match gasp.wall_ns / 1_000_000 {
                    // No clock at all on the node.
                    0 => now,
                    ms => Timestamp(ms.saturating_sub(sent_after_ms)),
                };
                self.word(now, &(gasp.node, gasp.boot), uid, word, happened, out);
            }
            // The decoder reads them; they come back as `Decoded`.
            Body::Lines(_) => {}
        }
    }

    /// Notes that this boot spoke, and what follows if no boot of this name
    /// was known: the one before it is over.
    fn meet(
        &mut self,
        now: Timestamp,
        node: &NodeName,
        uid: Option<String>,
        boot: BootId,
        out: &mut Vec<Output>,
    ) {
        let met = self.fleet.meet(now, node, boot, self.clock_ms);
        if met.broke_silence {
            out.push(Output::SilenceOver(node.clone()));
        }
        if !met.is_new {
            return;
        }
        self.seen(node, uid, boot, None, out);
        let all = (node.clone(), BootId([0; 16]))..=(node.clone(), BootId([255; 16]));
        let ended: Vec<Key> = self
            .cases
            .range(all)
            .filter(|(key, case)| key.1 != boot && !case.returned)
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            if let Some(case) = self.cases.get_mut(&key) {
                let text = format!("node is back with boot {boot}");
                case.end_known(Channel::Heartbeat, &text);
                case.note(now, Channel::Heartbeat, text, &self.limits, &mut self.cut);
            }
            self.settle(now, &key, out);
        }
    }

    /// Says what is to be stored of a node, if this is the boot that runs there.
    fn seen(
        &self,
        node: &NodeName,
        uid: Option<String>,
        boot: BootId,
        inventory: Option<Box<Inventory>>,
        out: &mut Vec<Output>,
    ) {
        if self.fleet.current(node) != Some(boot) {
            return;
        }
        let life = self.fleet.find(node, boot).map(|boot| boot.life);
        let life = life.unwrap_or_default();
        out.push(Output::NodeSeen {
            node: node.clone(),
            uid,
            boot,
            inventory,
            stopped: life.stopped(),
            up_ms: life.newest_ns() / 1_000_000,
        });
    }

    /// A sign of life of this boot; `fresh`: none sent later is known.
    fn alive(&mut self, now: Timestamp, key: &Key, fresh: bool, out: &mut Vec<Output>) {
        let facts = self.facts(key);
        let Some(case) = self.cases.get_mut(key) else {
            self.refute(now, key, fresh, out);
            return;
        };
        if fresh {
            case.quiet_since = self.clock_ms;
            case.silent = false;
            case.take_lease(LeaseWatch::default().opinion_of(self.limits.leases));
        }
        if case.goes_on(&facts, self.clock_ms) {
            self.fleet.put_last(&key.0, key.1);
            // Nor is it the one that says how the other boot ended.
            self.fleet.introduce(&key.0, key.1);
            self.seen(&key.0, None, key.1, None, out);
        }
        self.settle(now, key, out);
    }

    fn word(
        &mut self,
        now: Timestamp,
        key: &Key,
        uid: Option<String>,
        word: Word,
        happened: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let facts = self.facts(key);
        self.open(now, key, Some(word.notice), happened);
        let Some(case) = self.cases.get_mut(key) else {
            return;
        };
        let text = explain::word_text(&word);
        let provisional = explain::provisional(&word);
        case.begin_again_if_over(now, &word, &facts);
        if !case.hear(word, happened, &facts, &mut self.cut) {
            return;
        }
        if uid.is_some() {
            case.death.node_uid = uid;
        }
        case.quiet_since = self.clock_ms;
        case.note(now, Channel::Gasp, text, &self.limits, &mut self.cut);
        case.improve(provisional);
        self.settle(now, key, out);
    }

    fn decoded(
        &mut self,
        now: Timestamp,
        node: NodeName,
        boot: BootId,
        report: Report,
        out: &mut Vec<Output>,
    ) {
        let key = (node, boot);
        let facts = self.facts(&key);
        if !self.cases.contains_key(&key) {
            // The words were lost, the lines came. Lines alone never say that
            // the boot is over: whoever may write to the kernel's log could.
            let word = explain::word_of(&report, facts.life.newest_ns());
            self.open(now, &key, Some(word.notice), now);
            if let Some(case) = self.cases.get_mut(&key) {
                case.hear(word, now, &facts, &mut self.cut);
            }
        }
        let Some(case) = self.cases.get_mut(&key) else {
            return;
        };
        let text = format!("the log says: {}", report.title);
        if !case.improve(report) && !case.is_new() {
            return;
        }
        case.note(now, Channel::Gasp, text, &self.limits, &mut self.cut);
        self.settle(now, &key, out);
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let silence_ms = self.limits.silence_ms;
        for (node, boot) in self.fleet.tick(now, self.clock_ms, silence_ms) {
            self.tell_silence(&node, boot, out);
        }
        self.look(out);
        let silent: Vec<Key> = self
            .cases
            .iter()
            .filter(|(key, case)| {
                case.death.state == DeathState::Dead
                    && !case.silent
                    && self.clock_ms - case.quiet_since >= self.limits.silence_ms
                    && !self.facts(key).life.stopped()
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in silent {
            if let Some(case) = self.cases.get_mut(&key) {
                case.silent = true;
                let text = verdict::quiet_text(&self.limits);
                case.note(now, Channel::Heartbeat, text, &self.limits, &mut self.cut);
            }
            self.settle(now, &key, out);
        }
    }

    /// Opens a case for this boot if there is none.
    fn open(&mut self, now: Timestamp, key: &Key, notice: Option<Notice>, happened: Timestamp) {
        if self.cases.contains_key(key) {
            return;
        }
        self.make_room();
        let over = self.fleet.current(&key.0).is_some_and(|b| b != key.1);
        let mut case = Case::open(now, key, notice, happened, over);
        case.death.lease = LeaseWatch::default().opinion_of(self.limits.leases);
        // From here on it is a part of what is known.
        case.death.evidence = self.unproven.take(key);
        let boot = self.fleet.find(&key.0, key.1);
        if let Some((at, text)) = boot.and_then(|boot| boot.removed.clone()) {
            case.note(at, Channel::NodeObject, text, &self.limits, &mut self.cut);
        }
        self.cases.insert(key.clone(), case);
    }

    /// Drops the death that matters least if there is no room for another.
    fn make_room(&mut self) {
        while self.cases.len() >= self.limits.deaths.max(1) {
            let victim = self
                .cases
                .iter()
                .min_by_key(|(_, case)| (case.is_open(), case.death.detected_at))
                .map(|(key, _)| key.clone());
            let Some(victim) = victim else { return };
            self.cases.remove(&victim);
            self.evicted_deaths += 1;
        }
    }

    fn facts(&self, key: &Key) -> Facts {
        let boot = self.fleet.find(&key.0, key.1);
        let newest = boot.map(|boot| boot.life).unwrap_or_default();
        let kept = self.cases.get(key).map(|case| case.life);
        Facts {
            life: newest.and(kept.unwrap_or_default()),
            heard: boot.and_then(fleet::Boot::last_heard),
            revoke_ms: self.limits.revoke_ms,
        }
    }

    /// Judges a case anew and says what changed.
    fn settle(&mut self, now: Timestamp, key: &Key, out: &mut Vec<Output>) {
        let facts = self.facts(key);
        let boot = self.fleet.find(&key.0, key.1);
        let release = boot.and_then(|boot| boot.kernel_release.clone());
        if let Some(case) = self.cases.get_mut(key) {
            if case.death.kernel_release.is_none() {
                case.death.kernel_release = release;
            }
            case.settle(now, &facts, &self.limits, &mut self.cut, out);
        }
    }
}
