//! What `deploy/` ships fits the writer.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cases::kube::{
    Annotator, Kind, Node, Speaker, annotator, apply, ask, death, documents, documents_with,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{
    Container, Node as CoreNode, Pod, PodSpec, PodTemplateSpec, Service,
};
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lastgasp::k8s::{TAINT, Writer};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::case;

/// How long the annotator may take to hear of something.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_deploy_ships_is_accepted_and_may_be_applied_again() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let applied = apply(&admin, documents()?).await?;
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

/// One of the objects, by kind and name.
fn object<T: DeserializeOwned>(all: &[DynamicObject], kind: &str, name: &str) -> Result<T> {
    let is_it = |object: &&DynamicObject| {
        let of_kind = object.types.as_ref().is_some_and(|t| t.kind == kind);
        of_kind && object.metadata.name.as_deref() == Some(name)
    };
    let found = all.iter().find(is_it);
    let found = found.with_context(|| format!("no {kind} {name}"))?;
    Ok(serde_json::from_value(serde_json::to_value(found)?)?)
}

fn spec(template: PodTemplateSpec) -> Result<PodSpec> {
    template.spec.context("a template without a spec")
}

fn env<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut all = container.env.iter().flatten();
    all.find(|variable| variable.name == name)?.value.as_deref()
}

/// Whether a pod like this may run in the namespace: its admission says so.
async fn admitted(client: &Client, namespace: &str, spec: &PodSpec) -> Result<()> {
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some("admitted".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec.clone()),
        status: None,
    };
    let tried = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.create(&tried, &pod)
        .await
        .with_context(|| format!("no such pod may run in {namespace}"))?;
    Ok(())
}

#[test]
fn what_the_manifests_set_is_what_the_program_knows() {
    let components = ["netconsole", "mitigate"].map(documents_with);
    for all in [documents()].into_iter().chain(components) {
        let all = all.expect("deploy/ can be read");
        let agent: DaemonSet = object(&all, "DaemonSet", "lastgasp-agent").expect("it");
        let annotator: Deployment = object(&all, "Deployment", "lastgasp-annotator").expect("it");
        let templates = [
            agent.spec.map(|spec| spec.template),
            annotator.spec.map(|spec| spec.template),
        ];
        for template in templates.into_iter().flatten() {
            let containers = spec(template).expect("it").containers;
            let args = containers[0].args.clone().unwrap_or_default();
            let (_, help) = ask(&[args[0].as_str(), "--help"]).expect("it runs");
            for variable in containers[0].env.iter().flatten() {
                let known = format!("[env: {}=", variable.name);
                assert!(help.contains(&known), "{}: {help}", variable.name);
            }
        }
    }
}

#[test]
fn only_deploy_mitigate_lets_the_agents_change_the_network() {
    for (all, may) in [(documents(), false), (documents_with("mitigate"), true)] {
        let all = all.expect("deploy/ can be read");
        let agent: DaemonSet = object(&all, "DaemonSet", "lastgasp-agent").expect("it");
        let agent = spec(agent.spec.expect("a spec").template).expect("it");
        let agent = &agent.containers[0];
        let security = agent.security_context.as_ref();
        let given = security.and_then(|s| s.capabilities.as_ref()?.add.as_ref());
        let has = given.is_some_and(|all| all.iter().any(|c| c == "NET_ADMIN"));
        let mode = env(agent, "LASTGASP_MITIGATE");
        assert_eq!((has, mode.is_some()), (may, may));
        assert!(!may || mode == Some("gso=apply"));
    }
}

