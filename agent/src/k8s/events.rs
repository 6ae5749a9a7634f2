//! Events: one on the node, one on each workload that lost pods. Their names
//! follow from what they say, so that a repetition finds its own.

use std::fmt::Write as _;

use agent_core::engine::escaped;
use agent_core::model::{Death, DeathName, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api as KubeApi;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::client::Api;
use super::names::{FIELD_MANAGER, REPORTER};
use super::text::{self, NOTE_MAX};

/// Longest `reportingInstance`.
/// Source: kubernetes, `pkg/apis/core/validation/events.go`.
const INSTANCE_MAX: usize = 128;

/// Part of the regarded object's name that goes into the event's name, in
/// bytes; together with the hash it stays below 253.
const NAME_PART_MAX: usize = 200;

/// What an event is about, beside the object.
pub(super) struct About<'a> {
    /// Makes its name, with the object and the reason: the same is written once.
    pub(super) key: String,
    /// When it happened.
    pub(super) at: Timestamp,
    /// The death that it belongs to, if it does.
    pub(super) death: Option<&'a DeathName>,
}

impl<'a> From<&'a Death> for About<'a> {
    fn from(death: &'a Death) -> Self {
        Self {
            key: death.name.to_string(),
            at: death.detected_at,
            death: Some(&death.name),
        }
    }
}

/// One event to be written.
pub(super) struct Said<'a> {
    /// The object that it is about.
    pub(super) regarding: ObjectReference,
    /// `Warning` or `Normal`.
    pub(super) type_: &'static str,
    /// One CamelCase word.
    pub(super) reason: &'a str,
    /// What was done, in CamelCase.
    pub(super) action: &'static str,
    /// For people.
    pub(super) note: String,
}

/// Writes an event unless it is there; asks first, so that a repetition writes
/// nothing.
pub(super) async fn once(
    api: &Api,
    instance: &str,
    about: impl Into<About<'_>>,
    said: Said<'_>,
) -> Result<(), Error> {
    let event = event(instance, &about.into(), said);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let events = KubeApi::<Event>::namespaced(api.client.clone(), &namespace);
    let what = format!("event {namespace}/{name}");
    let found = api
        .call(format!("get {what}"), events.get_opt(&name))
        .await?;
    if found.is_some() {
        return Ok(());
    }
    create(api, &events, &event, &what).await
}

async fn create(
    api: &Api,
    events: &KubeApi<Event>,
    event: &Event,
    what: &str,
) -> Result<(), Error> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let created = events.create(&params, event);
    match api.call(format!("create {what}"), created).await {
        Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn event(instance: &str, about: &About<'_>, said: Said<'_>) -> Event {
    // Events about objects without a namespace live in "default".
    let namespace = said
        .regarding
        .namespace
        .clone()
        .unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name(&about.key, &said.regarding, said.reason)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        type_: Some(said.type_.to_owned()),
        reason: Some(said.reason.to_owned()),
        action: Some(said.action.to_owned()),
        note: Some(escaped(&said.note, NOTE_MAX)),
        event_time: Some(MicroTime(text::time(about.at))),
        regarding: Some(said.regarding),
        related: about.death.map(|death| ObjectReference {
            api_version: Some("lastgasp.dev/v1alpha1".to_owned()),
            kind: Some("NodeDeath".to_owned()),
            name: Some(death.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(escaped(instance, INSTANCE_MAX)),
        ..Event::default()
    }
}

/// `<object>.<16 hex digits of a hash over all that the event says>`.
fn name(key: &str, regarding: &ObjectReference, reason: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        key,
        regarding.kind.as_deref().unwrap_or(""),
        regarding.name.as_deref().unwrap_or(""),
        regarding.uid.as_deref().unwrap_or(""),
        reason,
    ] {
        hash.update(part);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut hex = String::with_capacity(16);
    for byte in digest.iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    // Names of objects are ASCII; anything else would be refused anyway.
    let object: String = regarding
        .name
        .as_deref()
        .unwrap_or("")
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        .take(NAME_PART_MAX)
        .collect();
    format!("{}.{hex}", object.trim_end_matches(['-', '.']))
}
