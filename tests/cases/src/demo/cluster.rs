//! The dead node's side in a real cluster: its pods, and a watch that notes
//! when each of them was told.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_core::model::PodRef;
use anyhow::{Context as _, Result, anyhow, bail};
use futures::TryStreamExt as _;
use harness::controlplane::{Options, Unavailable};
use harness::tool::Skip;
use k8s_openapi::api::core::v1::{Node as CoreNode, Pod};
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use lastgasp::k8s::CONDITION_PANIC;
use tokio::runtime::Runtime;

use crate::kube::{self as cases, Cluster, Kind, Node};
use crate::node::NAME;

/// Pods that must be told: 110 ...
const TOLD: [(Kind, usize); 6] = [
    (Kind::Job, 30),
    (Kind::Replica, 50),
    (Kind::Stateful, 16),
    (Kind::Bare, 8),
    (Kind::Pending, 4),
    (Kind::DuplicateEnv, 2),
];
/// ... and some that must be left alone.
const LEFT_ALONE: [(Kind, usize); 4] = [
    (Kind::Daemon, 4),
    (Kind::Mirror, 3),
    (Kind::Succeeded, 2),
    (Kind::Failed, 2),
];

/// The annotation that is waited for.
pub(super) const CODE: &str = "lastgasp.dev/reason-code";

/// What the watches have seen.
#[derive(Debug, Default)]
struct Seen {
    /// When the Node condition became true, and its message.
    condition: Option<(Instant, String)>,
    /// When each pod's annotation came, or last changed, and the reason code.
    pods: BTreeMap<String, (Instant, String)>,
    /// Why a watch ended, if one did.
    failed: Option<String>,
}

/// What is known by the watches of pods with the true reason.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When the Node condition became true, and its message.
    pub(super) condition: Option<(Instant, String)>,
    /// How many pods carry the reason.
    pub(super) count: usize,
    /// When the last of them got it.
    pub(super) last: Option<Instant>,
    /// Why a watch ended, if one did.
    pub(super) failed: Option<String>,
}

/// A control plane with the node and its pods.
pub(super) struct InCluster {
    /// Dropped first: its tasks use the rest.
    runtime: Runtime,
    cluster: Cluster,
    admin: Client,
    node: Node,
    seen: Arc<Mutex<Seen>>,
}

