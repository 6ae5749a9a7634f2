//! The annotator as a user runs it, against a real API server, told of deaths
//! by sealed datagrams: whatever fails, each pod is told, once.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_core::model::{BootId, DeathName, NodeName, Notice, PreviousBoot};
use anyhow::{Context, Result, bail, ensure};
use cases::annotator::STORE;
use cases::kube::{
    Annotator, Cluster, Kind, NULL_POINTER, Node, Speaker, annotator, ask, cluster, start,
    unavailable,
};
use futures::TryStreamExt as _;
use harness::controlplane::Options;
use k8s_openapi::api::core::v1::{Node as CoreNode, NodeCondition, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use lastgasp::k8s::{
    ANNOTATION_DEATH, ANNOTATION_REASON_CODE, CONDITION_OOPS, CONDITION_PANIC, NodeDeath, TAINT,
};

#[path = "kube_annotator/mitigation.rs"]
mod mitigation;
#[path = "kube_annotator/removal.rs"]
mod removal;
#[path = "kube_annotator/silence.rs"]
mod silence;

/// Longest wait for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The annotation for people.
const REASON: &str = "lastgasp.dev/reason";

/// When the boots of these cases die, in milliseconds of their own clock.
const DIES_MS: u64 = 100_000;

/// Runs one case at a time: they measure, and have two CPUs.
fn turn<F: Future<Output = Result<()>>>(body: impl FnOnce() -> F) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs nothing that a test machine lacks");
    if let Err(error) = runtime.block_on(body()) {
        panic!("{error:?}");
    }
}

fn death_name(node: &str, boot: u8) -> Result<String> {
    let node = NodeName::new(node).context("not a node name")?;
    Ok(DeathName::of(&node, BootId([boot; 16])).to_string())
}

/// The pods of a namespace, watched for the annotation of one death.
struct ToldPods {
    pods: Api<Pod>,
    death: String,
    version: String,
    names: BTreeSet<String>,
}

impl ToldPods {
    /// Begins to watch, before the death.
    async fn watch(client: &Client, node: &str, death: &str) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), node);
        let list = pods.list(&ListParams::default()).await?;
        let mut told = Self {
            pods,
            death: death.to_owned(),
            version: list.metadata.resource_version.unwrap_or_default(),
            names: BTreeSet::new(),
        };
        for pod in &list.items {
            told.note(pod);
        }
        Ok(told)
    }

    fn note(&mut self, pod: &Pod) {
        let annotations = pod.metadata.annotations.as_ref();
        let death = annotations.and_then(|all| all.get(ANNOTATION_DEATH));
        if death == Some(&self.death) {
            self.names.extend(pod.metadata.name.clone());
        }
    }

    /// Waits until so many pods are told.
    async fn until(&mut self, count: usize) -> Result<Instant> {
        let wait = async {
            let params = WatchParams::default();
            let watch = self.pods.watch(&params, &self.version).await?;
            let mut changes = pin!(watch);
            while self.names.len() < count {
                match changes.try_next().await? {
                    Some(WatchEvent::Modified(pod) | WatchEvent::Added(pod)) => self.note(&pod),
                    Some(_) => {}
                    None => bail!("the watch ended"),
                }
            }
            Ok(Instant::now())
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let told = self.names.len();
        waited.with_context(|| format!("{told} of {count} pods told within {PATIENCE:?}"))?
    }
}

/// Waits for a condition of a node to become true, by a watch.
async fn condemned(client: &Client, name: &str, type_: &str) -> Result<(Instant, NodeCondition)> {
    let nodes: Api<CoreNode> = Api::all(client.clone());
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let wait = async {
        // From the beginning: the watch first gives the node as it is.
        let watch = nodes.watch(&params, "0").await?;
        let mut changes = pin!(watch);
        while let Some(change) = changes.try_next().await? {
            if let WatchEvent::Added(node) | WatchEvent::Modified(node) = change
                && let Some(found) = condition(&node, type_)
                && found.status == "True"
            {
                return Ok((Instant::now(), found));
            }
        }
        bail!("the watch ended")
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.with_context(|| format!("node {name} gets no {type_} within {PATIENCE:?}"))?
}

fn condition(node: &CoreNode, type_: &str) -> Option<NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).cloned()
}

