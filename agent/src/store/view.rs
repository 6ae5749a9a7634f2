//! What the store answers: deaths as people and scripts read them.

use agent_core::engine;
use agent_core::model::{
    Death, LogLine, Mitigation, MitigationState, PodRef, ReasonCode, Removal, RetryAdvice, Silence,
    Stop, Timestamp,
};
use agent_core::recurrence::Recurrence;
use serde::{Deserialize, Serialize};

/// A death, and what follows from it in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// One line for people.
    pub reason: String,
    /// The machine's word for it.
    pub reason_code: ReasonCode,
    /// Whether the work may be run again.
    pub retry: RetryAdvice,
    /// Why.
    pub retry_why: String,
    /// How many pods carry the reason.
    pub pods_annotated: u64,
    /// All that is known.
    pub death: Death,
}

impl Summary {
    /// Says in words what a death means.
    pub fn new(death: Death, pods_annotated: u64) -> Self {
        let retry = engine::retry(&death);
        Self {
            reason: engine::reason(&death),
            reason_code: engine::reason_code(&death),
            retry: retry.advice,
            retry_why: retry.why.to_owned(),
            pods_annotated,
            death,
        }
    }
}

/// What was written on one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNote {
    /// The pod, whether or not its object is still there.
    pub pod: PodRef,
    /// Kind and name of the workload it belonged to, if known.
    pub owner: Option<(String, String)>,
    /// How writing on it went: `annotated`, `skipped: …`, `failed: …`, or
    /// `recorded` where there is no API server to write to.
    pub outcome: String,
    /// When.
    pub at: Timestamp,
}

/// A node that is silent, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// One line for people.
    pub verdict: String,
    /// All that is known.
    #[serde(flatten)]
    pub silence: Silence,
}

impl From<Silence> for Silent {
    fn from(silence: Silence) -> Self {
        Self {
            verdict: engine::silent(&silence),
            silence,
        }
    }
}

/// A Node object that was deleted, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// One line for people.
    pub verdict: String,
    /// All that is known.
    pub removal: Removal,
}

impl From<Removal> for Removed {
    fn from(removal: Removal) -> Self {
        Self {
            verdict: engine::removed(&removal),
            removal,
        }
    }
}

/// An orderly stop, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// One line for people.
    pub verdict: String,
    /// All that is known.
    pub stop: Stop,
}

impl From<Stop> for Stopped {
    fn from(stop: Stop) -> Self {
        Self {
            verdict: engine::stopped(&stop),
            stop,
        }
    }
}

/// What is done against a bug of a node's kernel, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mitigated {
    /// The node.
    pub node: String,
    /// One line for people.
    pub text: String,
    /// What a person types to do it; to undo it, where it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// All that is known.
    pub mitigation: Mitigation,
}

impl Mitigated {
    /// `None` if there is no reason to do anything.
    pub(super) fn new(node: &str, mitigation: Mitigation) -> Option<Self> {
        let text = engine::mitigation_text(&mitigation)?;
        let commands = match mitigation.state {
            MitigationState::Applied => mitigation.undo_commands(),
            _ => mitigation.commands(),
        };
        Some(Self {
            node: node.to_owned(),
            text,
            commands,
            mitigation,
        })
    }
}

/// The answer to *why*: a death with its pods and its last lines, or what is
/// known of a node that says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The pod that was asked about, if it was a pod.
    pub pod: Option<PodNote>,
    /// The node is silent now, with no death known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
    /// The node's object was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
    /// The node was stopped in an orderly way, and somebody is known who told it to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stopped>,
    /// What the node's agent does against bugs of its kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mitigations: Vec<Mitigated>,
    /// The death, if there is one.
    #[serde(flatten)]
    pub summary: Option<Summary>,
    /// How often that death came before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrence: Option<Recurrence>,
    /// All pods that it was written on.
    pub pods: Vec<PodNote>,
    /// The last lines of the kernel's log, oldest first.
    pub lines: Vec<LogLine>,
}
