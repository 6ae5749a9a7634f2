//! Watching Node objects: none goes without a record of who and why, and each
//! tells its addresses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use agent_core::engine::shows_more;
use agent_core::model::{
    BootId, Deleted, Manager, NodeEvent, NodeName, NodeObject, OwnedPod, SeenObject, Taint,
    Timestamp,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api as KubeApi;
use kube::api::{ApiResource, ListParams, Object};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event as Change};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::names::{CONDITION_MITIGATION, REPORTER};
use super::pods::{self, Freshness};
use super::{Error, Writer};

/// Nodes in one answer of the first list.
const PAGE: u32 = 500;
/// Most nodes remembered, for what is deleted while nobody can look.
const NODES_MAX: usize = 20_000;
/// Most taints, finalizers or managers kept of one node.
const LIST_MAX: usize = 16;
/// Longest text kept of an object, in bytes.
const TEXT_MAX: usize = 512;
/// Events kept of one node that is gone, and most that are read.
const EVENTS: (usize, u32) = (16, 200);
/// Deletions that are looked into at the same time.
const SIDE_BY_SIDE: usize = 16;
/// Who deletes a node writes events beside that, not before.
const EVENTS_AFTER: Duration = Duration::from_secs(2);
/// How often it is told that all is told, in milliseconds.
const COMPLETE_EVERY_MS: u64 = 60_000;

/// What is told of Node objects.
#[derive(Debug)]
pub enum Told {
    /// It is there.
    Found {
        /// Its name.
        node: NodeName,
        /// Its internal addresses.
        addresses: Vec<IpAddr>,
        /// Whether it shows that something is done against a bug of its kernel.
        mitigated: bool,
    },
    /// It shows something that was not known of it.
    Seen(SeenObject),
    /// It is gone.
    Gone(Gone),
    /// All that went until then is told.
    Complete(Timestamp),
}

/// A Node object that is gone, and the pods that were bound to it.
#[derive(Debug)]
pub struct Gone {
    /// What was visible of it.
    pub deleted: Deleted,
    /// Its pods, as far as they could be listed.
    pub pods: Vec<OwnedPod>,
}

/// A Node object with the little that we look at: all of one is 10 KiB.
type Watched = Object<Spec, Status>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    taints: Vec<RawTaint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawTaint {
    key: String,
    value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    node_info: Info,
    addresses: Vec<Address>,
    conditions: Vec<RawCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    #[serde(rename = "bootID")]
    boot_id: String,
}

