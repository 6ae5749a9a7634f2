//! Whom the events are about.

use anyhow::Result;
use cases::kube::{Node, death, narrow};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use lastgasp::k8s::{Settings, Writer};
use serde_json::{Value, json};

use super::{case, events, tell, writes};

/// A node, and the namespace of its pods.
struct Place {
    client: Client,
    name: &'static str,
}

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

impl Place {
    async fn create(client: &Client, name: &'static str) -> Result<Self> {
        Node::create(client, name, &[]).await?;
        let client = client.clone();
        Ok(Self { client, name })
    }

    /// A ReplicaSet of a controller; its uid.
    async fn replica_set(&self, name: &str, owners: &Value) -> Result<String> {
        let mut template = template();
        template["spec"]["restartPolicy"] = json!("Always");
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": template},
        }))?;
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), self.name);
        let made = api.create(&PostParams::default(), &set).await?;
        Ok(made.metadata.uid.unwrap_or_default())
    }

    /// A Job, perhaps of a controller; its uid.
    async fn job(&self, name: &str, owners: &Value) -> Result<String> {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"template": template()},
        }))?;
        let api: Api<Job> = Api::namespaced(self.client.clone(), self.name);
        let made = api.create(&PostParams::default(), &job).await?;
        Ok(made.metadata.uid.unwrap_or_default())
    }

    async fn pod(&self, name: &str, owners: Value) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"nodeName": self.name, "containers": [{"name": "main", "image": "app:1"}]},
        }))?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.name);
        api.create(&PostParams::default(), &pod).await?;
        Ok(())
    }
}

#[test]
fn events_are_on_the_workloads_that_people_know_one_on_each() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let place = Place::create(&admin, "owners").await?;
        let deployment = controller("apps/v1", "Deployment", "web", "uid-of-web");
        // In the middle of a rollout.
        for (set, pods) in [
            ("web-old", ["web-old-a", "web-old-b"]),
            ("web-new", ["web-new-a", "web-new-b"]),
        ] {
            let uid = place.replica_set(set, &deployment).await?;
            for name in pods {
                place
                    .pod(name, controller("apps/v1", "ReplicaSet", set, &uid))
                    .await?;
            }
        }
        let rollout = controller("argoproj.io/v1alpha1", "Rollout", "shop", "uid-of-shop");
        let uid = place.replica_set("shop-1", &rollout).await?;
        place
            .pod(
                "shop-1-a",
                controller("apps/v1", "ReplicaSet", "shop-1", &uid),
            )
            .await?;
        let cron = controller("batch/v1", "CronJob", "nightly", "uid-of-nightly");
        let uid = place.job("nightly-1", &cron).await?;
        place
            .pod(
                "nightly-1-a",
                controller("batch/v1", "Job", "nightly-1", &uid),
            )
            .await?;
        let uid = place.job("once", &json!([])).await?;
        place
            .pod("once-a", controller("batch/v1", "Job", "once", &uid))
            .await?;
        // Deleted, and made anew under the same name: not the one of this pod.
        place
            .pod(
                "gone-a",
                controller("apps/v1", "ReplicaSet", "gone", "uid-of-gone"),
            )
            .await?;
        place.replica_set("again", &deployment).await?;
        place
            .pod(
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
            place
                .pod(&format!("{name}-0"), controller(version, kind, name, &uid))
                .await?;
        }
        place.pod("nobodys", json!([])).await?;

        let writer = cluster.writer().await?;
        let death = death(place.name, 1)?;
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
        assert_eq!(events(&admin, place.name, "").await?, expected);

        let before = writes(cluster, place.name).await?.len();
        tell(&writer, &death).await?;
        assert_eq!(writes(cluster, place.name).await?.len(), before, "once");
        Ok(())
    });
}

/// Rights of `deploy/`, less the right to read ReplicaSets and Jobs.
async fn narrow_rights(client: &Client) -> Result<()> {
    let cluster_roles: Api<ClusterRole> = Api::all(client.clone());
    let shipped = cluster_roles.get("lastgasp-annotator").await?;
    let mut rules = shipped.rules.unwrap_or_default();
    let whole = rules.len();
    rules.retain(|rule| {
        let groups = rule.api_groups.iter().flatten();
        groups
            .clone()
            .all(|group| group != "apps" && group != "batch")
    });
    assert_eq!(rules.len(), whole - 2, "the rights that the case is about");
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "narrow"}, "rules": rules,
    }))?;
    cluster_roles.create(&PostParams::default(), &role).await?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "narrow"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "narrow"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "lastgasp", "name": "narrow"}],
    }))?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&PostParams::default(), &binding).await?;
    Ok(())
}

#[test]
fn who_may_not_look_names_the_direct_owner() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        narrow_rights(&admin).await?;
        let place = Place::create(&admin, "owners-unread").await?;
        let deployment = controller("apps/v1", "Deployment", "web", "uid-of-web");
        let uid = place.replica_set("web-1", &deployment).await?;
        let set = controller("apps/v1", "ReplicaSet", "web-1", &uid);
        place.pod("web-1-a", set).await?;
        let cron = controller("batch/v1", "CronJob", "nightly", "uid-of-nightly");
        let uid = place.job("nightly-1", &cron).await?;
        let job = controller("batch/v1", "Job", "nightly-1", &uid);
        place.pod("nightly-1-a", job).await?;
        let writer = Writer::connect(&Settings {
            kubeconfig: Some(cluster.plane.kubeconfig(&narrow())),
            ..cluster.settings()
        })
        .await?;
        let (tally, _) = tell(&writer, &death(place.name, 1)?).await?;
        assert_eq!(tally.annotated, 2, "{tally:?}");
        let said = events(&admin, place.name, "").await?;
        assert_eq!(
            said,
            ["NodeDied Job/nightly-1", "NodeDied ReplicaSet/web-1"]
        );
        Ok(())
    });
}
