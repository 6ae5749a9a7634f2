//! A node with its pods, as a kubelet leaves them.

use std::collections::BTreeMap;

use agent_core::model::{
    BootId, Channel, Death, DeathName, DeathState, Evidence, NodeName, Notice, Opinion, Proof,
    ReasonCode, Report, Step,
};
use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node as CoreNode, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// What kind of pod, by what it means for a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a Job.
    Job,
    /// Of a ReplicaSet.
    Replica,
    /// Of a StatefulSet.
    Stateful,
    /// Nobody's.
    Bare,
    /// Bound, but not started yet.
    Pending,
    /// Two environment variables of one name: server-side apply fails on it.
    DuplicateEnv,
    /// Annotations of others, and of an older death.
    Annotated,
    /// Of a DaemonSet.
    Daemon,
    /// A static pod's image in the API server.
    Mirror,
    /// Succeeded.
    Succeeded,
    /// Failed.
    Failed,
}

/// What a node of 110 pods runs: how many of each.
const PODS: [(Kind, usize); 11] = [
    (Kind::Bare, 8),
    (Kind::Stateful, 14),
    (Kind::Daemon, 10),
    (Kind::Mirror, 4),
    (Kind::Replica, 38),
    (Kind::Pending, 4),
    (Kind::DuplicateEnv, 1),
    (Kind::Annotated, 1),
    (Kind::Succeeded, 5),
    (Kind::Failed, 5),
    (Kind::Job, 20),
];

impl Kind {
    /// Whether its pods are to be told.
    pub fn is_eligible(self) -> bool {
        !matches!(
            self,
            Self::Daemon | Self::Mirror | Self::Succeeded | Self::Failed
        )
    }

    fn word(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Replica => "web",
            Self::Stateful => "db",
            Self::Bare => "bare",
            Self::Pending => "pending",
            Self::DuplicateEnv => "twice",
            Self::Annotated => "noted",
            Self::Daemon => "daemon",
            Self::Mirror => "static",
            Self::Succeeded => "done",
            Self::Failed => "lost",
        }
    }

    /// API version and kind of the controller.
    fn owner(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Job | Self::Succeeded | Self::Failed => Some(("batch/v1", "Job")),
            Self::Replica | Self::Pending => Some(("apps/v1", "ReplicaSet")),
            Self::Stateful => Some(("apps/v1", "StatefulSet")),
            Self::Daemon => Some(("apps/v1", "DaemonSet")),
            Self::Bare | Self::DuplicateEnv | Self::Annotated | Self::Mirror => None,
        }
    }

    fn phase(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Pending => "Pending",
            _ => "Running",
        }
    }
}

/// A node and its pods; the namespace has the node's name.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the node, and of the namespace.
    pub name: String,
    /// Pods by name, with their kind.
    pub pods: BTreeMap<String, Kind>,
}

impl Node {
    /// A node with 110 pods.
    pub async fn full(client: &Client, name: &str) -> Result<Self> {
        Self::create(client, name, &PODS).await
    }

    /// A node with as many pods of each kind.
    pub async fn create(client: &Client, name: &str, pods: &[(Kind, usize)]) -> Result<Self> {
        let node: CoreNode = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        let nodes: Api<CoreNode> = Api::all(client.clone());
        nodes.create(&PostParams::default(), &node).await?;
        let status = json!({"status": {
            "conditions": [condition("Ready")],
            "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
            "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
        }});
        let params = PatchParams::default();
        nodes
            .patch_status(name, &params, &Patch::Strategic(status))
            .await?;
        Self::pods_only(client, name, pods).await
    }

    /// Pods that are bound to a node whose object does not exist.
    pub async fn pods_only(client: &Client, name: &str, pods: &[(Kind, usize)]) -> Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let api: Api<Pod> = Api::namespaced(client.clone(), name);
        let pods: BTreeMap<String, Kind> = pods
            .iter()
            .flat_map(|(kind, count)| (0..*count).map(|i| (format!("{}-{i}", kind.word()), *kind)))
            .collect();
        stream::iter(pods.iter().enumerate())
            .map(|(i, (pod, kind))| create_pod(&api, name, pod, *kind, i))
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        Ok(Self {
            name: name.to_owned(),
            pods,
        })
    }

    /// How many pods are to be told.
    pub fn eligible(&self) -> usize {
        self.pods.values().filter(|kind| kind.is_eligible()).count()
    }

    /// The pods as they are now, with their kind.
    pub async fn list(&self, client: &Client) -> Result<Vec<(Kind, Pod)>> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.name);
        let list = api.list(&ListParams::default()).await?;
        list.items
            .into_iter()
            .map(|pod| {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let kind = self.pods.get(name).context("a pod that is not ours")?;
                Ok((*kind, pod))
            })
            .collect()
    }
}

