//! The pods of a dead node: which there are, which are told, and in what order.

use std::collections::BTreeMap;

use agent_core::model::{Death, NodeName, OwnedPod, PodRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, Request};
use serde::Deserialize;

use super::Error;
use super::client::Api;
use super::names::{ANNOTATION_DEATH, MIRROR};
use super::text;

/// How much later than the death a pod may have been created, in milliseconds:
/// the API server's clock is not ours, and its time stamps are whole seconds.
/// Within it fall pods that were bound to the node before its taint.
const CREATED_SLACK_MS: u64 = 2_000;

/// How the keys that hold the reason code end, under whatever prefix.
const REASON_CODE: &str = "/reason-code";

/// The workload that a pod belongs to: its controller.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Owner {
    /// `apps/v1`, `batch/v1`, ...
    pub api_version: String,
    /// `Job`, `ReplicaSet`, ...
    pub kind: String,
    /// Name, in the pod's namespace.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// Why a pod is left alone.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Ineligible {
    /// The API server's copy of a static pod; it comes back with the node.
    Mirror,
    /// Belongs to the node; a DaemonSet pod comes back with it.
    DaemonSet,
    /// Succeeded or failed before the node died.
    Finished,
    /// Created after the death: what the node runs since it is back.
    Later,
}

/// What became of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodResult {
    /// Told in this call.
    Annotated,
    /// Told earlier.
    Already,
    /// Deleted, or replaced by another pod of the same name.
    Gone,
    /// Left alone.
    Skipped(Ineligible),
    /// The API server refuses to have it changed.
    Refused(String),
    /// Not yet: a later call has to tell it.
    Later(String),
}

/// What became of one pod, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOutcome {
    /// The pod.
    pub pod: PodRef,
    /// Its controller, if it has one.
    pub owner: Option<Owner>,
    /// What became of it.
    pub result: PodResult,
}

/// Outcomes of one call, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTally {
    /// Told in this call.
    pub annotated: u32,
    /// Told earlier.
    pub already: u32,
    /// Deleted or replaced.
    pub gone: u32,
    /// Left alone.
    pub skipped: u32,
    /// Refused by the API server.
    pub refused: u32,
    /// Not told yet.
    pub later: u32,
}

impl PodTally {
    pub(super) fn count(&mut self, result: &PodResult) {
        let field = match result {
            PodResult::Annotated => &mut self.annotated,
            PodResult::Already => &mut self.already,
            PodResult::Gone => &mut self.gone,
            PodResult::Skipped(_) => &mut self.skipped,
            PodResult::Refused(_) => &mut self.refused,
            PodResult::Later(_) => &mut self.later,
        };
        *field += 1;
    }
}

/// A pod as the API server lists it: the little that we look at. Reading all of
/// 110 full pods takes ten times as long.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    metadata: Metadata,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    creation_timestamp: Option<Time>,
    annotations: BTreeMap<String, String>,
    owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OwnerReference {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    controller: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Pod>,
}

impl Pod {
    pub(super) fn reference(&self) -> PodRef {
        PodRef {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
        }
    }

    pub(super) fn owner(&self) -> Option<Owner> {
        let owners = &self.metadata.owner_references;
        let owner = owners.iter().find(|o| o.controller)?;
        Some(Owner {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        })
    }

    /// The pod, and kind and name of its controller.
    pub(super) fn owned(&self) -> OwnedPod {
        OwnedPod {
            pod: self.reference(),
            owner: self.owner().map(|owner| (owner.kind, owner.name)),
        }
    }

    /// Why it is left alone, if it is.
    fn ineligible(&self, death: &Death) -> Option<Ineligible> {
        // By our own clock: that of a node may be off by years.
        let last = text::time(death.detected_at.plus(CREATED_SLACK_MS));
        let created = self.metadata.creation_timestamp.as_ref();
        if created.is_some_and(|created| created.0 > last) {
            return Some(Ineligible::Later);
        }
        if self.metadata.annotations.contains_key(MIRROR) {
            return Some(Ineligible::Mirror);
        }
        if self.owner().is_some_and(|o| o.kind == "DaemonSet") {
            return Some(Ineligible::DaemonSet);
        }
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed").then_some(Ineligible::Finished)
    }

    /// Whether it carries this death with this reason already.
    fn is_told(&self, death: &Death, annotations: &BTreeMap<String, String>) -> bool {
        let own = &self.metadata.annotations;
        self.blames(death)
            && annotations
                .iter()
                .filter(|(key, _)| key.ends_with(REASON_CODE))
                .all(|(key, code)| own.get(key) == Some(code))
    }

    /// Whether it says that its node died this death.
    pub(super) fn blames(&self, death: &Death) -> bool {
        let name = self.metadata.annotations.get(ANNOTATION_DEATH);
        name.map(String::as_str) == Some(death.name.as_str())
    }

    /// Who is told first: Jobs, whose retries wait for it; then what usually
    /// stands behind a Service; then the rest.
    fn rank(&self) -> u8 {
        match self.owner().as_ref().map(|o| o.kind.as_str()) {
            Some("Job") => 0,
            Some("ReplicaSet" | "ReplicationController") => 1,
            _ => 2,
        }
    }
}

/// How fresh a list has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Whatever the API server has at hand: some milliseconds, perhaps without
    /// the newest changes.
    AtHand,
    /// As of now: up to 100 ms, because the server's cache first asks the store
    /// how far it has got.
    Now,
}

