//! A Node object that was deleted: what was visible of it, and what it comes to.

use serde::{Deserialize, Serialize};

use super::{BootId, DeathName, NodeName, PodRef, Timestamp};

/// A taint, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, empty if there is none.
    pub value: String,
}

/// Who changed an object, by its managed fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// What it calls itself: `kubectl-cordon`.
    pub name: String,
    /// When it changed something last.
    pub at: Option<Timestamp>,
}

/// An event about the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When it happened last.
    pub at: Option<Timestamp>,
    /// One CamelCase word.
    pub reason: String,
    /// Who says so: `cluster-autoscaler`.
    pub by: String,
    /// For people.
    pub note: String,
}

/// A Node object as it was seen last. All texts are the cluster's, of bounded
/// length, and not escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    /// `metadata.uid`.
    pub uid: String,
    /// `status.nodeInfo.bootID`, if its kubelet said so.
    pub boot: Option<BootId>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// When somebody asked for its deletion, if it had to wait for finalizers.
    pub deletion: Option<Timestamp>,
    /// Who changed it.
    pub managers: Vec<Manager>,
}

/// A Node object, and until when it is known to have been there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenObject {
    /// The node.
    pub node: NodeName,
    /// Its object, as it was seen last.
    pub object: NodeObject,
    /// When that was.
    pub seen: Timestamp,
}

/// That a Node object is gone, and what could be seen of why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The node.
    pub node: NodeName,
    /// When that was noticed.
    pub at: Timestamp,
    /// When it was seen last, if no annotator ran since: it went in between.
    pub seen: Option<Timestamp>,
    /// Its object, as it was last.
    pub object: NodeObject,
    /// Events about it, newest first. Bounded.
    pub events: Vec<NodeEvent>,
}

/// How the machine was when its Node object went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// No agent of it was ever heard.
    Unheard,
    /// It spoke.
    Lives {
        /// When last.
        heard: Option<Timestamp>,
    },
    /// It had fallen silent.
    Silent {
        /// Since when.
        since: Timestamp,
    },
    /// Its agent had said goodbye.
    Stopped,
    /// It was heard before no annotator ran, and not since.
    Unknown,
    /// It had died.
    Dead(DeathName),
}

/// The record of a Node object that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Key: node and uid of the object.
    pub name: String,
    /// The node.
    pub node: NodeName,
    /// When it was noticed.
    pub at: Timestamp,
    /// When the object was seen last, if no annotator ran since: it was deleted in
    /// between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// How the machine was.
    pub machine: Machine,
    /// Who deleted it, as far as that can be seen, for people.
    pub who: String,
    /// What was known before of why, for people.
    pub why: Option<String>,
    /// The object as it was last.
    pub object: NodeObject,
    /// Events about it, newest first.
    pub events: Vec<NodeEvent>,
}

/// A pod and the workload that it belonged to, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPod {
    /// The pod.
    pub pod: PodRef,
    /// Its controller.
    pub owner: Option<(String, String)>,
}