async fn create_pod(api: &Api<Pod>, node: &str, name: &str, kind: Kind, i: usize) -> Result<()> {
    let mut metadata = json!({"name": name, "namespace": node});
    if let Some((version, owner)) = kind.owner() {
        // Five pods a workload.
        let owner_name = format!("{}-{}", kind.word(), i / 5);
        metadata["ownerReferences"] = json!([{
            "apiVersion": version, "kind": owner, "name": owner_name,
            "uid": format!("uid-of-{owner_name}"), "controller": true,
        }]);
    }
    match kind {
        Kind::Mirror => {
            metadata["annotations"] = json!({
                "kubernetes.io/config.mirror": "a hash",
                "kubernetes.io/config.source": "file",
            });
        }
        Kind::Annotated => {
            metadata["annotations"] = json!({
                "lastgasp.dev/death": "older-00000000",
                "lastgasp.dev/reason-code": "Restart",
                "example.com/note": "somebody else's",
            });
        }
        _ => {}
    }
    let env = match kind {
        Kind::DuplicateEnv => json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        _ => json!([{"name": "A", "value": "1"}]),
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "restartPolicy": if kind.owner().is_some_and(|o| o.1 == "Job") { "Never" } else { "Always" },
            "containers": [{"name": "main", "image": "app:1", "env": env}],
        },
    }))?;
    api.create(&PostParams::default(), &pod)
        .await
        .with_context(|| format!("cannot create pod {name}"))?;
    let status = json!({"status": {
        "phase": kind.phase(),
        "conditions": [condition("PodScheduled"), condition("Ready")],
    }});
    patch_pod(api, name, status).await
}

/// Changes the status of a pod, as its kubelet would.
pub async fn patch_pod(api: &Api<Pod>, name: &str, status: Value) -> Result<()> {
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Strategic(status))
        .await
        .with_context(|| format!("cannot patch pod {name}"))?;
    Ok(())
}

fn condition(type_: &str) -> Value {
    json!({"type": type_, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A panic by a NULL pointer on this node just now; `boot` tells its boots apart.
pub fn death(node: &str, boot: u8) -> Result<Death> {
    let node = NodeName::new(node).context("not a node name")?;
    let boot = BootId([boot; 16]);
    let at = lastgasp::annotate::now();
    Ok(Death {
        name: DeathName::of(&node, boot),
        node,
        node_uid: None,
        boot,
        state: DeathState::Dead,
        proof: Proof::P2,
        notice: Some(Notice::Panic),
        word: None,
        packet: None,
        report: Some(Report {
            code: ReasonCode::NullPointerDereference,
            title: "NULL pointer dereference in boom_timer".to_owned(),
            line: "BUG: kernel NULL pointer dereference, address: 0000000000000000".to_owned(),
            fault_function: Some("boom_timer".to_owned()),
            module: Some("boom".to_owned()),
            kernel_release: Some("6.12.48".to_owned()),
            comm: Some("swapper/1".to_owned()),
            corrupted: None,
            fingerprint: Some("cbf7e923b4b2dcec".to_owned()),
            known_bugs: Vec::new(),
        }),
        detected_at: at,
        happened_at: at,
        evidence: vec![Evidence {
            channel: Channel::Gasp,
            at,
            text: "panic, in a soft interrupt".to_owned(),
        }],
        steps: vec![Step {
            proof: Proof::P2,
            at,
            by: Channel::Gasp,
            text: "an authenticated panic".to_owned(),
        }],
        channels: Vec::new(),
        lease: Opinion::Open,
        kernel_release: Some("6.12.48".to_owned()),
    })
}
