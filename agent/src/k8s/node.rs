//! The Node object: a condition that says what happened, and a taint that
//! keeps new pods away.

use agent_core::model::{Death, NodeName};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api as KubeApi;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Error;
use super::client::Api;
use super::names::{CONDITION_OOPS, CONDITION_PANIC, FIELD_MANAGER, TAINT, TAINT_EFFECT};
use super::text;

/// Tries against somebody else's changes: a kubelet that lives writes every
/// few seconds, controllers more often.
const TRIES: usize = 5;

/// The node of a death; `None` if it does not exist, or only another one of
/// the same name.
pub(super) async fn find(api: &Api, death: &Death) -> Result<Option<Node>, Error> {
    find_named(api, &death.node, death.node_uid.as_deref()).await
}

/// The node of this name, and of this uid if one is known.
pub(super) async fn find_named(
    api: &Api,
    name: &NodeName,
    uid: Option<&str>,
) -> Result<Option<Node>, Error> {
    let nodes = KubeApi::<Node>::all(api.client.clone());
    let name = name.as_str();
    let found = api
        .call(format!("get node {name}"), nodes.get_opt(name))
        .await?;
    let same = |node: &Node| uid.is_none() || node.metadata.uid.as_deref() == uid;
    Ok(found.filter(same))
}

/// A condition as it is to be.
pub(super) struct Told<'a> {
    /// Which one.
    pub(super) type_: &'a str,
    /// Whether it is `True`. One that is not there need not be told that it is not so.
    pub(super) holds: bool,
    /// One CamelCase word.
    pub(super) reason: &'a str,
    /// For people.
    pub(super) message: String,
    /// Since when.
    pub(super) since: jiff::Timestamp,
}

/// Brings a condition to what it is to be.
pub(super) async fn tell(api: &Api, node: Node, told: Told<'_>) -> Result<(), Error> {
    if told.holds {
        let Told {
            type_,
            reason,
            message,
            since,
            ..
        } = told;
        return condemn(api, node, type_, reason, message, since)
            .await
            .map(drop);
    }
    let shown = condition(&node, told.type_).filter(|c| c.status == "True");
    if shown.is_none() {
        return Ok(());
    }
    let now = Time(jiff::Timestamp::now());
    let cleared = NodeCondition {
        type_: told.type_.to_owned(),
        status: "False".to_owned(),
        reason: Some(told.reason.to_owned()),
        message: Some(told.message),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(now),
    };
    set_conditions(api, &node, &[cleared]).await.map(drop)
}

/// Sets a condition to `True`; the node as it is then.
pub(super) async fn condemn(
    api: &Api,
    node: Node,
    type_: &str,
    reason: &str,
    message: String,
    since: jiff::Timestamp,
) -> Result<Node, Error> {
    let wanted = NodeCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(since)),
        last_transition_time: Some(Time(since)),
    };
    let same = |c: &NodeCondition| {
        c.status == wanted.status && c.reason == wanted.reason && c.message == wanted.message
    };
    if condition(&node, type_).is_some_and(same) {
        return Ok(node);
    }
    set_conditions(api, &node, &[wanted]).await
}

/// Sets the conditions that speak of this death to `False`, and takes the
/// taint away; leaves what a later death of the same node has set.
pub(super) async fn clear(
    api: &Api,
    node: Node,
    death: &Death,
    reason: &str,
    what: &str,
) -> Result<(), Error> {
    let ours = |c: &NodeCondition| text::is_about(c.message.as_deref().unwrap_or(""), death);
    let now = Time(jiff::Timestamp::now());
    let cleared: Vec<NodeCondition> = [CONDITION_PANIC, CONDITION_OOPS]
        .into_iter()
        .filter_map(|type_| condition(&node, type_))
        .filter(|c| c.status == "True" && ours(c))
        .map(|c| NodeCondition {
            type_: c.type_.clone(),
            status: "False".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(text::node_message(death, what)),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        })
        .collect();
    let another_died = condition(&node, CONDITION_PANIC).is_some_and(|c| !ours(c));
    let node = if cleared.is_empty() {
        node
    } else {
        set_conditions(api, &node, &cleared).await?
    };
    if another_died {
        return Ok(());
    }
    taint(api, node, None).await
}

/// Sets our taint to `value`, or takes it away, and leaves all others.
pub(super) async fn taint(api: &Api, mut node: Node, value: Option<&str>) -> Result<(), Error> {
    let nodes = KubeApi::<Node>::all(api.client.clone());
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut last = None;
    for _ in 0..TRIES {
        let before = node.spec.take().and_then(|s| s.taints).unwrap_or_default();
        let Some(after) = with_taint(before, value) else {
            return Ok(());
        };
        // The list is replaced as a whole: the version guards the others' taints.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": after},
        });
        let (params, patch) = (params(), Patch::Merge(patch));
        let patched = nodes.patch(&name, &params, &patch);
        match api
            .call(format!("patch taints of node {name}"), patched)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error @ Error::Conflict { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
        let read = api
            .call(format!("get node {name}"), nodes.get_opt(&name))
            .await?;
        match read {
            Some(read) => node = read,
            None => return Ok(()),
        }
    }
    Err(last.unwrap_or_else(|| Error::Conflict {
        what: format!("patch taints of node {name}"),
        message: "no try left".to_owned(),
    }))
}

/// The list with our taint as wanted; `None` if it is so already.
fn with_taint(mut taints: Vec<Taint>, value: Option<&str>) -> Option<Vec<Taint>> {
    let ours = |t: &Taint| t.key == TAINT && t.effect == TAINT_EFFECT;
    let before = taints.iter().find(|t| ours(t));
    match (before, value) {
        (None, None) => return None,
        (Some(taint), Some(value)) if taint.value.as_deref() == Some(value) => return None,
        _ => taints.retain(|t| !ours(t)),
    }
    if let Some(value) = value {
        taints.push(Taint {
            key: TAINT.to_owned(),
            value: Some(value.to_owned()),
            effect: TAINT_EFFECT.to_owned(),
            time_added: None,
        });
    }
    Some(taints)
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_)
}

/// One strategic merge patch: conditions merge by type, so nobody else's are
/// touched and no version is needed.
async fn set_conditions(
    api: &Api,
    node: &Node,
    conditions: &[NodeCondition],
) -> Result<Node, Error> {
    let nodes = KubeApi::<Node>::all(api.client.clone());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({"status": {"conditions": conditions}});
    let (params, patch) = (params(), Patch::Strategic(patch));
    let patched = nodes.patch_status(name, &params, &patch);
    api.call(format!("patch status of node {name}"), patched)
        .await
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> Taint {
        Taint {
            key: "dedicated".to_owned(),
            value: Some("gpu".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        }
    }

    #[test]
    fn only_our_taint_changes_and_only_if_it_must() {
        let set = with_taint(vec![other()], Some("KernelPanic")).expect("a change");
        assert_eq!(set.len(), 2);
        assert_eq!(set[0], other());
        assert_eq!(with_taint(set.clone(), Some("KernelPanic")), None);

        let renamed = with_taint(set.clone(), Some("PageFault")).expect("a change");
        assert_eq!(renamed.len(), 2);
        assert_eq!(renamed[1].value.as_deref(), Some("PageFault"));

        assert_eq!(with_taint(set, None), Some(vec![other()]));
        assert_eq!(with_taint(vec![other()], None), None);
    }
}