#[test]
fn deploy_netconsole_turns_both_sides_on_and_its_annotator_hears() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let first = apply(&admin, documents_with("netconsole")?).await?;
        let all = apply(&admin, documents_with("netconsole")?).await?;
        assert_eq!(all.len(), first.len());
        for (first, again) in first.iter().zip(&all) {
            assert_eq!(first.data.get("spec"), again.data.get("spec"), "{again:?}");
        }

        // The agents send to the port that leads to the one that is listened on.
        let agent: DaemonSet = object(&all, "DaemonSet", "lastgasp-agent")?;
        let agent = spec(agent.spec.context("no spec")?.template)?;
        let annotated: Deployment = object(&all, "Deployment", "lastgasp-annotator")?;
        let annotated = spec(annotated.spec.context("no spec")?.template)?;
        let service: Service = object(&all, "Service", "lastgasp-annotator-node")?;
        let [speaks, hears] = [&agent.containers[0], &annotated.containers[0]];
        assert_eq!(env(speaks, "LASTGASP_NETCONSOLE"), Some("auto"));
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports
            .iter()
            .find(|port| port.name.as_deref() == Some("netconsole"));
        let port = port.context("the Service leads nobody there")?;
        assert_eq!(port.protocol.as_deref(), Some("UDP"));
        let sent_to = port.node_port.map(|port| port.to_string());
        assert_eq!(env(speaks, "LASTGASP_NETCONSOLE_PORT"), sent_to.as_deref());
        let leads_to = json!(port.target_port);
        let inner = hears.ports.iter().flatten();
        let inner = inner.filter(|port| port.protocol.as_deref() == Some("UDP"));
        let inner = inner.into_iter().find(|port| json!(port.name) == leads_to);
        let inner = inner
            .context("the annotator's pod has no such port")?
            .container_port;
        let listens = env(hears, "LASTGASP_NETCONSOLE_LISTEN");
        assert_eq!(listens, Some(format!("0.0.0.0:{inner}").as_str()));
        // And its configfs is the node's own, to be written.
        let mounts = speaks.volume_mounts.iter().flatten();
        let configfs = env(speaks, "LASTGASP_CONFIGFS").context("no configfs")?;
        let mount = mounts
            .into_iter()
            .find(|mount| mount.mount_path == configfs);
        let mount = mount.context("configfs is not mounted")?;
        assert_ne!(mount.read_only, Some(true));
        let mut volumes = agent.volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == mount.name);
        let host = volume.and_then(|volume| volume.host_path.as_ref());
        assert_eq!(
            host.map(|host| host.path.as_str()),
            Some("/sys/kernel/config")
        );
        admitted(&admin, "lastgasp-agent", &agent).await?;
        admitted(&admin, "lastgasp", &annotated).await?;

        hears_netconsole(
            &admin,
            &cluster.plane.kubeconfig(&annotator()),
            hears,
            inner,
        )
        .await
    });
}

#[test]
fn an_agent_that_may_delete_from_pstore_is_admitted() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        let agent: DaemonSet = object(&documents()?, "DaemonSet", "lastgasp-agent")?;
        let mut agent = spec(agent.spec.context("no spec")?.template)?;
        // What deploy/agent.yaml says is needed for it.
        let container = &mut agent.containers[0];
        let pstore = env(container, "LASTGASP_PSTORE_DIR").context("no pstore")?;
        let pstore = std::path::PathBuf::from(pstore);
        let mut mounts = container.volume_mounts.iter_mut().flatten();
        let mount = mounts.find(|mount| pstore.starts_with(&mount.mount_path));
        mount.context("pstore is not mounted")?.read_only = None;
        let args = container.args.get_or_insert_default();
        args.push("--pstore-delete".to_owned());
        admitted(&admin, "lastgasp-agent", &agent).await
    });
}

/// A real annotator, started as the manifest says, is told by a node's address.
async fn hears_netconsole(
    admin: &Client,
    kubeconfig: &std::path::Path,
    container: &Container,
    port: i32,
) -> Result<()> {
    let (name, address) = ("overheard", Ipv4Addr::new(127, 0, 0, 3));
    Node::create(admin, name, &[(Kind::Job, 1)]).await?;
    let status = json!({"status": {"addresses": [
        {"type": "InternalIP", "address": address.to_string()},
    ]}});
    Api::<CoreNode>::all(admin.clone())
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    let directory = tempfile::tempdir()?;
    let annotator = Annotator::of_container(directory.path(), kubeconfig, container)?;
    Speaker::new(name, 1, annotator.gasps)?.hello(100_000, None)?;

    let socket = UdpSocket::bind((address, 0))?;
    let port = u16::try_from(port)?;
    let said = "Kernel panic - not syncing: Attempted to kill init!";
    let record = format!("0,900,100500000,-;{said}\n");
    let start = Instant::now();
    let answer = loop {
        // Until the node is known by its object; what comes twice is told once.
        socket.send_to(record.as_bytes(), (Ipv4Addr::LOCALHOST, port))?;
        let answer = annotator.why(&format!("node/{name}"));
        if let Ok(answer) = answer
            && answer["lines"][0]["text"] == said
        {
            break answer;
        }
        let log = annotator.log()?;
        ensure!(start.elapsed() < PATIENCE, "not heard; its log:\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answer["death"]["proof"], "P0", "{answer}");
    assert_eq!(answer["lines"][0]["unproven"], true, "{answer}");
    let taints = super::taints(&super::node(admin, name).await?);
    let ours = taints.iter().any(|taint| taint.key == TAINT);
    ensure!(!ours, "nothing is done for what nobody has proven");
    annotator.kill()
}
