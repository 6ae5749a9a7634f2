//! What is done against a bug of a node's kernel, on the Node object: a condition as long
//! as it is in place, and an event for each change.

use agent_core::engine::{escaped, mitigation_text};
use agent_core::model::{BootId, Mitigation, MitigationState, NodeName, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;

use super::names::CONDITION_MITIGATION;
use super::text::{self, MESSAGE_MAX};
use super::{Error, Writer, events, node};

/// What changed longer ago is no news. Events are kept for an hour, so what was told
/// before that is not found any more.
const NEWS_MS: u64 = 3_600_000;

/// What an agent said last of what it does.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its node.
    pub node: NodeName,
    /// The Node object's uid, if known.
    pub uid: Option<String>,
    /// Its boot.
    pub boot: BootId,
    /// How it stands; `None` if it does nothing any more.
    pub said: Option<Mitigation>,
    /// Whether that is new. Where nobody knows, the time decides.
    pub is_news: bool,
}

impl Writer {
    /// Brings what the Node object says to how it stands.
    pub async fn mitigated(&self, standing: &Standing, now: Timestamp) -> Result<(), Error> {
        let Standing {
            node: name,
            uid,
            boot,
            said,
            is_news,
        } = standing;
        let said = said.as_ref();
        let Some(found) = node::find_named(&self.api, name, uid.as_deref()).await? else {
            return Ok(());
        };
        let uid = found.metadata.uid.clone();
        let what = said.and_then(mitigation_text);
        let what = what.unwrap_or_else(|| "GRO and GSO are as they were".to_owned());
        let state = said.map_or(MitigationState::Ready, |said| said.state);
        let since = said.map_or(now, |said| said.since.min(now));
        let condition = node::Told {
            type_: CONDITION_MITIGATION,
            holds: state == MitigationState::Applied,
            reason: condition_reason(state),
            message: escaped(&what, MESSAGE_MAX),
            since: text::time(since),
        };
        node::tell(&self.api, found, condition).await?;
        let is_news = *is_news || now.since(since) < NEWS_MS;
        let Some((type_, reason)) = event_reason(state).filter(|_| is_news) else {
            return Ok(());
        };
        let said = events::Said {
            regarding: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(name.to_string()),
                uid,
                ..ObjectReference::default()
            },
            type_,
            reason,
            action: "SwitchGsoOff",
            note: what.clone(),
        };
        let about = events::About {
            key: format!("{boot} {} {what}", since.0),
            at: since,
            death: None,
        };
        events::once(&self.api, &self.instance, about, said).await
    }
}

fn condition_reason(state: MitigationState) -> &'static str {
    match state {
        MitigationState::Applied => "GsoOff",
        MitigationState::Undone => "UndoneByHand",
        MitigationState::Failed => "Failed",
        MitigationState::Ready
        | MitigationState::Observed
        | MitigationState::Suggested
        | MitigationState::Pending
        | MitigationState::Unknown => "NotApplied",
    }
}

/// Type and reason of the event, where there is one.
fn event_reason(state: MitigationState) -> Option<(&'static str, &'static str)> {
    match state {
        MitigationState::Suggested => Some(("Warning", "MitigationSuggested")),
        MitigationState::Applied => Some(("Normal", "MitigationApplied")),
        MitigationState::Undone => Some(("Normal", "MitigationUndone")),
        MitigationState::Failed => Some(("Warning", "MitigationFailed")),
        MitigationState::Ready
        | MitigationState::Observed
        | MitigationState::Pending
        | MitigationState::Unknown => None,
    }
}