impl Writer {
    /// Watches all nodes, and tells of each that is there or gone, until nobody
    /// listens: also of those that an earlier annotator saw (`before`, oldest first)
    /// and that are no longer there. Tells also why it cannot watch; it goes on trying.
    pub async fn watch_nodes(
        self,
        before: Vec<SeenObject>,
        tell: mpsc::Sender<Result<Told, Error>>,
    ) {
        let api =
            KubeApi::<Watched>::all_with(self.api.client.clone(), &ApiResource::erase::<Node>(&()));
        let config = watcher::Config::default().page_size(PAGE);
        let mut changes = pin!(watcher::watcher(api, config).default_backoff());
        let mut known = Known::default();
        let mut looking: JoinSet<Gone> = JoinSet::new();
        // A new list may miss many nodes at once; no change is taken until all
        // of the one before are looked into.
        let mut waiting: VecDeque<Deleted> = known.restore(before, now()).into();
        let mut complete: Option<Timestamp> = None;
        loop {
            while looking.len() < SIDE_BY_SIDE
                && let Some(deleted) = waiting.pop_front()
            {
                looking.spawn(self.clone().look_into(deleted));
            }
            let mut told = Vec::new();
            tokio::select! {
                Some(done) = looking.join_next(), if !looking.is_empty() => {
                    told.extend(done.ok().map(|gone| Ok(Told::Gone(gone))));
                }
                change = changes.next(), if waiting.is_empty() => match change {
                    Some(Ok(change)) => {
                        let now = now();
                        told.extend(found(&change).map(Ok));
                        let Taken { seen, gone } = known.take(change, now);
                        told.extend(seen.map(|seen| Ok(Told::Seen(seen))));
                        waiting.extend(gone);
                        // Changes come in their order: before this one none is missing.
                        let all = known.is_whole() && waiting.is_empty() && looking.is_empty();
                        if all && complete.is_none_or(|at| now.since(at) >= COMPLETE_EVERY_MS) {
                            complete = Some(now);
                            told.push(Ok(Told::Complete(now)));
                        }
                    }
                    Some(Err(error)) => told.push(Err(watch_error(error))),
                    None => return,
                },
            }
            for told in told {
                if tell.send(told).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads what else there is on a node that is gone.
    async fn look_into(self, mut deleted: Deleted) -> Gone {
        let listed = pods::list(&self.api, &deleted.node, Freshness::AtHand).await;
        let pods = match listed {
            Ok(pods) => pods.iter().map(pods::Pod::owned).collect(),
            Err(error) => {
                tracing::warn!(node = %deleted.node, %error, "its pods are not known");
                Vec::new()
            }
        };
        tokio::time::sleep(EVENTS_AFTER).await;
        match self.events_about(&deleted.node).await {
            Ok(events) => deleted.events = events,
            Err(error) => {
                tracing::warn!(node = %deleted.node, %error, "events about it are not known");
            }
        }
        Gone { deleted, pods }
    }

    /// The newest events about a node, others' only.
    async fn events_about(&self, node: &NodeName) -> Result<Vec<NodeEvent>, Error> {
        // Events about objects without a namespace live there.
        let api = KubeApi::<Event>::namespaced(self.api.client.clone(), "default");
        let about = format!("involvedObject.kind=Node,involvedObject.name={node}");
        let params = ListParams::default().fields(&about).limit(EVENTS.1);
        let listed = api.list(&params);
        let what = format!("list events of node {node}");
        let mut events: Vec<NodeEvent> = self
            .api
            .call(what, listed)
            .await?
            .items
            .into_iter()
            .map(event)
            .filter(|event| event.by != REPORTER)
            .collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.at));
        events.truncate(EVENTS.0);
        Ok(events)
    }
}

fn now() -> Timestamp {
    time(&Time(jiff::Timestamp::now()))
}

/// A node that is there, with the addresses that it sends from.
fn found(change: &Change<Watched>) -> Option<Told> {
    let (Change::InitApply(node) | Change::Apply(node)) = change else {
        return None;
    };
    let name = NodeName::new(node.metadata.name.as_deref()?)?;
    let internal = |address: &&Address| address.kind == "InternalIP";
    let all = node.status.iter().flat_map(|status| &status.addresses);
    let internal = all.filter(internal).take(LIST_MAX);
    let addresses = internal.filter_map(|a| a.address.parse().ok()).collect();
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    let mut ours = conditions.filter(|c| c.kind == CONDITION_MITIGATION);
    Some(Told::Found {
        node: name,
        addresses,
        mitigated: ours.any(|c| c.status == "True"),
    })
}

fn watch_error(error: watcher::Error) -> Error {
    let what = "watch nodes".to_owned();
    match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => Error::from_kube(what, source),
        watcher::Error::WatchError(status) => Error::from_kube(what, kube::Error::Api(status)),
        error @ watcher::Error::NoResourceVersion => Error::Garbled {
            what,
            source: Box::new(kube::Error::Service(error.into())),
        },
    }
}

/// The nodes as they were seen last.
#[derive(Default)]
struct Known {
    nodes: HashMap<NodeName, Last>,
    /// While all are listed anew: those that are there.
    listed: Option<HashSet<NodeName>>,
}

/// How a node was last.
struct Last {
    object: NodeObject,
    /// When that was, if an earlier annotator saw it and this one has not yet.
    seen: Option<Timestamp>,
}

impl Last {
    fn gone(self, node: NodeName, at: Timestamp) -> Deleted {
        Deleted {
            node,
            at,
            seen: self.seen,
            object: self.object,
            events: Vec::new(),
        }
    }
}

/// What follows from a change.
#[derive(Default)]
struct Taken {
    /// A node that shows something new.
    seen: Option<SeenObject>,
    /// Those that are gone by it.
    gone: Vec<Deleted>,
}

impl Known {
    /// Begins with what an earlier annotator saw, oldest first, and gives what it
    /// knew to be gone.
    fn restore(&mut self, before: Vec<SeenObject>, now: Timestamp) -> Vec<Deleted> {
        let mut gone = Vec::new();
        for SeenObject { node, object, seen } in before {
            let seen = Some(seen);
            let older = self.nodes.insert(node.clone(), Last { object, seen });
            gone.extend(older.map(|older| older.gone(node, now)));
        }
        gone
    }

