//! What the engine can have done in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::AtomicBool;

use agent_core::engine::{reason, reason_code};
use agent_core::model::Death;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ObjectReference;

use super::ahead::Ahead;
use super::client::Api;
use super::names::{CONDITION_OOPS, CONDITION_PANIC};
use super::patch::{self, Words};
use super::pods::{self, Freshness, Owner, Pod};
use super::text;
use super::{
    Error, PodCounts, PodOutcome, PodResult, PodTally, Settings, events, node, owners, record,
};

/// Most pod patches in flight, whatever the settings say.
const IN_FLIGHT_MAX: usize = 64;

/// Requests beside the pod patches: other deaths are written at the same time.
const BESIDE: usize = 2;

/// Events in flight, and look-ups for them: nobody waits for them as for the pods.
const EVENTS_IN_FLIGHT: usize = 4;

/// Writes to one cluster. Every call may be repeated, by any replica, after
/// any failure: what is written already is not written again.
#[derive(Clone)]
pub struct Writer {
    pub(super) api: Api,
    in_flight: usize,
    pub(super) instance: String,
    ahead: Ahead,
}

impl Writer {
    /// Loads the configuration; the API server need not be up.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            api: Api::connect(settings).await?,
            in_flight: settings.pods_in_flight.clamp(1, IN_FLIGHT_MAX),
            instance: settings.instance.clone(),
            ahead: Ahead::default(),
        })
    }

    /// Asks whether the API server is ready.
    pub async fn ready(&self) -> Result<(), Error> {
        self.api.ready().await
    }

    /// Opens the connections that a death will need. Call it at the start and
    /// every 30 s: the server closes idle ones after 90 s.
    pub async fn warm(&self) -> Result<(), Error> {
        self.api.warm(self.in_flight + BESIDE).await
    }

    /// Says on the node that it died: condition `KernelPanic`, then the taint.
    /// All that must be there before a pod is told; a Node object that does not
    /// exist is marked by nobody.
    pub async fn mark_node(&self, death: &Death) -> Result<(), Error> {
        let Some(node) = node::find(&self.api, death).await? else {
            self.ahead.look(&self.api, death);
            return Ok(());
        };
        let code = reason_code(death).as_str();
        let message = text::why_message(death);
        let since = text::time(death.detected_at);
        let node = node::condemn(&self.api, node, CONDITION_PANIC, code, message, since).await?;
        self.ahead.look(&self.api, death);
        node::taint(&self.api, node, Some(code)).await
    }

    /// Records the death in its `NodeDeath`.
    async fn record_death(&self, death: &Death) -> Result<(), Error> {
        record::confirm(&self.api, death).await
    }

    /// Says on the node that its kernel had an oops and lives: condition
    /// `KernelOops` and an event. No taint, no pods.
    pub async fn report_oops(&self, death: &Death) -> Result<(), Error> {
        let code = reason_code(death).as_str();
        let message = text::why_message(death);
        let since = text::time(death.detected_at);
        let mut uid = None;
        if let Some(node) = node::find(&self.api, death).await? {
            let node = node::condemn(&self.api, node, CONDITION_OOPS, code, message, since).await?;
            // Nearly every panic begins like this.
            self.ahead.look(&self.api, death);
            uid = node.metadata.uid;
        }
        self.node_event(
            death,
            uid,
            "Warning",
            "KernelOops",
            "ReportOops",
            reason(death),
        )
        .await
    }

    /// Writes the annotations, and `lastgasp.dev/death`, on every pod of the
    /// node that is to be told, and then says so in the `NodeDeath` and in events
    /// on the node and their workloads. `on_pod` hears of each pod once, as it is settled; a pod
    /// that is not told yet makes the call fail, for a later one to finish.
    pub async fn annotate_pods(
        &self,
        death: &Death,
        annotations: &BTreeMap<String, String>,
        mut on_pod: impl FnMut(PodOutcome),
    ) -> Result<PodTally, Error> {
        let words = Words::new(death, annotations);
        let mut tally = PodTally::default();
        let mut owners = BTreeSet::new();
        let mut settled = BTreeSet::new();
        // What the server has at hand comes at once; a second look, as of now,
        // finds the pods that were bound in the last moment.
        for freshness in [Freshness::AtHand, Freshness::Now] {
            let mut listed = self.pods(death, freshness).await?;
            listed.retain(|pod| !settled.contains(&pod.reference()));
            let plan = pods::plan(listed, death, annotations);
            let of = plan.todo.len();
            let outage = AtomicBool::new(false);
            let told = patch::tell(&self.api, &words, plan.todo, self.in_flight, &outage);
            let known = stream::iter(plan.settled).map(|outcome| (outcome, None));
            // Patches first: what is settled can wait.
            let mut outcomes = pin!(told.chain(known));
            let mut first_error = None;
            while let Some((outcome, error)) = outcomes.next().await {
                if matches!(outcome.result, PodResult::Annotated | PodResult::Already)
                    && let Some(owner) = outcome.owner.clone()
                {
                    owners.insert((outcome.pod.namespace.clone(), owner));
                }
                tally.count(&outcome.result);
                settled.insert(outcome.pod.clone());
                first_error = first_error.or(error);
                on_pod(outcome);
            }
            // Behind the pods, not beside them: the server would do it instead of
            // them. Also where some pods are left, but not if nobody answers.
            let down = first_error.as_ref().is_some_and(Error::is_outage);
            let recorded = match freshness {
                Freshness::AtHand if !down => self.record_death(death).await,
                _ => Ok(()),
            };
            if let Some(source) = first_error {
                return Err(Error::PodsLeft {
                    node: death.node.to_string(),
                    left: tally.later as usize,
                    of,
                    source: Box::new(source),
                });
            }
            recorded?;
        }
        self.pods_told(death, &tally, owners).await?;
        Ok(tally)
    }

    async fn pods(&self, death: &Death, freshness: Freshness) -> Result<Vec<Pod>, Error> {
        if freshness == Freshness::AtHand
            && let Some(pods) = self.ahead.take(death).await
        {
            return Ok(pods);
        }
        pods::list(&self.api, &death.node, freshness).await
    }

    /// Brings the `NodeDeath` up to date, if there is one.
    pub async fn update_record(&self, death: &Death) -> Result<(), Error> {
        record::update(&self.api, death).await
    }

    /// Takes back what was said of the node and on its pods: the same boot
    /// spoke again. `annotations` are those that [`Self::annotate_pods`] wrote;
    /// only pods that blame this very death lose them.
    pub async fn revoke(
        &self,
        death: &Death,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        const SAID: &str = "the same boot spoke again: it had not ended";
        let uid = self.clear_node(death, "Revoked", SAID).await?;
        record::update(&self.api, death).await?;
        let words = Words::taken_back(annotations, SAID);
        self.take_off(death, &words).await?;
        self.node_event(
            death,
            uid,
            "Normal",
            "NodeDeathRevoked",
            "ClearNode",
            SAID.to_owned(),
        )
        .await
    }

    async fn take_off(&self, death: &Death, words: &Words) -> Result<(), Error> {
        let mut blaming = pods::list(&self.api, &death.node, Freshness::Now).await?;
        blaming.retain(|pod| pod.blames(death));
        let of = blaming.len();
        let outage = AtomicBool::new(false);
        let mut outcomes = pin!(patch::tell(
            &self.api,
            words,
            blaming,
            self.in_flight,
            &outage
        ));
        let (mut left, mut first_error) = (0, None);
        while let Some((_, error)) = outcomes.next().await {
            left += usize::from(error.is_some());
            first_error = first_error.or(error);
        }
        first_error.map_or(Ok(()), |source| {
            Err(Error::PodsLeft {
                node: death.node.to_string(),
                left,
                of,
                source: Box::new(source),
            })
        })
    }

    /// Clears the node: it is back with another boot. The `NodeDeath` stays.
    pub async fn node_returned(&self, death: &Death) -> Result<(), Error> {
        const SAID: &str = "the node is back with another boot";
        let uid = self.clear_node(death, "NodeReturned", SAID).await?;
        record::returned(&self.api, death).await?;
        self.node_event(
            death,
            uid,
            "Normal",
            "NodeReturned",
            "ClearNode",
            SAID.to_owned(),
        )
        .await
    }

    async fn clear_node(
        &self,
        death: &Death,
        reason: &str,
        what: &str,
    ) -> Result<Option<String>, Error> {
        let Some(node) = node::find(&self.api, death).await? else {
            return Ok(None);
        };
        let uid = node.metadata.uid.clone();
        node::clear(&self.api, node, death, reason, what).await?;
        Ok(uid)
    }

    /// The node's uid, if it is known or may be asked for.
    async fn node_uid(&self, death: &Death) -> Result<Option<String>, Error> {
        if death.node_uid.is_some() {
            return Ok(death.node_uid.clone());
        }
        match node::find(&self.api, death).await {
            Ok(node) => Ok(node.and_then(|node| node.metadata.uid)),
            Err(Error::Denied { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn node_event(
        &self,
        death: &Death,
        uid: Option<String>,
        type_: &'static str,
        reason: &str,
        action: &'static str,
        note: String,
    ) -> Result<(), Error> {
        let said = events::Said {
            regarding: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(death.node.to_string()),
                uid,
                ..ObjectReference::default()
            },
            type_,
            reason,
            action,
            note,
        };
        events::once(&self.api, &self.instance, death, said).await
    }

    /// Events on node and workloads, then the `NodeDeath`: in this order, so
    /// that a crash in between repeats the events, which are then found to be
    /// there.
    async fn pods_told(
        &self,
        death: &Death,
        tally: &PodTally,
        owners: BTreeSet<(String, Owner)>,
    ) -> Result<(), Error> {
        let status = record::read(&self.api, death).await?;
        let done = status.as_ref().is_some_and(record::pods_are_annotated);
        if done && tally.annotated == 0 {
            return Ok(());
        }
        let uid = self.node_uid(death).await?;
        let on_node = self
            .node_event(death, uid, "Warning", "NodeDied", "MarkNode", reason(death))
            .await;
        let owners = self.workloads(owners).await?;
        let note = format!("node {} died: {}", death.node, reason(death));
        // All are tried, so that a repetition has fewer to write.
        let results: Vec<Result<(), Error>> = stream::iter(owners)
            .map(|(namespace, owner)| {
                let said = events::Said {
                    regarding: ObjectReference {
                        api_version: Some(owner.api_version),
                        kind: Some(owner.kind),
                        name: Some(owner.name),
                        namespace: Some(namespace),
                        uid: Some(owner.uid),
                        ..ObjectReference::default()
                    },
                    type_: "Warning",
                    reason: "NodeDied",
                    action: "AnnotatePods",
                    note: note.clone(),
                };
                events::once(&self.api, &self.instance, death, said)
            })
            .buffer_unordered(EVENTS_IN_FLIGHT)
            .collect()
            .await;
        results
            .into_iter()
            .chain([on_node])
            .collect::<Result<(), Error>>()?;
        let counts = PodCounts {
            annotated: tally.annotated + tally.already,
            gone: tally.gone,
            refused: tally.refused,
            skipped: tally.skipped,
        };
        record::pods_annotated(&self.api, death, &counts).await
    }

    /// What people know the pods' controllers as; what has several of them is
    /// named once.
    async fn workloads(
        &self,
        owners: BTreeSet<(String, Owner)>,
    ) -> Result<BTreeSet<(String, Owner)>, Error> {
        let found: Vec<Result<(String, Owner), Error>> = stream::iter(owners)
            .map(|(namespace, owner)| async move {
                let workload = owners::workload(&self.api, &namespace, owner).await?;
                Ok((namespace, workload))
            })
            .buffer_unordered(EVENTS_IN_FLIGHT)
            .collect()
            .await;
        found.into_iter().collect()
    }
}
