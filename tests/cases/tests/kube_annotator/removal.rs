//! Node objects that are deleted, by whom, and what becomes of their pods.

use kube::api::{Patch, PatchParams, PostParams};
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