async fn is_tainted(client: &Client, name: &str) -> Result<bool> {
    let node = Api::<CoreNode>::all(client.clone()).get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    Ok(taints.iter().any(|taint| taint.key == TAINT))
}

/// Waits until something is so.
async fn eventually<F: Future<Output = Result<bool>>>(
    what: &str,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let start = Instant::now();
    while !is_so().await? {
        ensure!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn pods_annotated(client: &Client, death: &str) -> Result<()> {
    let deaths: Api<NodeDeath> = Api::all(client.clone());
    eventually("the NodeDeath says that its pods are told", || async {
        let found = deaths.get_opt(death).await?;
        let status = found.and_then(|death| death.status);
        Ok(status.is_some_and(|status| {
            let done = |c: &lastgasp::k8s::Condition| c.type_ == "PodsAnnotated";
            status.conditions.iter().any(done)
        }))
    })
    .await
}

/// Each eligible pod carries the death with its true reason, and no other pod.
async fn all_told(client: &Client, node: &Node, death: &str, code: &str) -> Result<()> {
    for (kind, pod) in node.list(client).await? {
        let own = pod.metadata.annotations.unwrap_or_default();
        let told = own.get(ANNOTATION_DEATH).map(String::as_str) == Some(death);
        ensure!(told == kind.is_eligible(), "{:?}", pod.metadata.name);
        let has = own.get(ANNOTATION_REASON_CODE).map(String::as_str);
        ensure!(
            !told || has == Some(code),
            "{:?}: {has:?}",
            pod.metadata.name
        );
    }
    Ok(())
}

/// How often each pod of a node was written by the annotator, as the API
/// server recorded it.
async fn pod_writes(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, u32>> {
    let mut writes = BTreeMap::new();
    for event in cluster.writes().await? {
        let object = event.object_ref;
        let ours = object.resource == "pods" && object.namespace == node;
        if ours && event.response_status.code == 200 {
            *writes.entry(object.name).or_default() += 1;
        }
    }
    Ok(writes)
}

/// `reason kind/name` of the events about a node or, in its namespace, about
/// the workloads that it ran.
async fn events(client: &Client, namespace: &str, node: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let list = events.list(&ListParams::default()).await?;
    let about = |event: Event| {
        let regarding = event.regarding?;
        let (kind, name) = (regarding.kind?, regarding.name?);
        let wanted = namespace == node || name == node;
        wanted.then_some(format!("{} {kind}/{name}", event.reason?))
    };
    let mut lines: Vec<String> = list.items.into_iter().filter_map(about).collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn a_death_reaches_node_and_pods_and_is_still_explained_when_they_are_gone() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let (name, death) = ("dies", death_name("dies", 1)?);
        let node = Node::full(&admin, name).await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let annotator = Annotator::start(directory.path(), &kubeconfig, &[])?;

        Speaker::new(name, 1, annotator.gasps)?.die(DIES_MS)?;
        pods_annotated(&admin, &death).await?;

        let (_, panic) = condemned(&admin, name, CONDITION_PANIC).await?;
        ensure!(panic.reason.as_deref() == Some("NullPointerDereference"));
        let message = panic.message.unwrap_or_default();
        ensure!(message.contains("boom_timer [boom]"), "{message}");
        ensure!(is_tainted(&admin, name).await?);
        all_told(&admin, &node, &death, "NullPointerDereference").await?;
        let writes = pod_writes(cluster, name).await?;
        ensure!(writes.len() == node.eligible(), "{}", writes.len());
        ensure!(writes.values().all(|count| *count == 1), "{writes:?}");

        let record = Api::<NodeDeath>::all(admin.clone()).get(&death).await?;
        let status = record.status.context("a NodeDeath without status")?;
        ensure!(status.fault_function.as_deref() == Some("boom_timer"));
        let counts = status.pods.context("a NodeDeath without pods")?;
        ensure!(counts.annotated as usize == node.eligible());
        let on_node = events(&admin, "default", name).await?;
        ensure!(on_node.contains(&format!("NodeDied Node/{name}")));
        let workloads = events(&admin, name, name).await?;
        let distinct: BTreeSet<&String> = workloads.iter().collect();
        ensure!(distinct.len() == workloads.len(), "{workloads:?}");
        ensure!(
            workloads
                .iter()
                .any(|line| line.starts_with("NodeDied Job/"))
        );

        // What a garbage collector does after some minutes.
        let pods: Api<Pod> = Api::namespaced(admin.clone(), name);
        let now = DeleteParams::default().grace_period(0);
        for pod in node.pods.keys() {
            pods.delete(pod, &now).await?;
        }
        Api::<CoreNode>::all(admin.clone())
            .delete(name, &now)
            .await?;
        Api::<NodeDeath>::all(admin.clone())
            .delete(&death, &now)
            .await?;
        let (pod, _) = node
            .pods
            .iter()
            .find(|(_, kind)| kind.is_eligible())
            .context("a pod that was told")?;
        for asked in [format!("{name}/{pod}"), format!("node/{name}")] {
            let answer = annotator.why(&asked)?;
            ensure!(
                answer["reason_code"] == "NullPointerDereference",
                "{asked}: {answer}"
            );
        }
        annotator.kill()?;
        // Also without an annotator, from what it left on its disk.
        let store = directory.path().join(STORE).display().to_string();
        let (status, text) = ask(&["why", &format!("{name}/{pod}"), "--store", &store])?;
        ensure!(status.success() && text.contains("boom_timer"), "{text}");
        let (status, text) = ask(&["why", "node/never-heard-of", "--store", &store])?;
        ensure!(status.code() == Some(3), "{status} {text}");
        Ok(())
    });
}

#[test]
fn a_node_whose_power_went_is_explained_once_it_is_back_and_an_orderly_reboot_is_none() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let node = Node::create(&admin, "cut", &[(Kind::Job, 2), (Kind::Daemon, 1)]).await?;
        Node::create(&admin, "orderly", &[(Kind::Job, 1)]).await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let annotator = Annotator::start(directory.path(), &kubeconfig, &[])?;

        // One is told to stop, though its goodbye is all that says so.
        let mut orderly = Speaker::new("orderly", 1, annotator.gasps)?;
        orderly.hello(1_000, None)?;
        orderly.goodbye(DIES_MS)?;
        Speaker::new("orderly", 2, annotator.gasps)?.hello(1_000, None)?;
        // The other just goes.
        let mut cut = Speaker::new("cut", 1, annotator.gasps)?;
        cut.hello(1_000, None)?;
        cut.heartbeat(DIES_MS)?;
        let found = PreviousBoot {
            boot: BootId([1; 16]),
            stopped: false,
        };
        Speaker::new("cut", 2, annotator.gasps)?.hello(1_000, Some(found))?;

        let death = death_name("cut", 1)?;
        pods_annotated(&admin, &death).await?;
        all_told(&admin, &node, &death, "Unknown").await?;
        for (kind, pod) in node.list(&admin).await? {
            let own = pod.metadata.annotations.unwrap_or_default();
            let reason = own.get(REASON).cloned().unwrap_or_default();
            let told = reason.starts_with("Ended without a word: power, hardware, ");
            ensure!(told == kind.is_eligible(), "{reason}");
        }
        ensure!(!is_tainted(&admin, "cut").await?, "it is back");
        let deaths: Api<NodeDeath> = Api::all(admin.clone());
        let orderly = deaths.get_opt(&death_name("orderly", 1)?).await?;
        ensure!(orderly.is_none(), "{orderly:?}");
        annotator.kill()
    });
}

