//! What the writer leaves in a real API server, with the rights of `deploy/`.

use std::collections::BTreeMap;

use agent_core::engine::{Keys, annotations};
use agent_core::model::{Death, DeathState, Notice, Timestamp};
use anyhow::{Context, Result};
use cases::kube::{Cluster, Kind, Node, cluster, death};
use harness::controlplane::AuditEvent;
use k8s_openapi::api::core::v1::{Node as CoreNode, NodeCondition, Pod, Taint};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lastgasp::k8s::{
    ANNOTATION_DEATH, ANNOTATION_REASON_CODE, CONDITION_OOPS, CONDITION_PANIC, Ineligible,
    NodeDeath, POD_CONDITION, PodOutcome, PodResult, PodTally, TAINT, Writer,
};
use serde_json::json;

#[path = "kube_writer/ahead.rs"]
mod ahead;
#[path = "kube_writer/deploy.rs"]
mod deploy;
#[path = "kube_writer/owners.rs"]
mod owners;
#[path = "kube_writer/record.rs"]
mod record_status;

/// Runs one case on the shared control plane.
fn case<F: Future<Output = Result<()>>>(body: impl FnOnce(&'static Cluster) -> F) {
    let Some(cluster) = cluster() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs nothing that a test machine lacks");
    if let Err(error) = runtime.block_on(body(cluster)) {
        panic!("{error:?}");
    }
}

fn words(death: &Death) -> BTreeMap<String, String> {
    annotations(death, &Keys::default())
}

/// All that follows from a death: the node first, then its pods and the record.
async fn mark(writer: &Writer, death: &Death) -> Result<()> {
    writer.mark_node(death).await?;
    tell(writer, death).await?;
    Ok(())
}

async fn tell(writer: &Writer, death: &Death) -> Result<(PodTally, Vec<PodOutcome>)> {
    let mut outcomes = Vec::new();
    let tally = writer
        .annotate_pods(death, &words(death), |pod| outcomes.push(pod))
        .await?;
    Ok((tally, outcomes))
}

/// The annotator's writes that concern this node.
async fn writes(cluster: &Cluster, node: &str) -> Result<Vec<AuditEvent>> {
    let mut events = cluster.writes().await?;
    events.retain(|e| e.line().contains(node));
    Ok(events)
}

async fn node(client: &Client, name: &str) -> Result<CoreNode> {
    Ok(Api::<CoreNode>::all(client.clone()).get(name).await?)
}

fn node_condition(node: &CoreNode, type_: &str) -> Option<NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_).cloned()
}

fn taints(node: &CoreNode) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    spec.and_then(|s| s.taints.clone()).unwrap_or_default()
}

async fn record(client: &Client, death: &Death) -> Result<NodeDeath> {
    let deaths: Api<NodeDeath> = Api::all(client.clone());
    Ok(deaths.get(death.name.as_str()).await?)
}

fn record_condition(record: &NodeDeath, type_: &str) -> Option<String> {
    let conditions = &record.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == type_)?;
    Some(found.status.clone())
}

/// `reason kind/name` of our events in a namespace.
async fn events(client: &Client, namespace: &str, about: &str) -> Result<Vec<String>> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut lines: Vec<String> = api
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .filter_map(|event| {
            let regarding = event.regarding?;
            let name = regarding.name?;
            (about.is_empty() || name == about)
                .then(|| Some(format!("{} {}/{name}", event.reason?, regarding.kind?)))?
        })
        .collect();
    lines.sort();
    Ok(lines)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

fn pod_died(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|c| c.type_ == POD_CONDITION && c.status == "True")
    })
}

