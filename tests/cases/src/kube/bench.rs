//! How fast a node's pods are told, beside a bare loop of the same patches.

use std::pin::pin;
use std::time::{Duration, Instant};

use agent_core::engine::{Keys, annotations};
use anyhow::{Result, bail, ensure};
use futures::future::try_join;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node as CoreNode, Pod};
use kube::api::{PartialObjectMeta, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use lastgasp::k8s::{CONDITION_PANIC, PodResult, Writer};
use serde_json::{Value, json};

use super::{Cluster, Kind, Node, annotator, death};

/// Pods of the dead node.
const PODS: usize = 110;

/// One figure over all runs, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    /// The middle one of all runs.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn line(&self, metric: &str, yardstick: &Value) -> Value {
        json!({
            "bench": "kube-pods",
            "case": {"pods": PODS},
            "metric": metric,
            "unit": "ms",
            "value": round(self.median()),
            "runs": self.0.len(),
            "min": round(self.0.iter().copied().fold(f64::INFINITY, f64::min)),
            "max": round(self.0.iter().copied().fold(0.0, f64::max)),
            "yardstick": yardstick,
        })
    }
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

/// Kills `runs` nodes of 110 pods; the figures as JSON objects, one a line.
pub async fn bench_pods(cluster: &Cluster, runs: usize) -> Result<Vec<Value>> {
    let admin = cluster.admin().await?;
    let settings = cluster.settings();
    let writer = Writer::connect(&settings).await?;
    let bare = cluster.client(&annotator()).await?;
    let mut condition = Figures::default();
    let mut told = Figures::default();
    let mut all = Figures::default();
    let mut loops = Figures::default();
    for run in 0..=runs {
        let pods = [(Kind::Replica, PODS)];
        let ours = Node::create(&admin, &format!("bench-a-{run}"), &pods).await?;
        let theirs = Node::create(&admin, &format!("bench-b-{run}"), &pods).await?;
        writer.warm().await?;
        warm(&bare, settings.pods_in_flight).await?;
        let first = one_loop(&admin, &bare, &theirs, settings.pods_in_flight);
        let second = one_death(&admin, &writer, &ours);
        // Who goes second finds the server's caches warmer: take turns.
        let (bare_time, times) = if run % 2 == 0 {
            let bare_time = first.await?;
            (bare_time, second.await?)
        } else {
            let times = second.await?;
            (first.await?, times)
        };
        // The first run warms connections and the server: not counted.
        if run > 0 {
            condition.push(times.condition);
            told.push(times.told);
            all.push(times.all);
            loops.push(bare_time);
        }
    }
    let limit = |ms: u32| json!({"limit_ms": ms});
    Ok(vec![
        condition.line("receipt_to_node_condition", &limit(50)),
        told.line(
            "annotate_call_to_110th_pod",
            &json!({"bare_loop_ms": round(loops.median()),
                "ratio": (told.median() / loops.median() * 100.0).round() / 100.0, "ratio_limit": 1.2}),
        ),
        all.line("receipt_to_110th_pod", &limit(1000)),
    ])
}

/// How long one death took.
struct Times {
    /// From receipt until a watch showed the Node condition.
    condition: Duration,
    /// From the call until the 110th pod was told.
    told: Duration,
    /// From receipt until the 110th pod was told.
    all: Duration,
}

async fn one_death(admin: &Client, writer: &Writer, node: &Node) -> Result<Times> {
    let death = death(&node.name, 1)?;
    let annotations = annotations(&death, &Keys::default());
    let nodes: Api<CoreNode> = Api::all(admin.clone());
    let version = nodes.get(&node.name).await?.metadata.resource_version;
    let params = WatchParams::default().fields(&format!("metadata.name={}", node.name));
    let watch = nodes
        .watch(&params, version.as_deref().unwrap_or("0"))
        .await?;
    let mut changes = pin!(watch);
    let received = Instant::now();
    let seen = async {
        while let Some(change) = changes.try_next().await? {
            if matches!(change, WatchEvent::Modified(node) if is_condemned(&node)) {
                return Ok(received.elapsed());
            }
        }
        bail!("the watch ended before the condition came")
    };
    let marked = async { Ok(writer.mark_node(&death).await?) };
    let (condition, ()) = try_join(seen, marked).await?;
    let called = Instant::now();
    let mut last = called;
    let tally = writer
        .annotate_pods(&death, &annotations, |pod| {
            if pod.result == PodResult::Annotated {
                last = Instant::now();
            }
        })
        .await?;
    ensure!(tally.annotated == PODS as u32, "not all told: {tally:?}");
    Ok(Times {
        condition,
        told: last - called,
        all: last - received,
    })
}

/// The writer's connections are warm, so these have to be too.
async fn warm(client: &Client, count: usize) -> Result<()> {
    let asked = (0..count).map(|_| client.apiserver_version());
    futures::future::try_join_all(asked).await?;
    Ok(())
}

fn is_condemned(node: &CoreNode) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c.type_ == CONDITION_PANIC && c.status == "True")
    })
}

/// The yardstick by itself: all pods of this node patched by the writer's user
/// over warm connections, at the writer's concurrency.
pub async fn bare_loop(cluster: &Cluster, node: &Node) -> Result<Duration> {
    let admin = cluster.admin().await?;
    let bare = cluster.client(&annotator()).await?;
    let in_flight = cluster.settings().pods_in_flight;
    warm(&bare, in_flight).await?;
    one_loop(&admin, &bare, node, in_flight).await
}

/// The yardstick: the same patches at the same concurrency, and nothing else.
async fn one_loop(
    admin: &Client,
    client: &Client,
    node: &Node,
    in_flight: usize,
) -> Result<Duration> {
    // As the writer does: of the answer only the metadata are parsed.
    let api: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), &node.name);
    let death = death(&node.name, 1)?;
    let annotations = annotations(&death, &Keys::default());
    let patches: Vec<(String, Value)> = node
        .list(admin)
        .await?
        .into_iter()
        .map(|(_, pod)| {
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid, "annotations": annotations},
                "status": {"conditions": [{
                    "type": "lastgasp.dev/NodeDied", "status": "True",
                    "reason": "NullPointerDereference",
                    "message": "Kernel panic: NULL pointer dereference in boom_timer [boom]",
                    "lastTransitionTime": "2026-09-21T14:13:20Z",
                }]},
            });
            (pod.metadata.name.unwrap_or_default(), patch)
        })
        .collect();
    let params = PatchParams {
        field_manager: Some("bare-loop".to_owned()),
        ..PatchParams::default()
    };
    let start = Instant::now();
    let done: Vec<kube::Result<PartialObjectMeta<Pod>>> = stream::iter(&patches)
        .map(|(name, patch)| {
            let (api, params) = (&api, &params);
            async move {
                api.patch_status(name, params, &Patch::Strategic(patch))
                    .await
            }
        })
        .buffer_unordered(in_flight)
        .collect()
        .await;
    let time = start.elapsed();
    for pod in done {
        pod?;
    }
    Ok(time)
}
