//! Node objects that are deleted, by whom, and what becomes of their pods.

use kube::api::{Patch, PatchParams, PostParams};
use lastgasp::store::Store;
use serde_json::{Value, json};

use super::*;

/// Waits until the annotator has a record of a node that is gone.
async fn gone(annotator: &Annotator, asked: &str) -> Result<Value> {
    eventually(&format!("{asked}: a record that it is gone"), || async {
        let answer = annotator.why(asked);
        Ok(answer.is_ok_and(|answer| answer.get("removed").is_some()))
    })
    .await?;
    annotator.why(asked)
}

fn verdict(answer: &Value) -> &str {
    answer["removed"]["verdict"].as_str().unwrap_or_default()
}

#[test]
fn no_node_goes_without_a_record_and_its_pods_stay_explained() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let nodes: Api<CoreNode> = Api::all(admin.clone());
        let pods = [(Kind::Job, 1), (Kind::Replica, 1), (Kind::Daemon, 1)];
        for name in ["by-hand", "scaled-down", "died-first"] {
            Node::create(&admin, name, &pods).await?;
        }
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let annotator = Annotator::start(directory.path(), &kubeconfig, &[])?;
        eventually("the annotator watches nodes", || async {
            Ok(annotator.log()?.contains("nodes are watched"))
        })
        .await?;
        Speaker::new("scaled-down", 1, annotator.gasps)?.hello(DIES_MS, None)?;
        Speaker::new("died-first", 1, annotator.gasps)?.die(DIES_MS)?;
        let death = death_name("died-first", 1)?;
        pods_annotated(&admin, &death).await?;

        // What the autoscaler leaves before it deletes.
        let taints = json!({"spec": {"taints": [{
            "key": "ToBeDeletedByClusterAutoscaler", "value": "1790000000", "effect": "NoSchedule",
        }]}});
        let by = |manager: &str| PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Strategic(taints);
        for name in ["scaled-down", "died-first"] {
            nodes.patch(name, &by("cluster-autoscaler"), &patch).await?;
        }
        let event: k8s_openapi::api::core::v1::Event = serde_json::from_value(json!({
            "metadata": {"name": "scaled-down.1", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": "scaled-down"},
            "reason": "ScaleDown", "message": "node removed by cluster autoscaler",
            "type": "Normal", "source": {"component": "cluster-autoscaler"},
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }))?;
        Api::namespaced(admin.clone(), "default")
            .create(&PostParams::default(), &event)
            .await?;
        // And what somebody leaves who drains by hand. Applied, because of what is
        // only patched this API server keeps no managers.
        let cordon = Patch::Apply(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "by-hand"},
            "spec": {"unschedulable": true},
        }));
        nodes
            .patch("by-hand", &by("kubectl-cordon"), &cordon)
            .await?;
        for name in ["scaled-down", "by-hand", "died-first"] {
            nodes.delete(name, &DeleteParams::default()).await?;
        }

        let answer = gone(&annotator, "node/scaled-down").await?;
        ensure!(
            verdict(&answer)
                == "Node object deleted while its machine lives, by the cluster autoscaler, which \
                    scaled down (taint ToBeDeletedByClusterAutoscaler)",
            "{answer}"
        );
        let event = &answer["removed"]["removal"]["events"][0];
        ensure!(event["by"] == "cluster-autoscaler", "{answer}");
        let answer = gone(&annotator, "node/by-hand").await?;
        let said = verdict(&answer);
        ensure!(said.contains("no agent of it was ever heard"), "{said}");
        ensure!(
            said.contains("kubectl-cordon changed the object last"),
            "{answer}"
        );
        // Its pods are soon gone too, and what became of them is still known.
        for asked in ["by-hand/job-0", "by-hand/daemon-0", "pod/by-hand/web-0"] {
            let answer = gone(&annotator, asked).await?;
            ensure!(verdict(&answer) == said, "{asked}: {answer}");
        }
        let answer = gone(&annotator, "by-hand/job-0").await?;
        ensure!(
            answer["pod"]["owner"] == json!(["Job", "job-0"]),
            "{answer}"
        );

        // Who died before is dead, and its record says what came after.
        gone(&annotator, "node/died-first").await?;
        let answer = annotator.why("died-first/job-0")?;
        ensure!(
            answer["reason_code"] == "NullPointerDereference",
            "{answer}"
        );
        let deaths: Api<NodeDeath> = Api::all(admin.clone());
        eventually("the NodeDeath has it as evidence", || async {
            let status = deaths.get(&death).await?.status.unwrap_or_default();
            let about = |said: &lastgasp::k8s::Said| {
                said.channel == "NodeObject" && said.text.contains("cluster autoscaler")
            };
            Ok(status.evidence.iter().any(about))
        })
        .await?;
        let listed = [
            "deaths",
            "--annotator",
            &format!("http://{}", annotator.http),
        ];
        let (_, table) = ask(&listed)?;
        let removed = table.lines().filter(|line| line.contains("Removed"));
        ensure!(removed.count() == 3, "{table}");
        annotator.kill()
    });
}