impl InCluster {
    /// Starts the control plane and applies `deploy/`.
    pub(super) fn start() -> Result<Self> {
        let cluster = cases::start(Options::default()).map_err(|error| match error {
            Unavailable::Skip(reason) => Skip(reason).into(),
            Unavailable::Broken(error) => error,
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("no runtime")?;
        let admin = runtime.block_on(cluster.admin())?;
        let node = Node {
            name: NAME.to_owned(),
            pods: BTreeMap::new(),
        };
        Ok(Self {
            runtime,
            cluster,
            admin,
            node,
            seen: Arc::default(),
        })
    }

    /// Creates the node and its pods, and begins to watch them.
    pub(super) fn fill(&mut self) -> Result<()> {
        let pods: Vec<(Kind, usize)> = TOLD.iter().chain(&LEFT_ALONE).copied().collect();
        self.node = self
            .runtime
            .block_on(Node::create(&self.admin, NAME, &pods))?;
        self.watch(NAME, &self.seen);
        Ok(())
    }

    /// Notes what is said of a node and its pods, and when.
    ///
    /// The machine has few CPUs, and what the watch costs the patches lack: so
    /// of pods only the metadata are read, and the yardstick's are watched too.
    fn watch(&self, name: &str, seen: &Arc<Mutex<Seen>>) {
        let (admin, name) = (self.admin.clone(), name.to_owned());
        let seen = Arc::clone(seen);
        self.runtime.spawn(async move {
            let error = tokio::select! {
                end = watch_node(&admin, &name, &seen) => end.err(),
                end = watch_pods(&admin, &name, &seen) => end.err(),
            };
            if let (Some(error), Ok(mut seen)) = (error, seen.lock()) {
                seen.failed = Some(format!("{error:#}"));
            }
        });
    }

    /// The kubeconfig with the rights of `deploy/annotator.yaml`.
    pub(super) fn kubeconfig(&self) -> std::path::PathBuf {
        self.cluster.plane.kubeconfig(&cases::annotator())
    }

    /// What the watch has seen so far of pods that carry this code.
    pub(super) fn seen(&self, code: &str) -> Told {
        let Ok(seen) = self.seen.lock() else {
            return Told::default();
        };
        let told = seen.pods.values().filter(|(_, told)| told == code);
        Told {
            condition: seen.condition.clone(),
            count: told.clone().count(),
            last: told.map(|(at, _)| *at).max(),
            failed: seen.failed.clone(),
        }
    }

    /// How many pods are to be told.
    pub(super) fn eligible(&self) -> usize {
        self.node.eligible()
    }

    /// All pods, as the API server lists them.
    pub(super) fn pods(&self) -> Result<Vec<(Kind, Pod)>> {
        self.runtime.block_on(self.node.list(&self.admin))
    }

    /// All pods by name and uid.
    pub(super) fn references(&self) -> Result<Vec<PodRef>> {
        let named = |(_, pod): (Kind, Pod)| PodRef {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
        };
        Ok(self.pods()?.into_iter().map(named).collect())
    }

    /// The same patches by a bare loop, on another node's pods.
    pub(super) fn bare_loop(&self, name: &str) -> Result<Duration> {
        self.runtime.block_on(async {
            let pods = [(Kind::Replica, self.eligible())];
            let node = Node::create(&self.admin, name, &pods).await?;
            self.watch(name, &Arc::default());
            cases::bare_loop(&self.cluster, &node).await
        })
    }

    /// What the garbage collector does to a dead node and its pods, at once.
    pub(super) fn collect_garbage(&self) -> Result<()> {
        self.runtime.block_on(async {
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            let all = ListParams::default();
            let pods: Api<Pod> = Api::namespaced(self.admin.clone(), NAME);
            pods.delete_collection(&now, &all).await?;
            Api::<CoreNode>::all(self.admin.clone())
                .delete(NAME, &now)
                .await?;
            let deadline = Instant::now() + Duration::from_secs(20);
            while !pods.list(&all).await?.items.is_empty() {
                if Instant::now() > deadline {
                    bail!("the deleted pods are still there");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
    }
}

async fn watch_node(admin: &Client, name: &str, seen: &Mutex<Seen>) -> Result<()> {
    let api: Api<CoreNode> = Api::all(admin.clone());
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let changes = api.watch(&params, "0").await?;
    let mut changes = pin!(changes);
    while let Some(change) = changes.try_next().await? {
        let (WatchEvent::Added(node) | WatchEvent::Modified(node)) = change else {
            continue;
        };
        let at = Instant::now();
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let condemned = conditions
            .into_iter()
            .find(|c| c.type_ == CONDITION_PANIC && c.status == "True");
        if let (Some(condition), Ok(mut seen)) = (condemned, seen.lock()) {
            let message = condition.message.unwrap_or_default();
            seen.condition.get_or_insert((at, message));
        }
    }
    Err(anyhow!("the watch of the node ended"))
}

async fn watch_pods(admin: &Client, name: &str, seen: &Mutex<Seen>) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(admin.clone(), name);
    let changes = api.watch_metadata(&WatchParams::default(), "0").await?;
    let mut changes = pin!(changes);
    while let Some(change) = changes.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = change else {
            continue;
        };
        let at = Instant::now();
        let code = pod
            .metadata
            .annotations
            .and_then(|mut all| all.remove(CODE));
        let (Some(name), Some(code)) = (pod.metadata.name, code) else {
            continue;
        };
        if let Ok(mut seen) = seen.lock() {
            let is_new = seen.pods.get(&name).is_none_or(|(_, old)| *old != code);
            if is_new {
                seen.pods.insert(name, (at, code));
            }
        }
    }
    Err(anyhow!("the watch of the pods ended"))
}