#[test]
fn every_pod_that_is_to_be_told_is_told_once_and_no_other_is_touched() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let node = Node::full(&admin, "full").await?;
        assert_eq!(node.pods.len(), 110);
        let before = node.list(&admin).await?;
        let writer = cluster.writer().await?;
        let death = death("full", 1)?;

        writer.mark_node(&death).await?;
        let (tally, outcomes) = tell(&writer, &death).await?;
        assert_eq!(tally.annotated as usize, node.eligible());
        assert_eq!(tally.skipped as usize, 110 - node.eligible());
        assert_eq!(outcomes.len(), 110, "each pod is heard of once");
        let jobs = outcomes
            .iter()
            .position(|o| o.owner.as_ref().is_some_and(|w| w.kind == "StatefulSet"));
        let last_job = outcomes.iter().rposition(|o| {
            o.result == PodResult::Annotated && o.owner.as_ref().is_some_and(|w| w.kind == "Job")
        });
        assert!(last_job < jobs, "Jobs first: {last_job:?} {jobs:?}");

        let after = node.list(&admin).await?;
        for ((kind, was), (_, is)) in before.iter().zip(&after) {
            let name = is.metadata.name.as_deref().unwrap_or_default();
            if kind.is_eligible() {
                for (key, value) in words(&death) {
                    assert_eq!(annotation(is, &key), Some(value.as_str()), "{name} {key}");
                }
                assert!(pod_died(is), "{name}");
                let phase = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.clone());
                assert_eq!(phase(was), phase(is), "{name}");
            } else {
                assert_eq!(was, is, "{name} is left alone");
            }
            if *kind == Kind::Annotated {
                assert_eq!(annotation(is, "example.com/note"), Some("somebody else's"));
            }
        }
        let mut patched: Vec<String> = writes(cluster, "full/")
            .await?
            .iter()
            .filter(|e| e.object_ref.resource == "pods")
            .map(AuditEvent::line)
            .collect();
        let all = patched.len();
        patched.sort();
        patched.dedup();
        assert_eq!((all, patched.len()), (node.eligible(), node.eligible()));
        assert!(
            patched
                .iter()
                .all(|line| line.starts_with("patch pods/status full/"))
        );

        // One event on each workload that lost a pod: 4 Jobs and what the
        // ReplicaSets and StatefulSets of the fixture are.
        let owners: std::collections::BTreeSet<_> = outcomes
            .iter()
            .filter(|o| o.result == PodResult::Annotated)
            .filter_map(|o| o.owner.clone())
            .collect();
        assert_eq!(events(&admin, "full", "").await?.len(), owners.len());
        assert_eq!(
            events(&admin, "default", "full").await?,
            ["NodeDied Node/full"]
        );

        let record = record(&admin, &death).await?;
        assert_eq!(
            record_condition(&record, "PodsAnnotated").as_deref(),
            Some("True")
        );
        let counts = record.status.and_then(|s| s.pods).context("counts")?;
        assert_eq!(counts.annotated as usize, node.eligible());
        assert_eq!(counts.skipped as usize, 110 - node.eligible());
        Ok(())
    });
}

#[test]
fn a_marked_node_has_condition_taint_record_and_event_and_a_repetition_writes_nothing() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "marked", &[(Kind::Job, 2), (Kind::Bare, 1)]).await?;
        let nodes: Api<CoreNode> = Api::all(admin.clone());
        let foreign = json!({"spec": {"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]}});
        nodes
            .patch("marked", &PatchParams::default(), &Patch::Merge(foreign))
            .await?;
        let writer = cluster.writer().await?;
        let death = death("marked", 1)?;
        writer.mark_node(&death).await?;
        tell(&writer, &death).await?;

        let marked = node(&admin, "marked").await?;
        let panic = node_condition(&marked, CONDITION_PANIC).context("no condition")?;
        assert_eq!(panic.status, "True");
        assert_eq!(panic.reason.as_deref(), Some("NullPointerDereference"));
        let message = panic.message.unwrap_or_default();
        assert!(
            message.contains("boom_timer") && message.contains("6.12.48"),
            "{message}"
        );
        assert!(
            node_condition(&marked, "Ready").is_some(),
            "others' conditions stay"
        );
        let taints = taints(&marked);
        assert_eq!(taints.len(), 2, "others' taints stay: {taints:?}");
        let ours = taints.iter().find(|t| t.key == TAINT).context("no taint")?;
        assert_eq!(ours.value.as_deref(), Some("NullPointerDereference"));
        assert_eq!(ours.effect, "NoSchedule");

        let found = record(&admin, &death).await?;
        assert_eq!(found.spec.node_name, "marked");
        assert_eq!(
            record_condition(&found, "Confirmed").as_deref(),
            Some("True")
        );
        let status = found.status.context("no status")?;
        assert_eq!(status.reason.as_deref(), Some("NullPointerDereference"));
        assert_eq!(status.proof.as_deref(), Some("P2"));
        assert_eq!(status.fault_function.as_deref(), Some("boom_timer"));
        assert_eq!(status.evidence.len(), 1);

        let order: Vec<String> = writes(cluster, "marked")
            .await?
            .iter()
            .map(AuditEvent::line)
            .collect();
        assert_eq!(
            order[0], "patch nodes/status marked",
            "the condition comes first"
        );
        assert_eq!(order[1], "patch nodes marked");

        writer.mark_node(&death).await?;
        let (again, _) = tell(&writer, &death).await?;
        assert_eq!((again.annotated, again.already), (0, 3));
        let second: Vec<String> = writes(cluster, "marked")
            .await?
            .iter()
            .map(AuditEvent::line)
            .collect();
        assert_eq!(second, order, "a repetition writes nothing");
        Ok(())
    });
}

