//! The annotator's loop: receiver, assembler, engine, store, executor.
//!
//! Facts of one batch become one transaction, then actions start at once; no
//! timer lies between a datagram and the first write. What the store cannot
//! take (a full disk) is kept in memory, acted on, and stored later.

mod asked;
mod backlog;
mod cluster;
mod executor;
mod lanes;
mod mitigate;
mod overhear;
mod prune;
mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::engine::{Engine, Input, Keys, Limits, Output, Stats};
use agent_core::model::{Body, Death, DeathName, DeathState, Gasp, SeenObject, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use backlog::{Backlog, Lost};
use cluster::Cluster;
pub use executor::Executor;
use executor::Tried;
use lanes::Lanes;
use mitigate::Mitigations;
use prune::Pruning;

use crate::channels::gasp::{Assembler, Limits as AssemblerLimits};
use crate::channels::netconsole::{Addresses, Heard};
use crate::gasp::queue::Taker;
use crate::gasp::receipt::{Receipt, Receipts};
use crate::gasp::receiver::Received;
use crate::store::{self, BootLines, Change, SeenNode, Store, Task};
use crate::telemetry::{Metrics, with_causes};

/// Messages taken from the queue at once.
const BATCH: usize = 256;
/// Tries of an action that is refused for what it says.
const REFUSALS_MAX: u32 = 5;

/// How long after its first words a survived oops goes on printing, at most,
/// in nanoseconds. Only for deaths out of the store, which does not keep when
/// they were refuted.
const OOPS_PRINTS_NS: u64 = 3_000_000_000;

/// What the loop shares with the pages that show how it is.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Why the store does not take anything, if so.
    pub store_fails: Option<String>,
    /// When the loop last came round.
    pub round_at: Timestamp,
    /// The engine's counts.
    pub stats: Stats,
}

/// The loop and all it holds.
pub struct Annotator {
    engine: Engine,
    assembler: Assembler,
    store: Arc<Store>,
    executor: Executor,
    cluster: Cluster,
    /// What nodes show that is not stored yet.
    objects: Vec<SeenObject>,
    keys: Arc<Keys>,
    metrics: Arc<Metrics>,
    addresses: Arc<Addresses>,
    lanes: Lanes,
    mitigations: Mitigations,
    running: JoinSet<Done>,
    backlog: Backlog,
    /// Tells nodes that their records are in the store.
    receipts: Option<Receipts>,
    state: watch::Sender<State>,
    pruning: Pruning,
}

struct Done {
    task: Task,
    death: Arc<Death>,
    tried: Tried,
}

impl Annotator {
    /// Takes up what the store holds: deaths, nodes, and actions to be done.
    /// To be called in a runtime.
    pub fn new(
        limits: Limits,
        store: Arc<Store>,
        executor: Executor,
        keys: Keys,
        metrics: Arc<Metrics>,
        addresses: Arc<Addresses>,
    ) -> Result<(Self, watch::Receiver<State>), store::Error> {
        let count = u32::try_from(limits.deaths).unwrap_or(u32::MAX);
        let deaths = store.deaths_to_hold(count)?;
        let mut engine = Engine::new(limits);
        let mut lanes = Lanes::default();
        let by_name: BTreeMap<DeathName, Arc<Death>> = deaths
            .iter()
            .map(|death| (death.name.clone(), Arc::new(death.clone())))
            .collect();
        for task in store.tasks()? {
            if let Some(death) = by_name.get(task.action.death()) {
                lanes.push(death, task, Instant::now());
            }
        }
        let assembling = AssemblerLimits::default();
        let mut assembler = Assembler::new(assembling);
        for death in deaths.iter().take(assembling.boots) {
            let ended_ns = death
                .word
                .as_ref()
                .map(|word| word.at_ns.saturating_add(OOPS_PRINTS_NS));
            forget_survived(&mut assembler, death, ended_ns);
        }
        engine.restore(store.known_nodes(limits.nodes)?, deaths);
        let objects = store.known_objects(limits.nodes)?;
        let (state, watch) = watch::channel(State::default());
        let annotator = Self {
            engine,
            assembler,
            store,
            cluster: Cluster::start(&executor, objects),
            objects: Vec::new(),
            executor,
            keys: Arc::new(keys),
            metrics,
            addresses,
            lanes,
            mitigations: Mitigations::new(limits.nodes),
            running: JoinSet::new(),
            backlog: Backlog::default(),
            receipts: None,
            state,
            pruning: Pruning::new(),
        };
        Ok((annotator, watch))
    }

