//! What agents do against bugs of their kernels: they are advised of deaths, and what they
//! say of it is told where people look.
//!
//! The cluster is brought to what a node said last, whatever was told before. So nothing of
//! it is stored: after a restart the hellos say it again, and the watch on Node objects
//! which of them still show a mitigation that may be gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_core::model::{
    Body, BootId, GSO_OFF, Mitigation, MitigationState, NodeName, Report, Timestamp,
};
use agent_decode::bugs::{self, Action};
use tokio::task::JoinSet;

use super::{Annotator, Executor, now};
use crate::gasp::advice::Advice;
use crate::gasp::receiver::Received;
use crate::k8s::{self, Standing};
use crate::telemetry::with_causes;

/// Nodes that are written at the same time.
const IN_FLIGHT: usize = 8;
/// Between two tries: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// What the nodes do, and who was told of it.
pub(super) struct Mitigations {
    nodes: BTreeMap<NodeName, Entry>,
    max: usize,
    running: JoinSet<(NodeName, Result<(), k8s::Error>)>,
}

/// One node.
struct Entry {
    boot: BootId,
    uid: Option<String>,
    /// What its newest hello said, if it said anything of it.
    said: Option<Mitigation>,
    /// How many different things its hellos said; none while there was no hello.
    changes: u32,
    /// Whether its Node object may show a mitigation.
    shown: bool,
    /// Whether the cluster is as it said.
    told: bool,
    /// What it said is being written.
    running: bool,
    tries: u32,
    due: Instant,
}

impl Entry {
    fn new(boot: BootId) -> Self {
        Self {
            boot,
            uid: None,
            said: None,
            changes: 0,
            shown: false,
            told: true,
            running: false,
            tries: 0,
            due: Instant::now(),
        }
    }

    fn is_applied(&self) -> bool {
        let state = self.said.as_ref().map(|said| said.state);
        state == Some(MitigationState::Applied)
    }

    /// Whether there is anything to say of it.
    fn is_silent(&self) -> bool {
        let state = self.said.as_ref().map(|said| said.state);
        !self.shown && matches!(state, None | Some(MitigationState::Ready))
    }

    fn changed(&mut self) {
        self.told = self.is_silent();
        self.tries = 0;
        self.due = Instant::now();
    }
}

impl Mitigations {
    /// Of so many nodes at most.
    pub(super) fn new(max: usize) -> Self {
        Self {
            nodes: BTreeMap::new(),
            max,
            running: JoinSet::new(),
        }
    }

    /// A hello says this. False if there is no room for it.
    fn said(
        &mut self,
        node: &NodeName,
        boot: BootId,
        uid: Option<&str>,
        said: Option<Mitigation>,
    ) -> bool {
        if said.is_none() && !self.nodes.contains_key(node) {
            return true;
        }
        let Some(entry) = self.entry(node, boot) else {
            return false;
        };
        let is_new = entry.changes == 0 || entry.boot != boot || entry.said != said;
        entry.boot = boot;
        entry.uid = uid.map(str::to_owned);
        entry.said = said;
        if is_new {
            entry.changes = entry.changes.saturating_add(1);
            entry.changed();
        }
        true
    }

    /// Its Node object shows a mitigation. False if there is no room for it.
    pub(super) fn shown(&mut self, node: &NodeName) -> bool {
        let Some(entry) = self.entry(node, BootId([0; 16])) else {
            return false;
        };
        entry.shown = true;
        if entry.changes > 0 && !entry.is_applied() {
            entry.changed();
        }
        true
    }

    /// Its Node object is gone.
    pub(super) fn forget(&mut self, node: &NodeName) {
        self.nodes.remove(node);
    }

    fn entry(&mut self, node: &NodeName, boot: BootId) -> Option<&mut Entry> {
        if !self.nodes.contains_key(node) && self.nodes.len() >= self.max {
            return None;
        }
        let new = || Entry::new(boot);
        Some(self.nodes.entry(node.clone()).or_insert_with(new))
    }

