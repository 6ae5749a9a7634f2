//! Telling the pods: one patch each, bounded in number at a time, retried for
//! a short while.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_core::engine::{escaped, reason, reason_code, rfc3339};
use agent_core::model::Death;
use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod as CorePod;
use kube::Api as KubeApi;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::client::Api;
use super::names::{ANNOTATION_DEATH, FIELD_MANAGER, POD_CONDITION};
use super::pods::Pod;
use super::text::ANNOTATION_MAX;
use super::{Error, PodOutcome, PodResult};

/// Pauses between tries of one patch, in milliseconds. What is not written
/// after them is the caller's to retry.
const PAUSES_MS: [u64; 4] = [50, 150, 400, 1000];

/// Longest pause that the server can make us take, in milliseconds.
const PAUSE_MAX_MS: u64 = 2000;

/// Over how many milliseconds the tries of different pods are spread.
const SPREAD_MS: u64 = 250;

/// What every pod of a dead node is told; only the uid differs. An annotation
/// without a value is taken off.
pub(super) struct Words {
    annotations: BTreeMap<String, Option<String>>,
    condition: Value,
}

impl Words {
    /// The caller's annotations made safe, the death's name, and the condition.
    pub(super) fn new(death: &Death, annotations: &BTreeMap<String, String>) -> Self {
        let mut annotations: BTreeMap<String, Option<String>> = annotations
            .iter()
            .map(|(key, value)| (key.clone(), Some(escaped(value, ANNOTATION_MAX))))
            .collect();
        // Under another prefix the caller's own key says it too.
        let name = death.name.to_string();
        annotations.insert(ANNOTATION_DEATH.to_owned(), Some(name));
        let condition = json!({
            "type": POD_CONDITION,
            "status": "True",
            "reason": reason_code(death).as_str(),
            "message": reason(death),
            "lastTransitionTime": rfc3339(death.detected_at),
        });
        Self {
            annotations,
            condition,
        }
    }

    /// The opposite of [`Self::new`]: it was no death.
    pub(super) fn taken_back(annotations: &BTreeMap<String, String>, why: &str) -> Self {
        let death = ANNOTATION_DEATH.to_owned();
        let keys = annotations.keys().cloned().chain([death]);
        Self {
            annotations: keys.map(|key| (key, None)).collect(),
            condition: json!({
                "type": POD_CONDITION,
                "status": "False",
                "reason": "Revoked",
                "message": why,
                "lastTransitionTime": jiff::Timestamp::now().to_string(),
            }),
        }
    }

    /// The patch of `pods/status`: it carries metadata too, so one request does
    /// both (kubernetes, `podStatusStrategy`). The uid in it makes the server
    /// refuse another pod of the same name. Server-side apply would fail on pods
    /// with duplicate environment names (kubernetes issue 118261).
    fn patch(&self, uid: &str) -> Patch<Value> {
        Patch::Strategic(json!({
            "metadata": {"uid": uid, "annotations": self.annotations},
            "status": {"conditions": [self.condition]},
        }))
    }
}

/// Patches the pods, at most `in_flight` at a time, and gives each outcome as
/// it comes, with the error where a retry is due.
pub(super) fn tell<'a>(
    api: &'a Api,
    words: &'a Words,
    pods: Vec<Pod>,
    in_flight: usize,
    outage: &'a AtomicBool,
) -> impl Stream<Item = (PodOutcome, Option<Error>)> + 'a {
    stream::iter(pods)
        .map(move |pod| async move {
            let (result, error) = match tell_one(api, words, &pod, outage).await {
                Ok(result) => (result, None),
                Err(error) => (PodResult::Later(error.to_string()), Some(error)),
            };
            let outcome = PodOutcome {
                pod: pod.reference(),
                owner: pod.owner(),
                result,
            };
            (outcome, error)
        })
        .buffer_unordered(in_flight)
}

/// One pod, with its retries. After one pod found the server gone for good the
/// others try just once: 110 of them would add up.
async fn tell_one(
    api: &Api,
    words: &Words,
    pod: &Pod,
    outage: &AtomicBool,
) -> Result<PodResult, Error> {
    let mut pauses = PAUSES_MS.into_iter();
    loop {
        let error = match try_one(api, words, pod).await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        let pause = match pauses.next() {
            Some(pause) if !outage.load(Ordering::Relaxed) => pause,
            _ => {
                if error.is_outage() {
                    outage.store(true, Ordering::Relaxed);
                }
                return Err(error);
            }
        };
        let asked = error.retry_after().map_or(0, |d| d.as_millis() as u64);
        let pause = pause.max(asked.min(PAUSE_MAX_MS)) + spread_ms(pod);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// A share of [`SPREAD_MS`] of the pod's own: those that the server turned away
/// together do not come back together.
fn spread_ms(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.reference().uid.hash(&mut hasher);
    hasher.finish() % SPREAD_MS
}

/// One try; an error is worth another.
async fn try_one(api: &Api, words: &Words, pod: &Pod) -> Result<PodResult, Error> {
    let pod = pod.reference();
    // The answer is the whole pod; most of it is not ours to parse.
    let pods =
        KubeApi::<PartialObjectMeta<CorePod>>::namespaced(api.client.clone(), &pod.namespace);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = words.patch(&pod.uid);
    let patched = pods.patch_status(&pod.name, &params, &patch);
    let what = format!("patch status of pod {}/{}", pod.namespace, pod.name);
    match api.call(what, patched).await {
        Ok(_) => Ok(PodResult::Annotated),
        Err(Error::NotFound { .. }) => Ok(PodResult::Gone),
        Err(Error::Conflict { message, .. }) if is_uid_conflict(&message) => Ok(PodResult::Gone),
        Err(Error::Refused { message, .. }) if is_uid_conflict(&message) => Ok(PodResult::Gone),
        Err(Error::Refused { message, .. }) => Ok(PodResult::Refused(message)),
        // An admission rule forbids this one pod; missing rights would forbid all.
        Err(Error::Denied {
            code: 403, message, ..
        }) if !message.contains(" cannot patch ") => Ok(PodResult::Refused(message)),
        Err(error) => Err(error),
    }
}

/// Whether the server says that the pod is another one than we mean.
/// Source: kubernetes, `apiserver/pkg/storage/interfaces.go` (Preconditions) and
/// `apimachinery/pkg/api/validation/objectmeta.go` (immutable uid).
fn is_uid_conflict(message: &str) -> bool {
    message.contains("UID in precondition") || message.contains("metadata.uid")
}