#[test]
fn better_knowledge_is_written_over_worse() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::create(&admin, "better", &[(Kind::Job, 3)]).await?;
        let writer = cluster.writer().await?;
        let decoded = death("better", 1)?;
        let mut first = decoded.clone();
        first.report = None;
        writer.mark_node(&first).await?;
        tell(&writer, &first).await?;
        writer.mark_node(&decoded).await?;
        let (tally, _) = tell(&writer, &decoded).await?;
        assert_eq!(tally.annotated, 3);
        let marked = node(&admin, "better").await?;
        let ours: Vec<Taint> = taints(&marked)
            .into_iter()
            .filter(|t| t.key == TAINT)
            .collect();
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0].value.as_deref(), Some("NullPointerDereference"));
        for (_, pod) in pods.list(&admin).await? {
            let code = annotation(&pod, ANNOTATION_REASON_CODE);
            assert_eq!(code, Some("NullPointerDereference"));
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_went_or_was_replaced_is_gone_and_its_successor_is_not_touched() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::create(&admin, "replaced", &[(Kind::Stateful, 3)]).await?;
        let api: Api<Pod> = Api::namespaced(admin.clone(), "replaced");
        let writer = cluster.writer().await?;
        let death = death("replaced", 1)?;
        // In the moment between list and patch, which only one request at a
        // time makes long enough: the first pod's outcome triggers it.
        let mut settings = cluster.settings();
        settings.pods_in_flight = 1;
        let slow = Writer::connect(&settings).await?;
        let names: Vec<String> = pods.pods.keys().cloned().collect();
        let kubeconfig = cluster.plane.admin_kubeconfig();
        let mut told = Vec::new();
        let replace = |victims: Vec<String>| {
            // The callback is not async; a thread of its own may block.
            let kubeconfig = kubeconfig.clone();
            std::thread::spawn(move || replace_pods(&kubeconfig, &victims))
                .join()
                .map_err(|_| anyhow::anyhow!("replacing panicked"))?
        };
        let mut failed = None;
        let tally = slow
            .annotate_pods(&death, &words(&death), |pod| {
                if told.is_empty() {
                    let rest = names.iter().filter(|n| **n != pod.pod.name).cloned();
                    failed = replace(rest.collect()).err();
                }
                told.push(pod);
            })
            .await?;
        assert!(failed.is_none(), "{failed:?}");
        assert!(tally.gone >= 1, "{tally:?} {told:?}");
        let (again, _) = tell(&writer, &death).await?;
        assert_eq!(again.gone, 0);
        // The successors were bound to another node.
        for pod in api.list(&ListParams::default()).await?.items {
            let elsewhere =
                pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) != Some("replaced");
            assert_eq!(annotation(&pod, ANNOTATION_DEATH).is_none(), elsewhere);
        }
        Ok(())
    });
}