    /// How many nodes stand how.
    fn counts(&self) -> BTreeMap<&'static str, i64> {
        let all = MitigationState::ALL.map(|state| (state.as_str(), 0));
        let mut counts = BTreeMap::from(all);
        for said in self.nodes.values().filter_map(|entry| entry.said.as_ref()) {
            *counts.entry(said.state.as_str()).or_default() += 1;
        }
        counts
    }

    /// Those that are to be written now; they count as being written.
    fn start(&mut self, now: Instant) -> Vec<Standing> {
        let room = IN_FLIGHT.saturating_sub(self.running.len());
        let due =
            |entry: &Entry| entry.changes > 0 && !entry.told && !entry.running && entry.due <= now;
        let due = self.nodes.iter_mut().filter(|(_, entry)| due(entry));
        due.take(room)
            .map(|(node, entry)| {
                entry.running = true;
                // What comes meanwhile is another thing to tell.
                entry.told = true;
                Standing {
                    node: node.clone(),
                    uid: entry.uid.clone(),
                    boot: entry.boot,
                    said: entry.said.clone(),
                    // The first may have been said to an annotator before this one.
                    is_news: entry.changes > 1,
                }
            })
            .collect()
    }

    fn done(&mut self, node: &NodeName, worked: bool, now: Instant) {
        let Some(entry) = self.nodes.get_mut(node) else {
            return;
        };
        entry.running = false;
        if !worked {
            let pause = PAUSE.0 * 2_u32.saturating_pow(entry.tries.min(16));
            entry.tries += 1;
            entry.told = false;
            entry.due = now + pause.min(PAUSE.1);
            return;
        }
        if !entry.told {
            return;
        }
        entry.tries = 0;
        entry.shown = entry.is_applied();
        if entry.said.is_none() {
            self.nodes.remove(node);
        }
    }
}

/// The known bug that a report likely is, if switching GRO and GSO off helps against it.
fn gso_bug(report: &Report) -> Option<&str> {
    let mut likely = report.known_bugs.iter().filter(|bug| bug.likely);
    let helps = |id: &str| {
        let bug = bugs::known().iter().find(|bug| bug.id == id);
        let action = bug.and_then(|bug| bug.workaround.as_ref()?.action);
        action == Some(Action::GsoOff)
    };
    likely.find(|bug| helps(&bug.id)).map(|bug| bug.id.as_str())
}

impl Annotator {
    /// A hello may say what its agent does. True if that agent has no reason yet, and wants
    /// to be advised of one.
    pub(super) fn mitigate(&mut self, received: &Received) -> bool {
        let gasp = &received.gasp;
        let Body::Hello(inventory) = &gasp.body else {
            return false;
        };
        let all = inventory.mitigations.iter();
        let said = all.into_iter().find(|one| one.action == GSO_OFF).cloned();
        let asks = said
            .as_ref()
            .is_some_and(|said| said.state == MitigationState::Ready);
        let uid = gasp.node_uid.as_deref();
        let has_room = self.mitigations.said(&gasp.node, gasp.boot, uid, said);
        self.metrics
            .lost("mitigation_not_told", u64::from(!has_room));
        asks
    }

    /// Answers a hello whose agent wants a reason, once it was taken in: often this is the
    /// hello that proves the death of the boot before.
    pub(super) fn advise(&self, received: &Received) {
        let gasp = &received.gasp;
        let Body::Hello(inventory) = &gasp.body else {
            return;
        };
        let release = &inventory.kernel_release;
        if release.is_empty() {
            return;
        }
        let deaths = self.engine.died_on(&gasp.node, gasp.boot, release);
        let advice = deaths.into_iter().find_map(|death| {
            let bug = gso_bug(death.report.as_ref()?)?;
            Advice::new(bug, death.name.as_str())
        });
        let Some((advice, sender)) = advice.zip(self.receipts.as_ref()) else {
            return;
        };
        tracing::info!(node = %gasp.node, death = advice.death, bug = advice.bug, "advised to switch GRO and GSO off");
        if sender.advise(received, &advice).is_err() {
            self.metrics.lost("advice", 1);
        }
    }

