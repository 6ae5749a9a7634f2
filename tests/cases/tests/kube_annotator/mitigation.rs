//! What a node does against a bug of its kernel, on its Node object.

use agent_core::model::{
    Inventory, Mitigation, MitigationCause, MitigationMode, MitigationState, Switched,
};
use lastgasp::k8s::CONDITION_MITIGATION;

use super::*;

fn inventory(state: Option<MitigationState>) -> Inventory {
    let since = lastgasp::annotate::now();
    let mitigation = state.map(|state| Mitigation {
        action: "gso-off".into(),
        mode: MitigationMode::Apply,
        state,
        devices: vec![Switched {
            device: "eth0".into(),
            features: vec!["rx-gro".into(), "tx-generic-segmentation".into()],
        }],
        cause: Some(MitigationCause {
            death: Some("mitigates-07070707".into()),
            bug: Some("cve-2024-42281".into()),
            ..MitigationCause::default()
        }),
        since,
        problem: None,
    });
    Inventory {
        mitigations: mitigation.into_iter().collect(),
        ..Inventory::default()
    }
}

async fn shown(client: &Client, name: &str) -> Result<Option<NodeCondition>> {
    let node = Api::<CoreNode>::all(client.clone()).get(name).await?;
    Ok(condition(&node, CONDITION_MITIGATION))
}

async fn is_cleared(client: &Client, name: &str, reason: &str) -> Result<()> {
    eventually(&format!("{CONDITION_MITIGATION} is cleared"), || async {
        let shown = shown(client, name).await?;
        Ok(shown.is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some(reason)))
    })
    .await
}

async fn has_events(client: &Client, name: &str, reasons: &[&str]) -> Result<()> {
    let wanted: Vec<String> = reasons.iter().map(|r| format!("{r} Node/{name}")).collect();
    eventually(&format!("events {wanted:?}"), || async {
        Ok(events(client, "default", name).await? == wanted)
    })
    .await
}

#[test]
fn a_mitigation_is_on_the_node_as_long_as_it_is_in_place() {
    turn(|| async {
        let Some(cluster) = cluster() else {
            return Ok(());
        };
        let admin = cluster.admin().await?;
        let name = "mitigates";
        let node = Node::create(&admin, name, &[(Kind::Job, 2)]).await?;
        let before = node.list(&admin).await?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = cluster.plane.kubeconfig(&annotator());
        let first = Annotator::start(directory.path(), &kubeconfig, &[])?;
        let mut speaker = Speaker::new(name, 1, first.gasps)?;

        // What would help is an event, and nothing else.
        let suggested = inventory(Some(MitigationState::Suggested));
        speaker.introduce(1_000, &suggested)?;
        has_events(&admin, name, &["MitigationSuggested"]).await?;
        let all = Api::<Event>::namespaced(admin.clone(), "default");
        let all = all.list(&ListParams::default()).await?;
        let notes: Vec<String> = all.items.into_iter().filter_map(|e| e.note).collect();
        let command = "ethtool -K eth0 gro off gso off";
        ensure!(notes.iter().any(|n| n.contains(command)), "{notes:?}");
        ensure!(shown(&admin, name).await?.is_none());

        let applied = inventory(Some(MitigationState::Applied));
        speaker.introduce(2_000, &applied)?;
        let (_, condition) = condemned(&admin, name, CONDITION_MITIGATION).await?;
        ensure!(
            condition.reason.as_deref() == Some("GsoOff"),
            "{condition:?}"
        );
        let message = condition.message.unwrap_or_default();
        for part in ["GRO, GSO on eth0", "mitigates-07070707", "cve-2024-42281"] {
            ensure!(message.contains(part), "{message}");
        }
        has_events(&admin, name, &["MitigationApplied", "MitigationSuggested"]).await?;

        // Said again, also to another annotator, it is written once.
        speaker.introduce(3_000, &applied)?;
        first.kill()?;
        let second = Annotator::start(directory.path(), &kubeconfig, &[])?;
        let mut again = Speaker::new(name, 1, second.gasps)?;
        again.introduce(4_000, &applied)?;
        let asked = format!("node/{name}");
        eventually("why shows it", || async {
            let answer = second.why(&asked).ok();
            Ok(answer.is_some_and(|a| a["mitigations"][0]["mitigation"]["state"] == "applied"))
        })
        .await?;
        let mut undone = inventory(Some(MitigationState::Undone));
        undone.mitigations[0].since = lastgasp::annotate::now();
        again.introduce(5_000, &undone)?;
        is_cleared(&admin, name, "UndoneByHand").await?;
        has_events(
            &admin,
            name,
            &[
                "MitigationApplied",
                "MitigationSuggested",
                "MitigationUndone",
            ],
        )
        .await?;

        // It is in place again, and gone while no annotator runs: the Node object says
        // that there is something to take back.
        let applied = inventory(Some(MitigationState::Applied));
        again.introduce(6_000, &applied)?;
        condemned(&admin, name, CONDITION_MITIGATION).await?;
        second.kill()?;
        let third = Annotator::start(directory.path(), &kubeconfig, &[])?;
        let mut next = Speaker::new(name, 2, third.gasps)?;
        let start = Instant::now();
        let mut at = 1_000;
        while shown(&admin, name)
            .await?
            .is_some_and(|c| c.status == "True")
        {
            ensure!(start.elapsed() < PATIENCE, "it stays on the node");
            next.introduce(at, &inventory(None))?;
            at += 1_000;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        is_cleared(&admin, name, "NotApplied").await?;
        ensure!(node.list(&admin).await? == before, "no pod is touched");
        ensure!(!is_tainted(&admin, name).await?);
        third.kill()
    });
}