/// Lists the pods that are bound to the node. The API server has an index for
/// this selector.
pub(super) async fn list(
    api: &Api,
    node: &NodeName,
    freshness: Freshness,
) -> Result<Vec<Pod>, Error> {
    // A node name is a DNS subdomain: nothing in it can end the selector.
    let selector = format!("spec.nodeName={node}");
    let params = ListParams::default().fields(&selector);
    let params = match freshness {
        Freshness::AtHand => params.match_any(),
        Freshness::Now => params,
    };
    let ask = async {
        let request = Request::new("/api/v1/pods").list(&params);
        let request = request.map_err(kube::Error::BuildRequest)?;
        api.client.request::<List>(request).await
    };
    let list = api.call(format!("list pods of node {node}"), ask).await?;
    Ok(list.items)
}

/// Pods sorted by what is to be done with them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be told, in this order.
    pub(super) todo: Vec<Pod>,
    /// Done with already.
    pub(super) settled: Vec<PodOutcome>,
}

/// Decides for each pod.
pub(super) fn plan(pods: Vec<Pod>, death: &Death, annotations: &BTreeMap<String, String>) -> Plan {
    let mut plan = Plan::default();
    for pod in pods {
        let result = match pod.ineligible(death) {
            Some(why) => PodResult::Skipped(why),
            None if pod.is_told(death, annotations) => PodResult::Already,
            None => {
                plan.todo.push(pod);
                continue;
            }
        };
        plan.settled.push(PodOutcome {
            pod: pod.reference(),
            owner: pod.owner(),
            result,
        });
    }
    plan.todo.sort_by_key(Pod::rank);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::names::ANNOTATION_REASON_CODE;
    use crate::k8s::text::tests::death;
    use agent_core::model::Timestamp;
    use serde_json::json;

    fn pod(name: &str, owner: &str, phase: &str, annotations: &serde_json::Value) -> Pod {
        let owners = match owner {
            "" => json!([]),
            kind => json!([
                {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1"},
                {"apiVersion": "v1", "kind": kind, "name": "o", "uid": "2", "controller": true},
            ]),
        };
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name,
                "annotations": annotations, "ownerReferences": owners},
            "spec": {"ignored": true},
            "status": {"phase": phase},
        }))
        .expect("a pod")
    }

    #[test]
    fn jobs_come_first_and_what_must_not_be_touched_is_left_alone() {
        let death = death();
        let annotations =
            BTreeMap::from([(ANNOTATION_REASON_CODE.to_owned(), "KernelPanic".to_owned())]);
        let told =
            |code: &str, name: &str| json!({ANNOTATION_REASON_CODE: code, ANNOTATION_DEATH: name});
        let name = death.name.as_str();
        let pods = vec![
            pod("bare", "", "Running", &json!({"someone/else": "x"})),
            pod("web", "ReplicaSet", "Running", &json!({})),
            pod("db", "StatefulSet", "Pending", &json!({})),
            pod("job", "Job", "Running", &json!({})),
            pod("mirror", "Node", "Running", &json!({MIRROR: "hash"})),
            pod("ds", "DaemonSet", "Running", &json!({})),
            pod("ok", "Job", "Succeeded", &json!({})),
            pod("bad", "Job", "Failed", &json!({})),
            pod("told", "Job", "Running", &told("KernelPanic", name)),
            pod("worse", "Job", "Running", &told("PageFault", name)),
            pod(
                "older",
                "",
                "Running",
                &told("KernelPanic", "another-death"),
            ),
        ];
        let plan = plan(pods, &death, &annotations);
        let todo: Vec<&str> = plan.todo.iter().map(|p| p.metadata.name.as_str()).collect();
        assert_eq!(todo, ["job", "worse", "web", "bare", "db", "older"]);
        let settled: Vec<(&str, &PodResult)> = plan
            .settled
            .iter()
            .map(|o| (o.pod.name.as_str(), &o.result))
            .collect();
        assert_eq!(
            settled,
            [
                ("mirror", &PodResult::Skipped(Ineligible::Mirror)),
                ("ds", &PodResult::Skipped(Ineligible::DaemonSet)),
                ("ok", &PodResult::Skipped(Ineligible::Finished)),
                ("bad", &PodResult::Skipped(Ineligible::Finished)),
                ("told", &PodResult::Already),
            ]
        );
    }

    #[test]
    fn a_pod_that_was_created_after_the_death_is_none_of_its() {
        let mut death = death();
        death.detected_at = Timestamp(1_700_000_000_999);
        for (created, is_later) in [
            ("2023-11-14T22:13:19Z", false),
            ("2023-11-14T22:13:22Z", false),
            ("2023-11-14T22:13:23Z", true),
            ("2024-11-14T22:13:20Z", true),
        ] {
            let mut pod = pod("p", "Job", "Running", &json!({}));
            pod.metadata.creation_timestamp =
                Some(serde_json::from_value(json!(created)).expect("a time"));
            let why = pod.ineligible(&death);
            assert_eq!(why == Some(Ineligible::Later), is_later, "{created}");
        }
    }

    #[test]
    fn an_owner_is_the_controller_and_nobody_else() {
        let owned = pod("p", "Job", "Running", &json!({}));
        assert_eq!(owned.owner().map(|o| o.uid).as_deref(), Some("2"));
        assert_eq!(pod("p", "", "Running", &json!({})).owner(), None);
    }
}