/// Deletes one pod, and replaces the others by pods of the same name elsewhere.
fn replace_pods(kubeconfig: &std::path::Path, victims: &[String]) -> Result<()> {
    use kube::config::{KubeConfigOptions, Kubeconfig};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let api: Api<Pod> = Api::namespaced(Client::try_from(config)?, "replaced");
        for (i, victim) in victims.iter().enumerate() {
            api.delete(victim, &DeleteParams::default().grace_period(0))
                .await?;
            if i == 0 {
                continue;
            }
            let successor: Pod = serde_json::from_value(json!({
                "metadata": {"name": victim},
                "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]},
            }))?;
            api.create(&PostParams::default(), &successor).await?;
        }
        Ok(())
    })
}

#[test]
fn pods_of_a_node_without_object_are_told_and_the_death_is_recorded() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::pods_only(&admin, "unknown-node", &[(Kind::Job, 2)]).await?;
        let writer = cluster.writer().await?;
        let death = death("unknown-node", 1)?;
        writer.mark_node(&death).await?;
        let (tally, _) = tell(&writer, &death).await?;
        assert_eq!(tally.annotated, 2);
        assert!(
            pods.list(&admin)
                .await?
                .iter()
                .all(|(_, pod)| pod_died(pod))
        );
        assert_eq!(record(&admin, &death).await?.spec.node_name, "unknown-node");
        Ok(())
    });
}

#[test]
fn another_node_of_the_same_name_is_not_marked() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "namesake", &[]).await?;
        let writer = cluster.writer().await?;
        let mut death = death("namesake", 1)?;
        death.node_uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
        mark(&writer, &death).await?;
        let namesake = node(&admin, "namesake").await?;
        assert!(node_condition(&namesake, CONDITION_PANIC).is_none());
        assert!(taints(&namesake).iter().all(|t| t.key != TAINT));
        record(&admin, &death).await?;
        Ok(())
    });
}

#[test]
fn a_death_does_not_change() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let writer = cluster.writer().await?;
        let death = death("immutable", 1)?;
        mark(&writer, &death).await?;
        let deaths: Api<NodeDeath> = Api::all(admin.clone());
        let change = json!({"spec": {"nodeName": "somebody-else"}});
        let name = death.name.as_str();
        let refused = deaths
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .expect_err("the rule refuses it");
        assert!(
            refused.to_string().contains("a death does not change"),
            "{refused}"
        );
        assert_eq!(record(&admin, &death).await?.spec.node_name, "immutable");
        Ok(())
    });
}

#[test]
fn an_oops_is_reported_and_neither_taints_nor_touches_a_pod() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::create(&admin, "oopsed", &[(Kind::Job, 3)]).await?;
        let before = pods.list(&admin).await?;
        let writer = cluster.writer().await?;
        let mut oops = death("oopsed", 1)?;
        oops.notice = Some(Notice::Oops);
        oops.state = DeathState::Survived;
        writer.report_oops(&oops).await?;
        writer.report_oops(&oops).await?;
        let alive = node(&admin, "oopsed").await?;
        let condition = node_condition(&alive, CONDITION_OOPS).context("no condition")?;
        assert_eq!(condition.status, "True");
        assert!(node_condition(&alive, CONDITION_PANIC).is_none());
        assert!(taints(&alive).iter().all(|t| t.key != TAINT));
        assert_eq!(before, pods.list(&admin).await?);
        assert_eq!(
            events(&admin, "default", "oopsed").await?,
            ["KernelOops Node/oopsed"]
        );
        let lines: Vec<String> = writes(cluster, "oopsed")
            .await?
            .iter()
            .map(AuditEvent::line)
            .collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        Ok(())
    });
}

