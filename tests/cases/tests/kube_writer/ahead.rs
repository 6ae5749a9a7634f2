//! Pods that are asked for before they are needed.

use std::collections::BTreeSet;

use cases::kube::{Kind, Node, death};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use lastgasp::k8s::{ANNOTATION_DEATH, PodResult};
use serde_json::json;

use super::{annotation, case, tell};

#[test]
fn what_changes_between_the_look_ahead_and_the_patches_is_found_all_the_same() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "ahead", &[(Kind::Job, 3)]).await?;
        let writer = cluster.writer().await?;
        let death = death("ahead", 1)?;
        // An oops looks ahead, and so does the mark: once for both.
        writer.report_oops(&death).await?;
        writer.mark_node(&death).await?;

        let api: Api<Pod> = Api::namespaced(admin.clone(), "ahead");
        let at_once = DeleteParams::default().grace_period(0);
        api.delete("job-0", &at_once).await?;
        let late: Pod = serde_json::from_value(json!({
            "metadata": {"name": "late"},
            "spec": {"nodeName": "ahead", "containers": [{"name": "c", "image": "i"}]},
        }))?;
        api.create(&PostParams::default(), &late).await?;

        let (tally, outcomes) = tell(&writer, &death).await?;
        assert_eq!(tally.annotated, 3, "{outcomes:?}");
        let told: BTreeSet<&str> = outcomes
            .iter()
            .filter(|outcome| outcome.result == PodResult::Annotated)
            .map(|outcome| outcome.pod.name.as_str())
            .collect();
        assert_eq!(told, BTreeSet::from(["job-1", "job-2", "late"]));
        for pod in api.list(&ListParams::default()).await?.items {
            let has = annotation(&pod, ANNOTATION_DEATH);
            assert_eq!(has, Some(death.name.as_str()), "{:?}", pod.metadata.name);
        }
        Ok(())
    });
}
