//! What `deploy/` ships fits the writer.

use anyhow::Context as _;
use cases::kube::{Kind, Node, apply, death, documents};
use lastgasp::k8s::Writer;

use super::case;

#[test]
fn what_deploy_ships_is_accepted_and_may_be_applied_again() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let applied = apply(&admin).await?;
        assert_eq!(applied.len(), documents()?.len());
        let kinds: Vec<&str> = applied
            .iter()
            .filter_map(|o| o.types.as_ref().map(|t| t.kind.as_str()))
            .collect();
        for kind in [
            "CustomResourceDefinition",
            "ClusterRole",
            "DaemonSet",
            "Deployment",
            "Service",
        ] {
            assert!(kinds.contains(&kind), "{kinds:?}");
        }
        Ok(())
    });
}

#[test]
fn a_writer_without_rights_says_which_manifest_has_them() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "forbidden", &[(Kind::Job, 1)]).await?;
        let mut settings = cluster.settings();
        let kubeconfig =
            std::fs::read_to_string(settings.kubeconfig.clone().context("set above")?)?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(
            file.path(),
            kubeconfig.replace("lastgasp-lastgasp-annotator", "nobody"),
        )?;
        settings.kubeconfig = Some(file.path().to_owned());
        let writer = Writer::connect(&settings).await?;
        let error = writer
            .mark_node(&death("forbidden", 1)?)
            .await
            .expect_err("no rights");
        assert!(error.is_transient(), "an administrator can cure it");
        assert!(
            error.to_string().contains("deploy/annotator.yaml"),
            "{error}"
        );
        Ok(())
    });
}