    /// Writes what is not written yet, and counts.
    pub(super) fn tell_mitigations(&mut self) {
        let now_mono = Instant::now();
        while let Some(done) = self.mitigations.running.try_join_next() {
            let Ok((node, result)) = done else { continue };
            if let Err(error) = &result {
                tracing::warn!(%node, cause = with_causes(error), "its mitigation cannot be told, to be tried again");
            }
            self.mitigations.done(&node, result.is_ok(), now_mono);
        }
        self.metrics
            .mitigations(GSO_OFF, &self.mitigations.counts());
        for standing in self.mitigations.start(now_mono) {
            let (node, said) = (&standing.node, standing.said.as_ref());
            let text = said.and_then(agent_core::engine::mitigation_text);
            let state = said.map_or("off", |said| said.state.as_str());
            tracing::info!(%node, state, "mitigation: {}", text.unwrap_or_default());
            let executor = self.executor.clone();
            let at: Timestamp = now();
            self.mitigations.running.spawn(async move {
                let told = match &executor {
                    Executor::Standalone => Ok(()),
                    Executor::Kubernetes(writer) => writer.mitigated(&standing, at).await,
                };
                (standing.node, told)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{KnownBug, ReasonCode};

    use super::*;

    const A: BootId = BootId([1; 16]);

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a node name")
    }

    fn standing(state: MitigationState) -> Mitigation {
        Mitigation {
            action: GSO_OFF.into(),
            state,
            ..Mitigation::default()
        }
    }

    /// What would be written now, and that it worked or did not.
    fn write(all: &mut Mitigations, at: Instant, works: bool) -> Vec<Option<MitigationState>> {
        let started = all.start(at);
        let states = started.iter().map(|one| one.said.as_ref().map(|s| s.state));
        let states = states.collect();
        for one in &started {
            all.done(&one.node, works, at);
        }
        states
    }

    #[test]
    fn each_change_is_told_once_and_the_end_too() {
        use MitigationState::{Applied, Ready, Suggested};
        let mut all = Mitigations::new(10);
        let w01 = node("w01");
        let now = Instant::now() + Duration::from_secs(1);
        // What is said, and what follows.
        for (said, expected) in [
            (None, vec![]),
            (Some(standing(Ready)), vec![]),
            (Some(standing(Suggested)), vec![Some(Suggested)]),
            (Some(standing(Suggested)), vec![]),
            (Some(standing(Applied)), vec![Some(Applied)]),
            (Some(standing(Applied)), vec![]),
            (Some(standing(Ready)), vec![Some(Ready)]),
            (Some(standing(Ready)), vec![]),
            (Some(standing(Applied)), vec![Some(Applied)]),
            (None, vec![None]),
            (None, vec![]),
        ] {
            assert!(all.said(&w01, A, None, said.clone()));
            assert_eq!(write(&mut all, now, true), expected, "{said:?}");
        }
        assert!(all.nodes.is_empty());
    }

    #[test]
    fn what_an_annotator_before_this_one_has_told_is_taken_back_once_it_is_gone() {
        let mut all = Mitigations::new(10);
        let w01 = node("w01");
        let now = Instant::now() + Duration::from_secs(1);
        assert!(all.shown(&w01));
        assert!(write(&mut all, now, true).is_empty(), "nobody knows yet");
        assert!(all.said(&w01, A, None, None));
        assert_eq!(write(&mut all, now, true), [None]);
        assert!(all.nodes.is_empty());
    }

    #[test]
    fn what_fails_is_tried_again_with_pauses_and_what_comes_meanwhile_is_told_too() {
        let mut all = Mitigations::new(10);
        let w01 = node("w01");
        let now = Instant::now() + Duration::from_secs(1);
        all.said(&w01, A, None, Some(standing(MitigationState::Applied)));
        assert_eq!(write(&mut all, now, false).len(), 1);
        assert!(write(&mut all, now, true).is_empty());
        let later = now + PAUSE.0;
        let started = all.start(later);
        assert_eq!(started.len(), 1);
        assert!(!started[0].is_news, "it may have been so for long");
        all.said(&w01, A, None, Some(standing(MitigationState::Undone)));
        assert!(all.start(later).is_empty(), "one at a time");
        all.done(&w01, true, later);
        let expected = [Some(MitigationState::Undone)];
        assert!(all.nodes[&w01].changes > 1);
        assert_eq!(write(&mut all, later, true), expected);
    }

    #[test]
    fn no_number_of_nodes_fills_the_memory() {
        let mut all = Mitigations::new(2);
        let said = |all: &mut Mitigations, name: &str| {
            all.said(
                &node(name),
                A,
                None,
                Some(standing(MitigationState::Applied)),
            )
        };
        assert!(said(&mut all, "w01") && said(&mut all, "w02") && said(&mut all, "w01"));
        assert!(!said(&mut all, "w03") && !all.shown(&node("w04")));
        assert_eq!(all.counts()["applied"], 2);
        assert_eq!(all.counts()["failed"], 0);
    }

    #[test]
    fn only_a_likely_bug_that_this_helps_against_is_a_reason() {
        let report = |id: &str, likely| Report {
            code: ReasonCode::KernelBug,
            title: String::new(),
            line: String::new(),
            fault_function: None,
            module: None,
            kernel_release: None,
            comm: None,
            corrupted: None,
            fingerprint: None,
            known_bugs: vec![KnownBug {
                id: id.to_owned(),
                title: String::new(),
                likely,
                fixed_in: None,
                workaround: None,
                reference: None,
            }],
        };
        let is = |id, likely| gso_bug(&report(id, likely)).is_some();
        assert!(is("cve-2024-42281", true));
        assert!(!is("cve-2024-42281", false));
        assert!(!is("no-such-bug", true));
        let other = bugs::known().iter().find(|bug| {
            let action = bug.workaround.as_ref().and_then(|w| w.action);
            action.is_none()
        });
        assert!(!is(&other.expect("most have none").id, true));
    }
}