#[test]
fn an_annotator_that_is_killed_among_its_pods_goes_on_where_it_was() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let (name, death) = ("killed", death_name("killed", 1)?);
        let node = Node::full(&admin, name).await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let in_flight = 2;
        let slowly = ["--pods-in-flight", "2"];
        let first = Annotator::start(directory.path(), &kubeconfig, &slowly)?;
        let mut told = ToldPods::watch(&admin, name, &death).await?;

        Speaker::new(name, 1, first.gasps)?.die(DIES_MS)?;
        told.until(30).await?;
        first.kill()?;
        let half = ToldPods::watch(&admin, name, &death).await?.names.len();
        ensure!(
            half < node.eligible(),
            "killed too late: all {half} pods are told"
        );

        let second = Annotator::start(directory.path(), &kubeconfig, &slowly)?;
        pods_annotated(&admin, &death).await?;
        all_told(&admin, &node, &death, "NullPointerDereference").await?;
        let writes = pod_writes(cluster, name).await?;
        // A write whose client died is carried out, but the audit log may have no answer for
        // it. That all pods are told was read from the pods themselves above.
        let audited = writes.len();
        ensure!(
            (node.eligible() - in_flight..=node.eligible()).contains(&audited),
            "{audited} writes audited for {} pods",
            node.eligible()
        );
        ensure!(writes.values().all(|count| *count == 1), "{writes:?}");
        println!(
            "killed after {half} of {} pods: each was written once",
            node.eligible()
        );
        drop(second);
        Ok(())
    });
}

