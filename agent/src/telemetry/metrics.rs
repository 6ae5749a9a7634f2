//! The annotator's metrics: every name in one place.
//!
//! Labels are bounded: reasons, proofs, actions and outcomes, never nodes or
//! pods. Durations are in seconds.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use agent_core::engine::{Action, Stats, reason_code};
use agent_core::model::Death;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Labels of a counter of deaths.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DeathLabels {
    reason: &'static str,
    proof: String,
}

/// Labels of a counter of actions.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ActionLabels {
    action: &'static str,
    result: &'static str,
}

/// Labels of what nodes do against bugs of their kernels.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MitigationLabels {
    action: &'static str,
    state: &'static str,
}

/// One label: what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ResultLabel {
    result: &'static str,
}

type Total = Counter<u64, AtomicU64>;

/// All metrics of one annotator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    deaths: Family<DeathLabels, Total>,
    actions: Family<ActionLabels, Total>,
    pods: Family<ResultLabel, Total>,
    datagrams: Family<ResultLabel, Total>,
    netconsole: Family<ResultLabel, Total>,
    losses: Family<ResultLabel, Total>,
    looks: Family<ResultLabel, Total>,
    /// Receipt of a death's first datagram to the end of its first write.
    first_write: Histogram,
    /// Receipt of a death's first datagram to its last pod.
    annotate: Histogram,
    nodes: Gauge,
    silent_nodes: Gauge,
    open_deaths: Gauge,
    waiting: Gauge,
    mitigations: Family<MitigationLabels, Gauge>,
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lastgasp");
        // From one millisecond to half a minute, in steps of two.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            deaths: Family::default(),
            actions: Family::default(),
            pods: Family::default(),
            datagrams: Family::default(),
            netconsole: Family::default(),
            losses: Family::default(),
            looks: Family::default(),
            first_write: seconds(),
            annotate: seconds(),
            nodes: Gauge::default(),
            silent_nodes: Gauge::default(),
            open_deaths: Gauge::default(),
            waiting: Gauge::default(),
            mitigations: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "What runs here", version);
        r.register(
            "node_deaths",
            "Records of node deaths, by what was newly known",
            metrics.deaths.clone(),
        );
        r.register("actions", "Actions tried", metrics.actions.clone());
        r.register(
            "pod_patches",
            "Pods of dead nodes, by what became of writing on them",
            metrics.pods.clone(),
        );
        r.register(
            "collector_datagrams",
            "Datagrams, by what became of them",
            metrics.datagrams.clone(),
        );
        r.register(
            "netconsole_datagrams",
            "Datagrams of netconsole, by what became of them",
            metrics.netconsole.clone(),
        );
        r.register(
            "losses",
            "What had to be dropped, by what it was",
            metrics.losses.clone(),
        );
        r.register(
            "lease_looks",
            "Looks at the Leases of nodes in doubt, by what they showed",
            metrics.looks.clone(),
        );
        r.register(
            "first_write_seconds",
            "First datagram of a death to the mark on its node",
            metrics.first_write.clone(),
        );
        r.register(
            "annotate_duration_seconds",
            "First datagram of a death to its last pod",
            metrics.annotate.clone(),
        );
        r.register("nodes", "Nodes known", metrics.nodes.clone());
        r.register(
            "silent_nodes",
            "Nodes whose heartbeats stopped without a goodbye",
            metrics.silent_nodes.clone(),
        );
        r.register(
            "deaths_held",
            "Deaths in memory",
            metrics.open_deaths.clone(),
        );
        r.register(
            "actions_waiting",
            "Actions that are not done yet",
            metrics.waiting.clone(),
        );
        r.register(
            "mitigations",
            "Nodes whose agents do something against a bug of their kernel, by how it stands",
            metrics.mitigations.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }

    /// A death was recorded, or more became known of it.
    pub fn death(&self, death: &Death) {
        let labels = DeathLabels {
            reason: reason_code(death).as_str(),
            proof: format!("{:?}", death.proof),
        };
        self.deaths.get_or_create(&labels).inc();
    }

    /// An action was tried.
    pub fn action(&self, action: &Action, result: &'static str) {
        let labels = ActionLabels {
            action: action.word(),
            result,
        };
        self.actions.get_or_create(&labels).inc();
    }

    /// Something became of a pod.
    pub fn pod(&self, result: &'static str) {
        self.pods.get_or_create(&ResultLabel { result }).inc();
    }

    /// An action that a death waited for is done, this long after the first
    /// datagram.
    pub fn took(&self, action: &Action, ms: u64) {
        let seconds = ms as f64 / 1e3;
        match action {
            Action::MarkNode(_) => self.first_write.observe(seconds),
            Action::AnnotatePods(_) => self.annotate.observe(seconds),
            Action::ReportOops(_)
            | Action::UpdateRecord(_)
            | Action::Revoke(_)
            | Action::NodeReturned(_) => {}
        }
    }

    /// So many of something were lost in all.
    pub fn set_lost(&self, what: &'static str, total: u64) {
        set(&self.losses, what, total);
    }

    /// So many more of something were lost.
    pub fn lost(&self, what: &'static str, more: u64) {
        if more > 0 {
            let label = ResultLabel { result: what };
            self.losses.get_or_create(&label).inc_by(more);
        }
    }

    /// A Lease was looked at.
    pub fn looked(&self, result: &'static str) {
        self.looks.get_or_create(&ResultLabel { result }).inc();
    }

    /// So many datagrams had this outcome in all.
    pub fn set_datagrams(&self, result: &'static str, total: u64) {
        set(&self.datagrams, result, total);
    }

    /// The same for datagrams of netconsole.
    pub fn set_netconsole(&self, result: &'static str, total: u64) {
        set(&self.netconsole, result, total);
    }

    /// What the engine holds and dropped.
    pub fn engine(&self, stats: &Stats) {
        self.nodes.set(stats.nodes as i64);
        self.silent_nodes.set(stats.silent as i64);
        self.open_deaths.set(stats.deaths as i64);
        self.set_lost("node_evicted", stats.evicted_nodes);
        self.set_lost("death_evicted", stats.evicted_deaths);
        self.set_lost("record_of_no_known_boot", stats.records_unplaced);
        self.set_lost("evidence_cut", stats.evidence_cut);
        self.set_lost("word_cut", stats.words_cut);
        self.set_lost("unproven_dropped", stats.unproven_dropped);
    }

    /// How many nodes stand how with a mitigation.
    pub fn mitigations(&self, action: &'static str, counts: &BTreeMap<&'static str, i64>) {
        for (state, count) in counts {
            let labels = MitigationLabels { action, state };
            self.mitigations.get_or_create(&labels).set(*count);
        }
    }

    /// How many actions wait.
    pub fn waiting(&self, actions: usize) {
        self.waiting.set(actions as i64);
    }

    /// All of it in the text format of OpenMetrics.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn set(family: &Family<ResultLabel, Total>, result: &'static str, total: u64) {
    family
        .get_or_create(&ResultLabel { result })
        .inner()
        .store(total, std::sync::atomic::Ordering::Relaxed);
}
