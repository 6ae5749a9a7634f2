//! Who deleted a Node object, and why, as far as that can be seen. The API
//! server does not tell who deleted something; what was done to the object
//! before does.

use std::fmt::Write;

use super::text::{escaped, rfc3339};
use super::{Engine, Output};
use crate::model::{
    Channel, DeathState, Deleted, Machine, Manager, NodeObject, Removal, Timestamp,
};

/// Longest text about one removal, in bytes.
const TEXT_MAX: usize = 512;

/// A mark on an object or beside it.
enum Mark {
    /// A taint with this key.
    Taint(&'static str),
    /// A finalizer that was waited for.
    Finalizer(&'static str),
    /// An event with this reason, by this source if one is named.
    Event(&'static str, &'static str),
}

/// Who deletes Node objects, by the marks that each leaves; the first that
/// fits counts. Keys and reasons are those of the projects' own sources.
const DELETERS: [(&str, &[Mark]); 4] = [
    (
        "Karpenter",
        &[
            Mark::Taint("karpenter.sh/disrupted"),
            // Before its v1.
            Mark::Taint("karpenter.sh/disruption"),
        ],
    ),
    (
        "the cluster autoscaler, which scaled down",
        &[
            Mark::Taint("ToBeDeletedByClusterAutoscaler"),
            Mark::Event("ScaleDown", "cluster-autoscaler"),
        ],
    ),
    (
        "the cloud controller, because the machine does not exist there any more",
        &[Mark::Event("DeletingNode", "")],
    ),
    (
        // On each of its nodes, whoever deletes it.
        "Karpenter, by itself or asked by somebody",
        &[Mark::Finalizer("karpenter.sh/termination")],
    ),
];

/// What is known before a machine goes.
const NOTICES: [(&str, &[Mark]); 7] = [
    (
        "a spot interruption",
        &[
            Mark::Taint("aws-node-termination-handler/spot-itn"),
            Mark::Event("SpotInterrupted", "karpenter"),
            Mark::Event("SpotInterruption", ""),
            Mark::Event("PreemptScheduled", ""),
        ],
    ),
    (
        "a spot rebalance recommendation",
        &[Mark::Taint(
            "aws-node-termination-handler/rebalance-recommendation",
        )],
    ),
    (
        "maintenance by the cloud",
        &[
            Mark::Taint("aws-node-termination-handler/scheduled-maintenance"),
            Mark::Event("TerminateScheduled", ""),
            Mark::Event("RedeployScheduled", ""),
        ],
    ),
    (
        "its autoscaling group, which ended the instance",
        &[Mark::Taint(
            "aws-node-termination-handler/asg-lifecycle-termination",
        )],
    ),
    (
        "a termination or preemption announced by the cloud",
        &[Mark::Taint("cloud.google.com/impending-node-termination")],
    ),
    (
        "a machine that the cloud had shut down",
        &[Mark::Taint("node.cloudprovider.kubernetes.io/shutdown")],
    ),
    (
        "a node that the autoscaler found little used",
        &[Mark::Taint("DeletionCandidateOfClusterAutoscaler")],
    ),
];

/// Managers of fields that keep every node up to date and delete none.
const KEEPERS: [&str; 7] = [
    // The API server's own word for whoever came before it took notes.
    "before-first-apply",
    "kubelet",
    "kube-controller-manager",
    "cloud-controller-manager",
    "kubeadm",
    "node-problem-detector",
    "lastgasp-annotator",
];

/// Who deleted what nobody watched.
const UNSEEN: &str = "somebody unknown, as no annotator ran then";

impl Mark {
    /// The mark in words, if it is there.
    fn found(&self, deleted: &Deleted) -> Option<String> {
        let object = &deleted.object;
        match self {
            Self::Taint(key) => {
                let taint = object.taints.iter().find(|taint| taint.key == *key)?;
                Some(format!("taint {}", taint.key))
            }
            Self::Finalizer(name) => {
                // What went unseen had to wait for it as well.
                let waited = object.deletion.is_some() || deleted.seen.is_some();
                let has = waited && object.finalizers.iter().any(|f| f == name);
                has.then(|| format!("finalizer {name}"))
            }
            Self::Event(reason, by) => {
                let event = deleted
                    .events
                    .iter()
                    .find(|event| event.reason == *reason && event.by.contains(by))?;
                Some(format!(
                    "event {} by {}: {}",
                    event.reason, event.by, event.note
                ))
            }
        }
    }
}

fn first(table: &[(&str, &[Mark])], deleted: &Deleted) -> Option<String> {
    table.iter().find_map(|(what, marks)| {
        let found = marks.iter().find_map(|mark| mark.found(deleted))?;
        Some(escaped(&format!("{what} ({found})"), TEXT_MAX))
    })
}

/// Who deleted it, as far as that can be seen.
pub(super) fn who(deleted: &Deleted) -> String {
    if let Some(who) = first(&DELETERS, deleted) {
        return who;
    }
    let changed = newest_stranger(&deleted.object).map(|(name, at)| {
        let mut text = format!("{name} changed the object last");
        if let Some(at) = at {
            // Writing to a String cannot fail.
            let _ = write!(text, ", at {}", rfc3339(at));
        }
        text
    });
    let text = match (changed, deleted.seen) {
        (Some(changed), None) => format!("a person or a tool: {changed}"),
        (Some(changed), Some(_)) => format!("{UNSEEN}; as far as it was seen, {changed}"),
        (None, Some(_)) => format!("{UNSEEN}; the API server's audit log knows"),
        (None, None) => {
            "nobody who left a mark on the object; the API server's audit log knows".to_owned()
        }
    };
    escaped(&text, TEXT_MAX)
}

/// Whether an object shows more than what was seen of it before. Those that keep
/// every node up to date write to it all the time, and that tells nothing.
pub fn shows_more(before: &NodeObject, now: &NodeObject) -> bool {
    let strangers = |object: &NodeObject| -> Vec<Manager> {
        let all = object.managers.iter();
        all.filter(|manager| is_stranger(manager))
            .cloned()
            .collect()
    };
    let without_managers = |object: &NodeObject| NodeObject {
        managers: Vec::new(),
        ..object.clone()
    };
    without_managers(before) != without_managers(now) || strangers(before) != strangers(now)
}

/// What was known before of why, if anything was.
pub(super) fn why(deleted: &Deleted) -> Option<String> {
    first(&NOTICES, deleted)
}

/// Whether it is no part of the cluster's own upkeep.
fn is_stranger(manager: &Manager) -> bool {
    !KEEPERS.contains(&manager.name.as_str())
}

fn newest_stranger(object: &NodeObject) -> Option<(&str, Option<Timestamp>)> {
    let strangers = object.managers.iter().filter(|one| is_stranger(one));
    let newest = strangers.max_by_key(|manager| manager.at)?;
    Some((&newest.name, newest.at))
}

/// One line for people on a Node object that was deleted.
pub fn removed(removal: &Removal) -> String {
    let machine = match &removal.machine {
        Machine::Unheard => "; no agent of it was ever heard".to_owned(),
        Machine::Lives { .. } => " while its machine lives".to_owned(),
        Machine::Silent { since } => format!(" while silent since {}", rfc3339(*since)),
        Machine::Stopped => " after its agent was told to stop".to_owned(),
        Machine::Unknown => "; its machine was not heard since".to_owned(),
        Machine::Dead(death) => format!(" after its death {death}"),
    };
    let when = removal.seen.map_or_else(String::new, |seen| {
        format!(" between {} and {}", rfc3339(seen), rfc3339(removal.at))
    });
    let why = removal.why.as_ref();
    let why = why.map_or_else(String::new, |why| format!("; before that: {why}"));
    let text = format!(
        "Node object deleted{when}{machine}, by {}{why}",
        removal.who
    );
    escaped(&text, TEXT_MAX)
}

impl Engine {
    /// A Node object is gone.
    pub(super) fn removed(&mut self, now: Timestamp, deleted: Deleted, out: &mut Vec<Output>) {
        let node = deleted.node.clone();
        let boot = deleted
            .object
            .boot
            .filter(|boot| self.fleet.knows(&node, *boot));
        let boot = boot.or_else(|| self.fleet.current(&node));
        let death = boot.and_then(|boot| {
            let case = self.cases.get(&(node.clone(), boot))?;
            let over = matches!(case.death.state, DeathState::Dead | DeathState::Returned);
            over.then(|| case.death.name.clone())
        });
        let machine = match (boot, death) {
            (_, Some(death)) => Machine::Dead(death),
            (None, None) => Machine::Unheard,
            (Some(boot), None) => {
                if self.facts(&(node.clone(), boot)).life.stopped() {
                    Machine::Stopped
                } else if let Some(since) = self.fleet.silent_since(&node) {
                    Machine::Silent { since }
                } else {
                    let boot = self.fleet.find(&node, boot);
                    let heard = boot.and_then(|boot| boot.heard);
                    if heard.is_none() && deleted.seen.is_some() {
                        Machine::Unknown
                    } else {
                        Machine::Lives { heard }
                    }
                }
            }
        };
        let uid: String = deleted.object.uid.chars().take(8).collect();
        let removal = Removal {
            name: format!("{node}-removed-{uid}"),
            at: deleted.at,
            seen: deleted.seen,
            machine,
            who: who(&deleted),
            why: why(&deleted),
            node: node.clone(),
            object: deleted.object,
            events: deleted.events,
        };
        let text = removed(&removal);
        out.push(Output::Removed(Box::new(removal)));
        // Whatever is told of that boot's end later belongs beside it.
        let Some(boot) = boot else { return };
        if self.fleet.remove(&node, boot, (now, text.clone())) {
            out.push(Output::SilenceOver(node.clone()));
        }
        let key = (node, boot);
        if let Some(case) = self.cases.get_mut(&key) {
            case.note(now, Channel::NodeObject, text, &self.limits, &mut self.cut);
            case.touched = true;
            self.settle(now, &key, out);
        }
    }
}
