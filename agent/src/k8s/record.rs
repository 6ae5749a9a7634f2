//! Writing a `NodeDeath`: created once, its status by read-modify-write.

use agent_core::engine::{
    asker_text, escaped, packet_text, reason, reason_code, rfc3339, told_text,
};
use agent_core::model::{self, Asker, Death, DeathState, Packet, Proof};
use agent_core::recurrence::Kind;
use kube::Api as KubeApi;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::client::Api;
use super::crd::{
    AskedBy, ChannelAccount, Condition, Foreseen, KnownBug, NodeDeath, NodeDeathSpec,
    NodeDeathStatus, ProofStep, Said,
};
use super::names::FIELD_MANAGER;
use super::text::MESSAGE_MAX;
use super::{Error, PodCounts};

/// Tries against somebody else's changes.
const TRIES: usize = 5;

/// Most pieces of evidence in the object; the store has all of them.
const EVIDENCE_MAX: usize = 64;
/// Most steps of proof, and most channels, in the object.
const LIST_MAX: usize = 16;

/// Longest fingerprint.
const FINGERPRINT_MAX: usize = 64;
/// Longest name of a network device or a driver (`IFNAMSIZ`).
const DEVICE_MAX: usize = 16;

/// The type of condition: it is known that the boot ended.
const CONFIRMED: &str = "Confirmed";
/// The type of condition: every pod that can be told has been told.
const PODS_ANNOTATED: &str = "PodsAnnotated";
/// The type of condition: the node is back with another boot.
const NODE_RETURNED: &str = "NodeReturned";

/// The object's status, or `None` if it does not exist.
pub(super) async fn read(api: &Api, death: &Death) -> Result<Option<NodeDeathStatus>, Error> {
    let deaths = KubeApi::<NodeDeath>::all(api.client.clone());
    let name = death.name.as_str();
    let found = api
        .call(format!("get NodeDeath {name}"), deaths.get_opt(name))
        .await?;
    Ok(found.map(|object| object.status.unwrap_or_default()))
}

/// Records what is known of a death, and creates the object if need be.
pub(super) async fn confirm(api: &Api, death: &Death) -> Result<(), Error> {
    change(api, death, true, |status| describe(status, death)).await
}

/// Records what is known of a death, if the object exists.
pub(super) async fn update(api: &Api, death: &Death) -> Result<(), Error> {
    change(api, death, false, |status| describe(status, death)).await
}

/// Records what became of the pods, and creates the object if need be.
pub(super) async fn pods_annotated(
    api: &Api,
    death: &Death,
    counts: &PodCounts,
) -> Result<(), Error> {
    change(api, death, true, |status| {
        if status.reason.is_none() {
            describe(status, death);
        }
        let before = status.pods.take().unwrap_or_default();
        let counts = PodCounts {
            // Pods that were told in an earlier call may be gone by now.
            annotated: counts.annotated.max(before.annotated),
            gone: counts.gone.saturating_add(before.gone),
            ..counts.clone()
        };
        let message = format!("{} pods carry the reason", counts.annotated);
        status.pods = Some(counts);
        set(status, PODS_ANNOTATED, "True", "AllPodsTold", message);
    })
    .await
}

/// Records that the node is back.
pub(super) async fn returned(api: &Api, death: &Death) -> Result<(), Error> {
    change(api, death, false, |status| {
        describe(status, death);
        let message = "the node is back with another boot".to_owned();
        set(status, NODE_RETURNED, "True", "NewBoot", message);
    })
    .await
}

/// Whether the pods of this death have been told already.
pub(super) fn pods_are_annotated(status: &NodeDeathStatus) -> bool {
    let done = |c: &Condition| c.type_ == PODS_ANNOTATED && c.status == "True";
    status.conditions.iter().any(done)
}

