//! Nodes that fall silent, with words and without, and what their Leases say.

use agent_core::engine::rfc3339;
use cases::kube::narrow;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Patch, PatchParams, PostParams};
use lastgasp::k8s::NodeDeathStatus;
use serde_json::json;

use super::*;

/// A Lease that lasts so long counts as not renewed after eight seconds.
const LASTS_S: u32 = 16;
/// Silence begins as early as may be configured.
const SOON: [&str; 2] = ["--silence-ms", "2000"];

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "kube-node-lease")
}

/// What a kubelet does when it starts.
async fn take_lease(client: &Client, node: &str) -> Result<()> {
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": node},
        "spec": {
            "holderIdentity": node, "leaseDurationSeconds": LASTS_S,
            // Its clock is wrong, as some are.
            "renewTime": "2001-01-01T00:00:00.000000Z",
        },
    }))?;
    leases(client)
        .create(&PostParams::default(), &lease)
        .await?;
    Ok(())
}

/// What a kubelet does every quarter of that time, and here every second.
async fn renew_lease(client: &Client, node: &str) -> Result<()> {
    // The API server wants microseconds.
    let now = rfc3339(lastgasp::annotate::now()).replace('Z', "000Z");
    let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
    leases(client)
        .patch(node, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn status(client: &Client, death: &str) -> Result<Option<NodeDeathStatus>> {
    let found = Api::<NodeDeath>::all(client.clone()).get_opt(death).await?;
    Ok(found.and_then(|death| death.status))
}

/// Waits until a `NodeDeath` has this proof, and gives why.
async fn proven(client: &Client, node: &str, proof: &str) -> Result<String> {
    let death = death_name(node, 1)?;
    eventually(&format!("{death} has proof {proof}"), || async {
        let status = status(client, &death).await?;
        Ok(status.and_then(|status| status.proof).as_deref() == Some(proof))
    })
    .await?;
    let steps = status(client, &death).await?.context("it was there")?.steps;
    let last = steps.last().context("no step says why")?;
    ensure!(last.proof == proof, "{steps:?}");
    Ok(last.text.clone())
}

/// Waits until the annotator says so of a node that has no death.
async fn silent(annotator: &Annotator, node: &str, verdict: &str) -> Result<()> {
    let asked = format!("node/{node}");
    eventually(&format!("{node}: {verdict}"), || async {
        let answer = annotator.why(&asked).ok();
        let said = answer
            .as_ref()
            .and_then(|a| a["silent"]["verdict"].as_str());
        Ok(said.is_some_and(|said| said.starts_with(verdict)))
    })
    .await?;
    let answer = annotator.why(&asked)?;
    let channels = answer["silent"]["channels"].as_array();
    ensure!(channels.is_some_and(|all| all.len() >= 4), "{answer}");
    ensure!(answer.get("death").is_none(), "{answer}");
    Ok(())
}

#[test]
fn a_lease_that_is_renewed_speaks_for_the_node_and_one_that_is_not_against_it() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let annotator = Annotator::start(directory.path(), &kubeconfig, &SOON)?;
        for name in ["words-renewed", "words-stale", "words-leaseless"] {
            Node::create(&admin, name, &[(Kind::Job, 1)]).await?;
        }
        for name in [
            "words-renewed",
            "words-stale",
            "quiet-renewed",
            "quiet-stale",
        ] {
            take_lease(&admin, name).await?;
        }
        let kubelet = admin.clone();
        let kubelet = tokio::spawn(async move {
            loop {
                for name in ["words-renewed", "quiet-renewed"] {
                    renew_lease(&kubelet, name).await?;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            #[expect(unreachable_code, reason = "says what the loop fails with")]
            anyhow::Ok(())
        });
        for name in ["words-renewed", "words-stale", "words-leaseless"] {
            Speaker::new(name, 1, annotator.gasps)?.die(DIES_MS)?;
        }
        Speaker::new("quiet-renewed", 1, annotator.gasps)?.hello(DIES_MS, None)?;
        let mut stale = Speaker::new("quiet-stale", 1, annotator.gasps)?;
        stale.hello(DIES_MS, None)?;

        let why = proven(&admin, "words-stale", "P3").await?;
        ensure!(
            why.contains(", and its Lease was not renewed for "),
            "{why}"
        );
        let why = proven(&admin, "words-leaseless", "P3").await?;
        ensure!(
            why.ends_with("silence alone, because it has no Lease"),
            "{why}"
        );
        silent(
            &annotator,
            "quiet-stale",
            "Silent, and its Lease is not renewed",
        )
        .await?;
        silent(
            &annotator,
            "quiet-renewed",
            "Silent, but its Lease is renewed",
        )
        .await?;

        // The same time has passed for a node whose kubelet goes on.
        let why = proven(&admin, "words-renewed", "P2").await?;
        ensure!(why.starts_with("an authenticated word"), "{why}");
        let answer = annotator.why("node/words-renewed")?;
        ensure!(
            answer["death"]["lease"].get("Renewed").is_some(),
            "{answer}"
        );
        for name in ["quiet-renewed", "quiet-stale"] {
            let death = status(&admin, &death_name(name, 1)?).await?;
            ensure!(death.is_none(), "silence is no death: {death:?}");
        }

        // A kubelet is back before its agent: something lives there.
        renew_lease(&admin, "words-stale").await?;
        let why = proven(&admin, "words-stale", "P2").await?;
        ensure!(why.starts_with("its Lease is renewed"), "{why}");
        // And a node that was only out of sight says so itself.
        stale.heartbeat(DIES_MS + 30_000)?;
        eventually("it is silent no more", || async {
            Ok(annotator.why("node/quiet-stale").is_err())
        })
        .await?;
        if kubelet.is_finished() {
            // It only ends by an error.
            return kubelet.await?;
        }
        kubelet.abort();
        annotator.kill()
    });
}

#[test]
fn an_annotator_that_may_read_no_lease_relies_on_silence_and_says_so() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let (namespace, name) = ("lastgasp", "narrow");
        // All that it has in the whole cluster, and nothing in kube-node-lease.
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": "narrow-annotator"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "lastgasp-annotator",
            },
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }))?;
        Api::all(admin.clone())
            .create(&PostParams::default(), &binding)
            .await?;
        Node::create(&admin, "unread", &[(Kind::Job, 1)]).await?;
        take_lease(&admin, "unread").await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&narrow());
        let annotator = Annotator::start(directory.path(), &kubeconfig, &SOON)?;
        Speaker::new("unread", 1, annotator.gasps)?.die(DIES_MS)?;
        let why = proven(&admin, "unread", "P3").await?;
        ensure!(
            why.contains("silence alone, because its Lease cannot be read: denied (403)"),
            "{why}"
        );
        annotator.kill()
    });
}