    /// Whether all that are there were listed.
    fn is_whole(&self) -> bool {
        self.listed.is_none()
    }

    /// Takes a change in that is seen now.
    fn take(&mut self, change: Change<Watched>, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        match change {
            Change::Init => self.listed = Some(HashSet::new()),
            Change::InitApply(node) | Change::Apply(node) => {
                let Some((name, object)) = summary(node) else {
                    return taken;
                };
                if let Some(listed) = &mut self.listed {
                    listed.insert(name.clone());
                }
                let before = self.nodes.remove(&name);
                let is_same = |before: &Last| before.object.uid == object.uid;
                let is_news = |before: &Last| shows_more(&before.object, &object);
                if before.as_ref().is_none_or(is_news) && self.nodes.len() < NODES_MAX {
                    taken.seen = Some(SeenObject {
                        node: name.clone(),
                        object: object.clone(),
                        seen: now,
                    });
                }
                // Deleted and made anew while nobody looked.
                let replaced = before.filter(|before| !is_same(before));
                taken.gone = replaced
                    .map(|old| old.gone(name.clone(), now))
                    .into_iter()
                    .collect();
                if self.nodes.len() < NODES_MAX {
                    self.nodes.insert(name, Last { object, seen: None });
                }
            }
            Change::Delete(node) => {
                let Some((name, object)) = summary(node) else {
                    return taken;
                };
                self.nodes.remove(&name);
                taken.gone.push(Last { object, seen: None }.gone(name, now));
            }
            Change::InitDone => {
                tracing::info!(nodes = self.nodes.len(), "nodes are watched");
                let listed = self.listed.take().unwrap_or_default();
                let missing = self.nodes.extract_if(|name, _| !listed.contains(name));
                taken.gone = missing.map(|(name, last)| last.gone(name, now)).collect();
            }
        }
        taken
    }
}

fn summary(node: Watched) -> Option<(NodeName, NodeObject)> {
    let metadata = node.metadata;
    let name = NodeName::new(metadata.name.as_deref()?)?;
    let status = node.status.unwrap_or_default();
    let mut managers: Vec<Manager> = metadata
        .managed_fields
        .unwrap_or_default()
        .into_iter()
        .map(|entry| Manager {
            name: short(&entry.manager.unwrap_or_default()),
            at: entry.time.as_ref().map(time),
        })
        .collect();
    managers.sort_by_key(|manager| std::cmp::Reverse(manager.at));
    managers.truncate(LIST_MAX);
    let taints = node.spec.taints.iter().take(LIST_MAX).map(|taint| Taint {
        key: short(&taint.key),
        value: short(&taint.value),
    });
    let finalizers = metadata.finalizers.unwrap_or_default();
    let object = NodeObject {
        uid: metadata.uid.unwrap_or_default(),
        boot: BootId::parse(&status.node_info.boot_id),
        taints: taints.collect(),
        finalizers: finalizers.iter().take(LIST_MAX).map(|f| short(f)).collect(),
        deletion: metadata.deletion_timestamp.as_ref().map(time),
        managers,
    };
    Some((name, object))
}

fn event(event: Event) -> NodeEvent {
    let at = event
        .last_timestamp
        .map(|at| at.0)
        .or(event.event_time.map(|at| at.0))
        .or(event.first_timestamp.map(|at| at.0));
    let source = event.source.and_then(|source| source.component);
    let by = event.reporting_component.filter(|by| !by.is_empty());
    NodeEvent {
        at: at.map(|at| time(&Time(at))),
        reason: short(&event.reason.unwrap_or_default()),
        by: short(&by.or(source).unwrap_or_default()),
        note: short(&event.message.unwrap_or_default()),
    }
}