#[test]
fn a_node_that_goes_while_no_annotator_runs_has_a_record_once() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let nodes: Api<CoreNode> = Api::all(admin.clone());
        for name in ["unseen", "replaced", "stays"] {
            Node::create(&admin, name, &[(Kind::Job, 1)]).await?;
        }
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let start = || Annotator::start(directory.path(), &kubeconfig, &[]);
        let first = start()?;
        let mut unseen = Speaker::new("unseen", 1, first.gasps)?;
        unseen.hello(DIES_MS, None)?;
        let store = directory.path().join(STORE);
        eventually("node and Node objects are in the store", || async {
            let store = Store::open_to_read(&store)?;
            let known = store.known_objects(1_000)?;
            let names: BTreeSet<&str> = known.iter().map(|seen| seen.node.as_str()).collect();
            let all = ["unseen", "replaced", "stays"].map(|name| names.contains(name));
            Ok(all == [true; 3] && !store.known_nodes(1)?.is_empty())
        })
        .await?;
        first.kill()?;

        for name in ["unseen", "replaced"] {
            nodes.delete(name, &DeleteParams::default()).await?;
        }
        let anew = nodes.get("stays").await?;
        let anew = CoreNode {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some("replaced".to_owned()),
                ..Default::default()
            },
            ..anew
        };
        nodes.create(&PostParams::default(), &anew).await?;
        let event: k8s_openapi::api::core::v1::Event = serde_json::from_value(json!({
            "metadata": {"name": "replaced.1", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": "replaced"},
            "reason": "DeletingNode", "message": "it does not exist in the cloud provider",
            "type": "Normal", "source": {"component": "cloud-node-lifecycle-controller"},
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }))?;
        Api::namespaced(admin.clone(), "default")
            .create(&PostParams::default(), &event)
            .await?;

        let second = start()?;
        let answer = gone(&second, "node/unseen").await?;
        let said = verdict(&answer);
        ensure!(
            said.starts_with("Node object deleted between ")
                && said.ends_with(
                    "; its machine was not heard since, by somebody unknown, as no annotator ran \
                     then; the API server's audit log knows"
                ),
            "{answer}"
        );
        let removal = &answer["removed"]["removal"];
        ensure!(
            removal["seen"].as_u64() < removal["at"].as_u64(),
            "{answer}"
        );
        ensure!(verdict(&gone(&second, "unseen/job-0").await?) == said);
        let (_, text) = ask_of(&second, &["why", "node/unseen"])?;
        ensure!(text.starts_with("Node object deleted between "), "{text}");
        let replaced = gone(&second, "node/replaced").await?;
        ensure!(
            verdict(&replaced).contains("by the cloud controller"),
            "{replaced}"
        );
        ensure!(second.why("node/stays").is_err(), "nobody deleted it");
        second.kill()?;

        let third = start()?;
        eventually("the third annotator watches nodes", || async {
            // The log is begun anew by each.
            Ok(third.log()?.contains("nodes are watched"))
        })
        .await?;
        // Whatever it finds missing would be told before this.
        nodes.delete("stays", &DeleteParams::default()).await?;
        gone(&third, "node/stays").await?;
        for (asked, before) in [("node/unseen", &answer), ("node/replaced", &replaced)] {
            ensure!(third.why(asked)?["removed"] == before["removed"], "{asked}");
        }
        let (_, table) = ask_of(&third, &["deaths"])?;
        let removed = table.lines().filter(|line| line.contains("Removed"));
        ensure!(removed.count() == 3, "{table}");
        third.kill()
    });
}

fn ask_of(annotator: &Annotator, question: &[&str]) -> Result<(std::process::ExitStatus, String)> {
    let url = format!("http://{}", annotator.http);
    ask(&[question, &["--annotator", &url]].concat())
}