#[test]
fn an_api_server_that_is_away_while_the_annotator_restarts_costs_only_time() {
    turn(|| async {
        let full = std::env::var("LASTGASP_FULL").is_ok_and(|value| value == "1");
        let away = Duration::from_secs(if full { 30 } else { 5 });
        let audited = Options {
            audit: true,
            ..Options::default()
        };
        match start(audited) {
            Ok(cluster) => outage(cluster, away).await,
            Err(error) => {
                unavailable(&error);
                Ok(())
            }
        }
    });
}

async fn outage(mut cluster: Cluster, away: Duration) -> Result<()> {
    let admin = cluster.admin().await?;
    let (name, death) = ("cut-off", death_name("cut-off", 1)?);
    let node = Node::full(&admin, name).await?;
    let directory = tempfile::tempdir()?;
    let kubeconfig = cluster.plane.kubeconfig(&annotator());
    let slowly = ["--pods-in-flight", "2"];
    let first = Annotator::start(directory.path(), &kubeconfig, &slowly)?;
    let mut told = ToldPods::watch(&admin, name, &death).await?;

    Speaker::new(name, 1, first.gasps)?.die(DIES_MS)?;
    told.until(30).await?;
    cluster.plane.stop_apiserver();
    let gone = Instant::now();
    first.kill()?;
    // The record of a server that is gone does not grow.
    let patches = cluster.plane.audit()?.into_iter();
    let half = patches
        .filter(|e| e.object_ref.resource == "pods" && e.user.username == annotator().name)
        .count();
    ensure!(half < node.eligible(), "the outage came too late");
    let second = Annotator::start(directory.path(), &kubeconfig, &slowly)?;
    // It knows, although it can tell nobody.
    let answer = second.why(&format!("node/{name}"))?;
    ensure!(
        answer["reason_code"] == "NullPointerDereference",
        "{answer}"
    );
    tokio::time::sleep(away.saturating_sub(gone.elapsed())).await;
    cluster.plane.start_apiserver()?;
    let back = Instant::now();
    let outage = gone.elapsed();

    pods_annotated(&admin, &death).await?;
    println!(
        "API server away for {:.1} s after {half} of {} pods; all told {:.1} s after its return",
        outage.as_secs_f64(),
        node.eligible(),
        back.elapsed().as_secs_f64(),
    );
    all_told(&admin, &node, &death, "NullPointerDereference").await?;
    // What the dying server took last may be missing in its record, no more.
    let writes = pod_writes(&cluster, name).await?;
    ensure!(writes.values().all(|count| *count == 1), "{writes:?}");
    ensure!(writes.len() + 2 >= node.eligible(), "{}", writes.len());
    Ok(())
}