async fn change(
    api: &Api,
    death: &Death,
    create: bool,
    change: impl Fn(&mut NodeDeathStatus),
) -> Result<(), Error> {
    let deaths = KubeApi::<NodeDeath>::all(api.client.clone());
    let name = death.name.as_str();
    let mut last = None;
    for _ in 0..TRIES {
        let found = api
            .call(format!("get NodeDeath {name}"), deaths.get_opt(name))
            .await?;
        let object = match found {
            Some(object) => object,
            None if !create => return Ok(()),
            None => {
                let fresh = NodeDeath::new(name, spec(death));
                let post = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                let created = deaths.create(&post, &fresh);
                match api.call(format!("create NodeDeath {name}"), created).await {
                    Ok(object) => object,
                    Err(error @ Error::Conflict { .. }) => {
                        last = Some(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let before = object.status.unwrap_or_default();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": object.metadata.resource_version},
            "status": nulled(&json!(before), json!(after)),
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(patch);
        let patched = deaths.patch_status(name, &params, &patch);
        match api
            .call(format!("patch status of NodeDeath {name}"), patched)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error @ Error::Conflict { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Conflict {
        what: format!("patch status of NodeDeath {name}"),
        message: "no try left".to_owned(),
    }))
}

/// `after`, with a null for all that only `before` has: what a merge patch does
/// not name stays as it was (RFC 7386).
fn nulled(before: &Value, mut after: Value) -> Value {
    if let (Value::Object(before), Value::Object(after)) = (before, &mut after) {
        for (key, old) in before {
            let new = after.remove(key);
            let new = new.map_or(Value::Null, |new| nulled(old, new));
            after.insert(key.clone(), new);
        }
    }
    after
}

fn foreseen(packet: &Packet) -> Foreseen {
    let names = packet.stack.iter().take(LIST_MAX);
    Foreseen {
        text: escaped(&packet_text(packet), MESSAGE_MAX),
        condition: packet.check.condition().to_owned(),
        device: escaped(&packet.device, DEVICE_MAX),
        driver: escaped(&packet.driver, DEVICE_MAX),
        network_namespace: (packet.netns != 0).then_some(packet.netns),
        pod_uid: packet.pod_uid(),
        stack: names.map(|name| escaped(name, 256)).collect(),
    }
}

fn spec(death: &Death) -> NodeDeathSpec {
    NodeDeathSpec {
        node_name: death.node.to_string(),
        node_uid: death.node_uid.as_deref().map(|uid| escaped(uid, 64)),
        boot_id: death.boot.to_string(),
        detected_at: rfc3339(death.detected_at),
    }
}

/// Says what is known of the death itself, and no more than that.
fn describe(status: &mut NodeDeathStatus, death: &Death) {
    let proof = format!("{:?}", death.proof);
    let short = |text: &Option<String>| text.as_deref().map(|t| escaped(t, 256));
    status.reason = Some(reason_code(death).as_str().to_owned());
    status.message = Some(reason(death));
    status.kernel_release = short(&death.kernel_release);
    status.happened_at = Some(rfc3339(death.happened_at));
    let report = death.report.as_ref();
    status.kernel_line = report.map(|report| escaped(&report.line, MESSAGE_MAX));
    status.fault_function = report.and_then(|report| short(&report.fault_function));
    status.module = report.and_then(|report| short(&report.module));
    // How often it was seen stays out: that changes with each death after this one, and
    // whoever asks for this fingerprint counts what is there.
    status.fingerprint = match Kind::of(death) {
        Kind::Crash(fingerprint) => Some(escaped(&fingerprint, FINGERPRINT_MAX)),
        Kind::Code(_) | Kind::Ordered(_) => None,
    };
    let bugs = report.map_or(&[][..], |report| &report.known_bugs);
    status.known_bugs = bugs.iter().map(known_bug).collect();
    status.foreseen = death.packet.as_deref().map(foreseen);
    let asked = death.word.as_ref().and_then(|word| word.asked.as_ref());
    status.asked_by = asked.map(|asked| asked_by(&asker_text(&asked.by), Some(&asked.by)));
    let told = asked.and_then(|asked| asked.told.as_ref());
    status.told_by = told.map(|told| asked_by(&told_text(told), told.by.as_ref()));
    status.evidence = death
        .evidence
        .iter()
        .take(EVIDENCE_MAX)
        .map(|said| Said {
            channel: format!("{:?}", said.channel),
            at: rfc3339(said.at),
            text: escaped(&said.text, MESSAGE_MAX),
        })
        .collect();
    status.steps = death
        .steps
        .iter()
        .take(LIST_MAX)
        .map(|step| ProofStep {
            proof: format!("{:?}", step.proof),
            at: rfc3339(step.at),
            by: format!("{:?}", step.by),
            text: escaped(&step.text, MESSAGE_MAX),
        })
        .collect();
    status.channels = death
        .channels
        .iter()
        .take(LIST_MAX)
        .map(|account| ChannelAccount {
            channel: format!("{:?}", account.channel),
            would: escaped(&account.would, MESSAGE_MAX),
            did: escaped(&account.did, MESSAGE_MAX),
        })
        .collect();
    let count = death.evidence.len();
    let (value, reason, message) = match death.state {
        DeathState::Revoked => (
            "False",
            "Revoked",
            "the same boot spoke again: it had not ended".to_owned(),
        ),
        state => (
            match state {
                DeathState::Dead | DeathState::Returned if death.proof >= Proof::P2 => "True",
                DeathState::Survived => "False",
                _ => "Unknown",
            },
            proof.as_str(),
            format!("proof {proof}, {count} pieces of evidence"),
        ),
    };
    set(status, CONFIRMED, value, reason, message);
    status.proof = Some(proof);
}

fn known_bug(bug: &model::KnownBug) -> KnownBug {
    let short = |text: &Option<String>, max| text.as_deref().map(|text| escaped(text, max));
    KnownBug {
        id: escaped(&bug.id, 64),
        title: escaped(&bug.title, 256),
        likely: bug.likely,
        fixed_in: short(&bug.fixed_in, 64),
        workaround: short(&bug.workaround, 512),
        reference: short(&bug.reference, 256),
    }
}

fn asked_by(text: &str, asker: Option<&Asker>) -> AskedBy {
    let text = escaped(text, MESSAGE_MAX);
    let Some(asker) = asker else {
        return AskedBy {
            text,
            ..AskedBy::default()
        };
    };
    let short = |text: &str| escaped(text, 256);
    let pod = asker.pod.as_ref();
    let cgroup = escaped(&asker.cgroup(), MESSAGE_MAX);
    AskedBy {
        text,
        process: Some(short(&asker.process.comm)),
        pid: Some(asker.process.pid.into()),
        uid: Some(asker.uid.into()),
        parents: asker.parents.iter().map(|p| short(&p.comm)).collect(),
        cgroup: Some(cgroup).filter(|path| !path.is_empty()),
        pod: pod.map(|pod| escaped(&format!("{}/{}", pod.namespace, pod.name), 512)),
        pod_uid: asker.pod_uid(),
    }
}

fn set(status: &mut NodeDeathStatus, type_: &str, value: &str, reason: &str, message: String) {
    let old = status.conditions.iter_mut().find(|c| c.type_ == type_);
    let now = || jiff::Timestamp::now().to_string();
    match old {
        Some(old) => {
            if old.status != value {
                old.last_transition_time = now();
            }
            value.clone_into(&mut old.status);
            reason.clone_into(&mut old.reason);
            old.message = message;
        }
        None => status.conditions.push(Condition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: now(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{BootId, NodeName, Notice, ReasonCode, Report, Timestamp};

    use super::*;

    fn death(notice: Notice, fingerprint: Option<&str>) -> Death {
        let at = Timestamp(1_700_000_000_000);
        let node = NodeName::new("w01").expect("a DNS label");
        let mut death = Death::opened(at, &node, BootId([1; 16]), Proof::P2, Some(notice), at);
        death.report = Some(Report {
            code: ReasonCode::KernelBug,
            title: "BUG".into(),
            line: "kernel BUG at net/core/skbuff.c:4230!".into(),
            fault_function: None,
            module: None,
            kernel_release: None,
            comm: None,
            corrupted: None,
            fingerprint: fingerprint.map(str::to_owned),
            known_bugs: Vec::new(),
        });
        death
    }

    #[test]
    fn the_fingerprint_is_that_by_which_the_fleet_groups_and_goes_with_its_report() {
        let crash = death(Notice::Panic, Some("cbf7e923b4b2dcec"));
        let mut status = NodeDeathStatus::default();
        describe(&mut status, &crash);
        assert_eq!(status.fingerprint.as_deref(), Some("cbf7e923b4b2dcec"));
        let mut wordless = crash;
        wordless.report = None;
        describe(&mut status, &wordless);
        assert_eq!(
            status.fingerprint, None,
            "what it was by is not known any more"
        );

        let mut ordered = death(Notice::Restart, Some("cbf7e923b4b2dcec"));
        ordered.report = None;
        describe(&mut status, &ordered);
        assert_eq!(status.fingerprint, None, "an order is no crash");
        // A node may say what it likes.
        describe(
            &mut status,
            &death(Notice::Panic, Some(&"\u{1b}[2J".repeat(99))),
        );
        let hostile = status.fingerprint.expect("a fingerprint");
        let is_plain = !hostile.contains('\u{1b}');
        assert!(is_plain && hostile.len() <= FINGERPRINT_MAX, "{hostile:?}");
    }
}