#[test]
fn revocation_and_return_clear_the_node_once() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let writer = cluster.writer().await?;
        for (name, reason) in [("revoked", "Revoked"), ("returned", "NodeReturned")] {
            Node::create(&admin, name, &[]).await?;
            let mut death = death(name, 1)?;
            mark(&writer, &death).await?;
            if reason == "Revoked" {
                death.state = DeathState::Revoked;
            }
            let clear = async || match reason {
                "Revoked" => writer.revoke(&death, &words(&death)).await,
                _ => writer.node_returned(&death).await,
            };
            clear().await?;
            let cleared = node(&admin, name).await?;
            let condition = node_condition(&cleared, CONDITION_PANIC).context("no condition")?;
            assert_eq!(
                (condition.status.as_str(), condition.reason.as_deref()),
                ("False", Some(reason))
            );
            assert!(taints(&cleared).iter().all(|t| t.key != TAINT), "{name}");
            let record = record(&admin, &death).await?;
            let (type_, value) = match reason {
                "Revoked" => ("Confirmed", "False"),
                _ => ("NodeReturned", "True"),
            };
            assert_eq!(record_condition(&record, type_).as_deref(), Some(value));
            let before = writes(cluster, name).await?.len();
            clear().await?;
            assert_eq!(writes(cluster, name).await?.len(), before, "{name}: once");
        }
        Ok(())
    });
}

#[test]
fn a_revoked_death_leaves_no_word_on_the_pods_that_blame_it_and_all_on_others() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::create(&admin, "wronged", &[(Kind::Job, 2), (Kind::Annotated, 1)]).await?;
        let writer = cluster.writer().await?;
        let death = death("wronged", 1)?;
        writer.mark_node(&death).await?;
        tell(&writer, &death).await?;
        // One of them blames another death by now.
        let api: Api<Pod> = Api::namespaced(admin.clone(), "wronged");
        let other = json!({"metadata": {"annotations": {ANNOTATION_DEATH: "wronged-02020202"}}});
        api.patch("job-1", &PatchParams::default(), &Patch::Merge(other))
            .await?;

        writer.revoke(&death, &words(&death)).await?;
        for (kind, pod) in pods.list(&admin).await? {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let wronged = name == "job-1";
            assert_eq!(pod_died(&pod), wronged, "{name}");
            for key in words(&death).keys() {
                assert_eq!(annotation(&pod, key).is_some(), wronged, "{name} {key}");
            }
            if kind == Kind::Annotated {
                assert_eq!(
                    annotation(&pod, "example.com/note"),
                    Some("somebody else's")
                );
            }
        }
        let before = writes(cluster, "wronged").await?.len();
        writer.revoke(&death, &words(&death)).await?;
        assert_eq!(writes(cluster, "wronged").await?.len(), before, "once");
        Ok(())
    });
}

#[test]
fn pods_that_the_node_runs_since_it_is_back_are_left_alone() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let pods = Node::create(&admin, "back", &[(Kind::Job, 2), (Kind::Bare, 1)]).await?;
        let before = pods.list(&admin).await?;
        let writer = cluster.writer().await?;
        let mut death = death("back", 1)?;
        death.detected_at = Timestamp(death.detected_at.0 - 3_600_000);
        let (tally, outcomes) = tell(&writer, &death).await?;
        assert_eq!((tally.annotated, tally.skipped), (0, 3));
        let later = PodResult::Skipped(Ineligible::Later);
        assert!(outcomes.iter().all(|o| o.result == later), "{outcomes:?}");
        assert_eq!(before, pods.list(&admin).await?);
        Ok(())
    });
}

#[test]
fn the_return_from_one_death_does_not_clear_the_next() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "looping", &[]).await?;
        let writer = cluster.writer().await?;
        let (first, second) = (death("looping", 1)?, death("looping", 2)?);
        mark(&writer, &first).await?;
        mark(&writer, &second).await?;
        writer.node_returned(&first).await?;
        let dead = node(&admin, "looping").await?;
        let condition = node_condition(&dead, CONDITION_PANIC).context("no condition")?;
        assert_eq!(condition.status, "True");
        assert!(taints(&dead).iter().any(|t| t.key == TAINT));
        let first = record(&admin, &first).await?;
        assert_eq!(
            record_condition(&first, "NodeReturned").as_deref(),
            Some("True")
        );
        Ok(())
    });
}