#[test]
fn an_oops_that_is_survived_touches_no_pod_and_names_no_later_death() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let directory = tempfile::tempdir()?;
        let annotator = Annotator::start(directory.path(), &kubeconfig, &[])?;
        for (name, is_told) in [("survives", true), ("survives-unheard", false)] {
            let node = Node::create(&admin, name, &[(Kind::Job, 3), (Kind::Bare, 2)]).await?;
            let before = node.list(&admin).await?;
            let mut speaker = Speaker::new(name, 1, annotator.gasps)?;
            speaker.heartbeat(DIES_MS - 1_000)?;
            speaker.word(Notice::Oops, DIES_MS, NULL_POINTER[0])?;
            speaker.lines(DIES_MS, &NULL_POINTER)?;
            if is_told {
                speaker.survived(DIES_MS + 3_000)?;
            }
            // Its heartbeats go on, well past what a dying node could send.
            speaker.heartbeat(DIES_MS + 11_000)?;

            let (_, oops) = condemned(&admin, name, CONDITION_OOPS).await?;
            ensure!(
                oops.reason.as_deref() == Some("NullPointerDereference"),
                "{oops:?}"
            );
            let asked = format!("node/{name}");
            eventually("the oops counts as survived", || async {
                let answer = annotator.why(&asked);
                Ok(answer.is_ok_and(|answer| answer["death"]["state"] == "Survived"))
            })
            .await?;
            eventually("an event on the node", || async {
                let events = events(&admin, "default", name).await?;
                Ok(events == [format!("KernelOops Node/{name}")])
            })
            .await?;
            ensure!(!is_tainted(&admin, name).await?);
            ensure!(pod_writes(cluster, name).await?.is_empty());
            ensure!(node.list(&admin).await? == before);
            let death = death_name(name, 1)?;
            let deaths: Api<NodeDeath> = Api::all(admin.clone());
            ensure!(deaths.get_opt(&death).await?.is_none());

            // A minute later somebody crashes the machine.
            let crash = "Kernel panic - not syncing: sysrq triggered crash";
            speaker.word(Notice::Panic, DIES_MS + 60_000, crash)?;
            speaker.lines(DIES_MS + 60_000, &["sysrq: Trigger a crash", crash])?;
            pods_annotated(&admin, &death).await?;
            all_told(&admin, &node, &death, "SysrqCrash").await?;
        }
        Ok(())
    });
}

/// DESIGN, section 12: the first write within 50 ms, a node of 110 pods within
/// a second. Only limits that a busy machine keeps too are asserted.
#[test]
fn how_fast_a_node_of_110_pods_is_told() {
    const RUNS: u8 = 5;
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let directory = tempfile::tempdir()?;
        let annotator = Annotator::start(directory.path(), &kubeconfig, &[])?;
        let (mut conditions, mut pods) = (Vec::new(), Vec::new());
        for run in 0..=RUNS {
            let name = format!("timed-{run}");
            let death = death_name(&name, 1)?;
            Node::create(&admin, &name, &[(Kind::Replica, 110)]).await?;
            let mut told = ToldPods::watch(&admin, &name, &death).await?;
            let watcher = admin.clone();
            let node = name.clone();
            let condition =
                tokio::spawn(async move { condemned(&watcher, &node, CONDITION_PANIC).await });
            let mut speaker = Speaker::new(&name, 1, annotator.gasps)?;
            speaker.heartbeat(DIES_MS - 1_000)?;
            let sent = Instant::now();
            speaker.die(DIES_MS)?;
            let all = told.until(110).await?.duration_since(sent);
            let (at, _) = condition.await??;
            // The first run warms the server's caches.
            if run > 0 {
                conditions.push(at.duration_since(sent).as_secs_f64() * 1e3);
                pods.push(all.as_secs_f64() * 1e3);
            }
            pods_annotated(&admin, &death).await?;
        }
        for (what, times, limit) in [
            ("Node condition", &mut conditions, 2_000.0),
            ("110th pod", &mut pods, 10_000.0),
        ] {
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            println!("first datagram to {what}: median {median:.1} ms of {times:.1?}");
            ensure!(median < limit, "{what}: {median} ms");
        }
        Ok(())
    });
}
