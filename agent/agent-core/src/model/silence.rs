//! A node that says nothing, and what its Lease says instead.

use serde::{Deserialize, Serialize};

use super::{Account, BootId, NodeName, Timestamp};

/// What one look at a node's Lease (`kube-node-lease`) showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is there.
    Found {
        /// Its `renewTime`, by the clock of the node.
        renewed: Timestamp,
        /// Its `leaseDurationSeconds`, in milliseconds.
        lasts_ms: u64,
    },
    /// The node has none.
    Missing,
    /// It may not be read, and why.
    Denied(String),
}

/// What the Lease says of a node whose heartbeats stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opinion {
    /// It was not looked at for long enough, or not at all.
    #[default]
    Open,
    /// There is none to be had, and why: silence has to do alone.
    Nobody(String),
    /// Its kubelet went on: it was seen to change.
    Renewed {
        /// The newest `renewTime`, by the clock of the node.
        at: Timestamp,
    },
    /// It did not change while it was looked at.
    NotRenewed {
        /// For how long it was looked at without a change, in milliseconds.
        for_ms: u64,
        /// The last `renewTime`, by the clock of the node.
        at: Timestamp,
    },
}

/// A node that fell silent without a word or a goodbye: no death, as far as is
/// known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// The node.
    pub node: NodeName,
    /// The boot that spoke last.
    pub boot: BootId,
    /// When it was last heard, if that is known.
    pub heard: Option<Timestamp>,
    /// When it had been quiet for too long.
    pub since: Timestamp,
    /// The second opinion.
    pub lease: Opinion,
    /// What each channel would have shown, and what it did.
    pub channels: Vec<Account>,
}