fn time(at: &Time) -> Timestamp {
    Timestamp(u64::try_from(at.0.as_millisecond()).unwrap_or(0))
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn node(name: &str, uid: &str) -> Watched {
        let boot = "3f2b8c9e-0d1a-4b6f-9c3d-5e7a1b2c4d6f";
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": uid, "managedFields": [
                {"manager": "kubelet", "time": "2026-01-01T00:00:00Z"},
                {"manager": "kubectl-cordon", "time": "2026-01-02T00:00:00Z"},
            ]},
            "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {"bootID": boot}, "images": ["big"], "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "ExternalIP", "address": "192.0.2.1"},
            ]},
        }))
        .expect("a node")
    }

    fn names(deleted: &[Deleted]) -> Vec<(&str, &str)> {
        deleted
            .iter()
            .map(|d| (d.node.as_str(), d.object.uid.as_str()))
            .collect()
    }

    #[test]
    fn a_node_that_is_there_tells_its_internal_addresses() {
        let Some(Told::Found {
            node: name,
            addresses,
            mitigated,
        }) = found(&Change::Apply(node("a", "1")))
        else {
            panic!("it is there");
        };
        assert_eq!(name.as_str(), "a");
        let both: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(both, ["10.0.0.1", "fd00::1"]);
        assert!(!mitigated);
        for (kind, status, expected) in [
            (CONDITION_MITIGATION, "True", true),
            (CONDITION_MITIGATION, "False", false),
            ("Ready", "True", false),
        ] {
            let mut node = node("a", "1");
            let conditions = vec![RawCondition {
                kind: kind.to_owned(),
                status: status.to_owned(),
            }];
            node.status.get_or_insert_default().conditions = conditions;
            let told = found(&Change::Apply(node));
            let Some(Told::Found { mitigated, .. }) = told else {
                panic!("it is there");
            };
            assert_eq!(mitigated, expected, "{kind}={status}");
        }
        assert!(found(&Change::Delete(node("a", "1"))).is_none());
    }

    /// A list of all nodes; gives what is gone by it.
    fn begin(known: &mut Known, nodes: Vec<Watched>) -> Vec<Deleted> {
        let mut gone = known.take(Change::Init, NOW).gone;
        for node in nodes {
            gone.extend(known.take(Change::InitApply(node), NOW).gone);
        }
        gone.extend(known.take(Change::InitDone, NOW).gone);
        gone
    }

    #[test]
    fn what_is_deleted_is_known_also_if_nobody_could_look() {
        let mut known = Known::default();
        let all = vec![node("a", "1"), node("b", "2"), node("c", "3")];
        assert!(begin(&mut known, all).is_empty(), "these are the first");
        let new = known.take(Change::Apply(node("d", "4")), NOW);
        assert!(new.gone.is_empty());
        assert_eq!(new.seen.map(|seen| seen.object.uid).as_deref(), Some("4"));
        let same = known.take(Change::Apply(node("d", "4")), NOW);
        assert!(same.seen.is_none(), "it shows nothing new");
        let gone = known.take(Change::Delete(node("a", "1")), NOW).gone;
        assert_eq!(names(&gone), [("a", "1")]);
        assert_eq!(gone[0].object.taints[0].key, "dedicated");
        assert_eq!(gone[0].object.managers[0].name, "kubectl-cordon");
        assert!(gone[0].object.boot.is_some());
        assert_eq!(gone[0].at, NOW);

        // The watch was broken, and meanwhile b was replaced, and d deleted.
        let gone = begin(&mut known, vec![node("b", "5"), node("c", "3")]);
        assert_eq!(names(&gone), [("b", "2"), ("d", "4")]);
    }
    #[test]
    fn what_went_while_no_annotator_ran_is_missing_in_the_first_list() {
        let earlier = Timestamp(NOW.0 - 60_000);
        let before = |name: &str, uid: &str| {
            let (node, object) = summary(node(name, uid)).expect("a node");
            let seen = earlier;
            SeenObject { node, object, seen }
        };
        let mut known = Known::default();
        let all = [("a", "1"), ("b", "2"), ("c", "3"), ("c", "4")].map(|(n, u)| before(n, u));
        let gone = known.restore(all.into(), NOW);
        assert_eq!(names(&gone), [("c", "3")], "another one of its name came");
        let gone = begin(&mut known, vec![node("b", "5"), node("c", "4")]);
        assert_eq!(names(&gone), [("b", "2"), ("a", "1")]);
        assert!(gone.iter().all(|one| one.seen == Some(earlier)));
        assert_eq!(gone[0].object.taints[0].key, "dedicated");
        // From now on somebody looks.
        let gone = begin(&mut known, vec![node("b", "5")]);
        assert_eq!(names(&gone), [("c", "4")]);
        assert_eq!(gone[0].seen, None);
    }
}
