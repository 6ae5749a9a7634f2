//! What the engine can have done in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::AtomicBool;

use agent_core::engine::{reason, reason_code};
use agent_core::model::Death;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ObjectReference;

use super::client::Api;
use super::names::{CONDITION_OOPS, CONDITION_PANIC};
use super::patch::{self, Words};
use super::pods::{self, Freshness, Owner};
use super::text;
use super::{Error, PodCounts, PodOutcome, PodResult, PodTally, Settings, events, node, record};

/// Most pod patches in flight, whatever the settings say.
const IN_FLIGHT_MAX: usize = 64;

/// Events in flight: nobody waits for them as for the pods.
const EVENTS_IN_FLIGHT: usize = 4;

/// Writes to one cluster. Every call may be repeated, by any replica, after
/// any failure: what is written already is not written again.
#[derive(Clone)]
pub struct Writer {
    api: Api,
    in_flight: usize,
    instance: String,
}

impl Writer {
    /// Loads the configuration; the API server need not be up.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            api: Api::connect(settings).await?,
            in_flight: settings.pods_in_flight.clamp(1, IN_FLIGHT_MAX),
            instance: settings.instance.clone(),
        })
    }

    /// Asks whether the API server is ready.
    pub async fn ready(&self) -> Result<(), Error> {
        self.api.ready().await
    }

    /// Opens the connections that a death will need. Call it at the start and
    /// every 30 s: the server closes idle ones after 90 s.
    pub async fn warm(&self) -> Result<(), Error> {
        self.api.warm(self.in_flight).await
    }

    /// Says on the node that it died: condition `KernelPanic`, taint,
    /// `NodeDeath`, event, in this order. A Node object that does not exist
    /// still gets its `NodeDeath` and event. One step that fails does not keep
    /// the next from being tried; the first error is returned.
    pub async fn mark_node(&self, death: &Death) -> Result<(), Error> {
        let marked = self.condemn_and_taint(death).await;
        if marked.as_ref().is_err_and(Error::is_outage) {
            return marked.map(drop);
        }
        let recorded = record::confirm(&self.api, death).await;
        if recorded.as_ref().is_err_and(Error::is_outage) {
            return recorded;
        }
        let uid = marked.as_ref().ok().and_then(Clone::clone);
        let told = self
            .node_event(death, uid, "Warning", "NodeDied", "MarkNode", reason(death))
            .await;
        marked.map(drop).and(recorded).and(told)
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
    /// node that is to be told, and says so on their workloads and in the
    /// `NodeDeath`. `on_pod` hears of each pod once, as it is settled; a pod
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
            let mut listed = pods::list(&self.api, death, freshness).await?;
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
            if let Some(source) = first_error {
                return Err(Error::PodsLeft {
                    node: death.node.to_string(),
                    left: tally.later as usize,
                    of,
                    source: Box::new(source),
                });
            }
        }
        self.pods_told(death, &tally, owners).await?;
        Ok(tally)
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
        record::revoked(&self.api, death).await?;
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
        let mut blaming = pods::list(&self.api, death, Freshness::Now).await?;
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

    /// Condition and taint; the uid of the node, if it exists.
    async fn condemn_and_taint(&self, death: &Death) -> Result<Option<String>, Error> {
        let Some(node) = node::find(&self.api, death).await? else {
            return Ok(None);
        };
        let uid = node.metadata.uid.clone();
        let code = reason_code(death).as_str();
        let message = text::why_message(death);
        let since = text::time(death.detected_at);
        let node = node::condemn(&self.api, node, CONDITION_PANIC, code, message, since).await?;
        node::taint(&self.api, node, Some(code)).await?;
        Ok(uid)
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

    /// Events on the workloads, then the `NodeDeath`: in this order, so that a
    /// crash in between repeats the events, which are then found to be there.
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
        results.into_iter().collect::<Result<(), Error>>()?;
        let counts = PodCounts {
            annotated: tally.annotated + tally.already,
            gone: tally.gone,
            refused: tally.refused,
            skipped: tally.skipped,
        };
        record::pods_annotated(&self.api, death, &counts).await
    }
}
