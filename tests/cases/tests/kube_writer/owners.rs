//! Whom the events are about.

use anyhow::Result;
use cases::kube::{Node, death};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{case, events, tell, writes};

/// The node, and the namespace of its pods.
const NAME: &str = "owners";

fn controller(version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!([
        {"apiVersion": "example.com/v1", "kind": "Bystander", "name": "b", "uid": "none"},
        {"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true},
    ])
}

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "app:1"}]},
    })
}

/// A ReplicaSet of a controller; its uid.
async fn replica_set(client: &Client, name: &str, owners: &Value) -> Result<String> {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Always");
    let set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": template},
    }))?;
    let api: Api<ReplicaSet> = Api::namespaced(client.clone(), NAME);
    let made = api.create(&PostParams::default(), &set).await?;
    Ok(made.metadata.uid.unwrap_or_default())
}

/// A Job, perhaps of a controller; its uid.
async fn job(client: &Client, name: &str, owners: &Value) -> Result<String> {
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {"template": template()},
    }))?;
    let api: Api<Job> = Api::namespaced(client.clone(), NAME);
    let made = api.create(&PostParams::default(), &job).await?;
    Ok(made.metadata.uid.unwrap_or_default())
}

async fn pod(client: &Client, name: &str, owners: Value) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {"nodeName": NAME, "containers": [{"name": "main", "image": "app:1"}]},
    }))?;
    let api: Api<Pod> = Api::namespaced(client.clone(), NAME);
    api.create(&PostParams::default(), &pod).await?;
    Ok(())
}

#[test]
fn events_are_on_the_workloads_that_people_know_one_on_each() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, NAME, &[]).await?;
        let deployment = controller("apps/v1", "Deployment", "web", "uid-of-web");
        // In the middle of a rollout.
        for (set, pods) in [
            ("web-old", ["web-old-a", "web-old-b"]),
            ("web-new", ["web-new-a", "web-new-b"]),
        ] {
            let uid = replica_set(&admin, set, &deployment).await?;
            for name in pods {
                pod(&admin, name, controller("apps/v1", "ReplicaSet", set, &uid)).await?;
            }
        }
        let rollout = controller("argoproj.io/v1alpha1", "Rollout", "shop", "uid-of-shop");
        let uid = replica_set(&admin, "shop-1", &rollout).await?;
        pod(
            &admin,
            "shop-1-a",
            controller("apps/v1", "ReplicaSet", "shop-1", &uid),
        )
        .await?;
        let cron = controller("batch/v1", "CronJob", "nightly", "uid-of-nightly");
        let uid = job(&admin, "nightly-1", &cron).await?;
        pod(
            &admin,
            "nightly-1-a",
            controller("batch/v1", "Job", "nightly-1", &uid),
        )
        .await?;
        let uid = job(&admin, "once", &json!([])).await?;
        pod(
            &admin,
            "once-a",
            controller("batch/v1", "Job", "once", &uid),
        )
        .await?;
        // Deleted, and made anew under the same name: not the one of this pod.
        pod(
            &admin,
            "gone-a",
            controller("apps/v1", "ReplicaSet", "gone", "uid-of-gone"),
        )
        .await?;
        replica_set(&admin, "again", &deployment).await?;
        pod(
            &admin,
            "again-a",
            controller("apps/v1", "ReplicaSet", "again", "uid-of-old"),
        )
        .await?;
        for (version, kind, name) in [
            ("apps/v1", "StatefulSet", "db"),
            ("apps.kruise.io/v1alpha1", "CloneSet", "clones"),
            ("apps/v1", "DaemonSet", "on-each-node"),
        ] {
            let uid = format!("uid-of-{name}");
            pod(
                &admin,
                &format!("{name}-0"),
                controller(version, kind, name, &uid),
            )
            .await?;
        }
        pod(&admin, "nobodys", json!([])).await?;

        let writer = cluster.writer().await?;
        let death = death(NAME, 1)?;
        let (tally, _) = tell(&writer, &death).await?;
        assert_eq!((tally.annotated, tally.skipped), (12, 1));
        let expected = [
            "NodeDied CloneSet/clones",
            "NodeDied CronJob/nightly",
            "NodeDied Deployment/web",
            "NodeDied Job/once",
            "NodeDied ReplicaSet/again",
            "NodeDied ReplicaSet/gone",
            "NodeDied Rollout/shop",
            "NodeDied StatefulSet/db",
        ];
        assert_eq!(events(&admin, NAME, "").await?, expected);

        let before = writes(cluster, NAME).await?.len();
        tell(&writer, &death).await?;
        assert_eq!(writes(cluster, NAME).await?.len(), before, "once");
        Ok(())
    });
}