    /// Gives receipts for records by these.
    #[must_use]
    pub fn with_receipts(mut self, receipts: Receipts) -> Self {
        self.receipts = Some(receipts);
        self
    }

    /// Runs until `stop` says so or the receiver ends.
    pub async fn run(
        mut self,
        mut queue: Taker<Received>,
        mut overheard: mpsc::Receiver<Heard>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        self.start();
        loop {
            let due = self.lanes.next_due();
            tokio::select! {
                biased;
                () = told_to_stop(&mut stop) => break,
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    if let Ok(done) = done {
                        self.finish(done).await;
                    }
                }
                count = queue.take(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.take(batch.drain(..)).await;
                }
                told = self.cluster.next() => self.told(told).await,
                _ = second.tick() => self.tick().await,
                Some(heard) = overheard.recv() => self.overhear(heard).await,
                () = until(due), if due.is_some() => {}
                turn = self.pruning.next(&self.store) => self.pruning.ended(turn, &self.metrics),
            }
            self.start();
        }
        self.stop().await;
    }

    async fn take(&mut self, batch: impl Iterator<Item = Received>) {
        let mut change = Change::default();
        let mut receipts = Vec::new();
        let mut to_advise = Vec::new();
        for mut received in batch {
            receipts.extend(Receipt::of(&received));
            if self.mitigate(&received) {
                to_advise.push(received.clone());
            }
            self.name_pods(&mut received.gasp, &change).await;
            let found = match &received.gasp.body {
                Body::Record(record) => Some((received.gasp.node.clone(), record.clone())),
                _ => None,
            };
            let by = received.gasp.boot;
            self.addresses
                .learn(received.source.ip(), &received.gasp.node, received.at);
            let update = self.assembler.take(&received);
            let (at, session) = (received.at, received.gasp.session);
            let mono_ns = received.gasp.mono_ns;
            let said = self.engine.step(at, Input::Said(received.gasp));
            for output in &said {
                if let Output::Record(death) = output {
                    let word = death.word.as_ref();
                    // An event may be in print already that this sign of life
                    // does not refute: half way is past the one and before the other.
                    let ended_ns = word.map(|word| word.at_ns.midpoint(mono_ns));
                    forget_survived(&mut self.assembler, death, ended_ns);
                }
            }
            self.collect(said, &mut change);
            if let Some((node, record)) = found {
                self.take_record(at, node, by, record, &mut change);
            }
            let Some(update) = update else { continue };
            let (node, boot) = (update.node, update.boot);
            if !update.fresh_lines.is_empty() {
                change.lines.push(BootLines {
                    node: node.clone(),
                    boot,
                    session,
                    lines: update.fresh_lines,
                });
            }
            if let Some(report) = update.report {
                let decoded = Input::Decoded { node, boot, report };
                let decoded = self.engine.step(at, decoded);
                self.collect(decoded, &mut change);
            }
        }
        if self.commit(change).await {
            self.give(&receipts);
        }
        for hello in &to_advise {
            self.advise(hello);
        }
    }

    /// Names the pods of those who asked for an end. Without the store they stay uids.
    async fn name_pods(&self, gasp: &mut Gasp, change: &Change) {
        if asked::unnamed(gasp).is_empty() {
            return;
        }
        let pods = if let Some(pods) = asked::fresh_pods(change, gasp) {
            pods.to_vec()
        } else {
            let (node, boot) = (gasp.node.clone(), gasp.boot);
            let read = self.on_store(move |store| store.pods_of(&node, boot)).await;
            read.and_then(Result::ok).unwrap_or_default()
        };
        asked::name(asked::unnamed(gasp), &pods);
    }

    async fn tick(&mut self) {
        let mut change = self.seen_objects();
        let ticked = self.engine.step(now(), Input::Tick);
        self.collect(ticked, &mut change);
        let stats = self.engine.stats();
        self.metrics.engine(&stats);
        let losses = self.assembler.losses();
        self.metrics.set_lost("assembler_boot", losses.boots);
        self.metrics.set_lost("assembler_line", losses.lines);
        self.metrics.waiting(self.lanes.waiting());
        self.tell_mitigations();
        self.state.send_modify(|state| {
            state.round_at = now();
            state.stats = stats;
        });
        let store_fails = self.state.borrow().store_fails.is_some();
        if store_fails || !change.is_empty() {
            self.commit(change).await;
        }
    }

    fn collect(&self, outputs: Vec<Output>, change: &mut Change) {
        for output in outputs {
            match output {
                Output::Record(death) => {
                    self.metrics.death(&death);
                    tracing::info!(
                        death = %death.name,
                        state = ?death.state,
                        proof = ?death.proof,
                        reason = agent_core::engine::reason(&death),
                        "death"
                    );
                    backlog::put_death(&mut change.deaths, *death);
                }
                Output::Act(action) => backlog::put_action(&mut change.actions, action),
                Output::NodeSeen {
                    node,
                    uid,
                    boot,
                    inventory,
                    stopped,
                    up_ms,
                } => change.nodes.push(SeenNode {
                    node,
                    uid,
                    boot,
                    inventory,
                    stopped,
                    up_ms,
                }),
                Output::Stopped(stop) => {
                    tracing::info!(
                        node = %stop.node,
                        verdict = agent_core::engine::stopped(&stop),
                        "stopped"
                    );
                    change.stops.push(*stop);
                }
                Output::Silent(silence) => {
                    tracing::info!(
                        node = %silence.node,
                        verdict = agent_core::engine::silent(&silence),
                        "silent"
                    );
                    let node = silence.node.clone();
                    backlog::put_silence(&mut change.silences, node, Some(*silence));
                }
                Output::Removed(removal) => {
                    tracing::info!(
                        node = %removal.node,
                        verdict = agent_core::engine::removed(&removal),
                        "Node object gone"
                    );
                    change.removals.push((*removal, Vec::new()));
                }
                Output::SilenceOver(node) => {
                    tracing::info!(%node, "no longer silent");
                    backlog::put_silence(&mut change.silences, node, None);
                }
                Output::Look(node) => {
                    let lost = u64::from(!self.cluster.look(node));
                    self.metrics.lost("lease_look", lost);
                }
            }
        }
    }

    fn keep(&mut self, change: Change) {
        let Lost {
            lines,
            removals,
            objects,
            overheard,
        } = self.backlog.add(change);
        self.metrics.lost("lines_not_stored", lines);
        self.metrics.lost("node_objects_not_stored", objects);
        self.metrics.lost("netconsole_lines_not_stored", overheard);
        self.metrics.lost("removals_not_stored", removals);
    }

    /// Stores a change with what could not be stored before, and queues its
    /// actions whether or not that worked. True if it is stored.
    async fn commit(&mut self, change: Change) -> bool {
        let retrying = self.state.borrow().store_fails.is_some();
        if change.is_empty() && self.backlog.is_empty() && !retrying {
            return true;
        }
        let deaths: BTreeMap<DeathName, Arc<Death>> = change
            .deaths
            .iter()
            .map(|death| (death.name.clone(), Arc::new(death.clone())))
            .collect();
        for death in deaths.values() {
            self.lanes.refresh(death);
        }
        let actions = change.actions.clone();
        self.keep(change);
        let whole = Arc::new(self.backlog.take());
        let shared = Arc::clone(&whole);
        let stored = self
            .on_store(move |store| store.commit(now(), &shared))
            .await;
        let stored = self.note_store(stored);
        let is_stored = stored.is_some();
        let tasks = if let Some(committed) = stored {
            self.metrics.lost("lines_over_limit", committed.lines_cut);
            let cut = committed.overheard_cut;
            self.metrics.lost("netconsole_lines_over_limit", cut);
            committed.tasks
        } else {
            let kept = Arc::try_unwrap(whole).unwrap_or_else(|whole| (*whole).clone());
            self.keep(kept);
            let unstored = |action| Task {
                id: 0,
                action,
                attempts: 0,
            };
            actions.into_iter().map(unstored).collect()
        };
        for task in tasks {
            let name = task.action.death();
            let death = deaths.get(name).cloned().or_else(|| {
                let mut held = self.engine.deaths();
                held.find(|d| d.name == *name).cloned().map(Arc::new)
            });
            if let Some(death) = death {
                self.lanes.push(&death, task, Instant::now());
            }
        }
        is_stored
    }

    fn start(&mut self) {
        for (task, death) in self.lanes.start(Instant::now()) {
            let (executor, store, keys) = (
                self.executor.clone(),
                Arc::clone(&self.store),
                Arc::clone(&self.keys),
            );
            self.running.spawn(async move {
                let tried = executor
                    .carry_out(&store, &keys, &task.action, &death)
                    .await;
                Done { task, death, tried }
            });
        }
    }

    async fn finish(&mut self, done: Done) {
        let Done { task, death, tried } = done;
        for pod in &tried.pods {
            self.metrics.pod(pod);
        }
        let error = match tried.result {
            Ok(()) => {
                let took = now().since(death.detected_at);
                self.metrics.action(&task.action, "done");
                self.metrics.took(&task.action, took);
                tracing::info!(death = %death.name, action = task.action.word(), after_ms = took, pods = tried.pods.len(), "done");
                self.lanes.done(&death.name, Instant::now());
                // What comes next does not wait for the disk. Whoever ends in
                // between does it again, which changes nothing.
                self.start();
                self.forget(task.id).await;
                return;
            }
            Err(error) => error,
        };
        let refused = !error.is_transient() && task.attempts + 1 >= REFUSALS_MAX;
        let cause = with_causes(&error);
        if refused {
            self.metrics.action(&task.action, "refused");
            tracing::error!(death = %death.name, action = task.action.word(), cause, "given up: it is refused each time");
            self.lanes.done(&death.name, Instant::now());
            self.forget(task.id).await;
            return;
        }
        self.metrics.action(&task.action, "failed");
        let failed = self
            .lanes
            .failed(&death.name, error.retry_after(), Instant::now());
        if let Some((attempts, wait)) = failed {
            tracing::warn!(death = %death.name, action = task.action.word(), attempts, wait_ms = wait.as_millis() as u64, cause, "to be tried again");
            if task.id != 0 {
                let next = now().plus(wait.as_millis() as u64);
                let postponed = self
                    .on_store(move |store| store.postpone(task.id, attempts, next))
                    .await;
                self.note_store(postponed);
            }
        }
    }

    async fn forget(&mut self, task: i64) {
        if task != 0 {
            let finished = self.on_store(move |store| store.finish(task)).await;
            self.note_store(finished);
        }
    }

    /// Runs a call to the store where it may wait for the disk.
    async fn on_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Option<Result<T, store::Error>> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || call(&store)).await.ok()
    }

    /// Notes whether the store works, and gives what it gave.
    fn note_store<T>(&self, result: Option<Result<T, store::Error>>) -> Option<T> {
        let (value, fails) = match result {
            Some(Ok(value)) => (Some(value), None),
            Some(Err(error)) => (None, Some(with_causes(&error))),
            None => (None, Some("the call to the store panicked".to_owned())),
        };
        if let Some(why) = &fails {
            self.metrics.lost("store_write_failed", 1);
            if self.state.borrow().store_fails.is_none() {
                tracing::error!(why, "the store takes nothing; going on in memory");
            }
        }
        self.state.send_if_modified(|state| {
            let changed = state.store_fails != fails;
            state.store_fails = fails;
            changed
        });
        value
    }

    /// What runs is left to the next process: it is in the store until done.
    async fn stop(mut self) {
        self.running.shutdown().await;
        let change = self.seen_objects();
        if !change.is_empty() || !self.backlog.is_empty() {
            self.commit(change).await;
        }
    }
}

/// What a boot lived on after is not to be the reason of what ends it later;
/// its own [`Body::Survived`](agent_core::model::Body::Survived) may be lost.
fn forget_survived(assembler: &mut Assembler, death: &Death, ended_ns: Option<u64>) {
    let lived_on = matches!(death.state, DeathState::Survived | DeathState::Revoked);
    if let Some(ended_ns) = ended_ns.filter(|_| lived_on) {
        assembler.lived_on(&death.node, death.boot, ended_ns);
    }
}

/// The time now.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_millis() as u64))
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can say it any more: stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}
