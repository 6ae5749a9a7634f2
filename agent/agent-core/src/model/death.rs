//! One death: everything that all channels said about one boot's end.

use serde::{Deserialize, Serialize};

use super::{BootId, DeathName, NodeName, Notice, Opinion, Packet, Report, Timestamp, Word};

/// How sure we are (DESIGN section 4).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Proof {
    /// Unauthenticated text.
    P0,
    /// Authenticated oops; the node may live on.
    P1,
    /// Authenticated panic or restart.
    P2,
    /// P2, and silence by heartbeat and Lease.
    P3,
    /// The node is back with a new boot id, or is provably off.
    P4,
}

/// A way that evidence left the node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Channel {
    /// Our authenticated datagrams.
    Gasp,
    /// Text that nobody has proven.
    Netconsole,
    /// Heartbeats that stopped, or came back.
    Heartbeat,
    /// What the boot before left on the node's disk.
    PreviousBoot,
    /// The node's Lease, which its kubelet renews at the API server.
    Lease,
    /// The Node object, and who deleted it.
    NodeObject,
    /// What the kernel kept in pstore: RAM, EFI variables, ACPI ERST.
    Pstore,
    /// The dmesg that a crash kernel (kdump) saved.
    Vmcore,
}

impl Channel {
    /// All channels, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Gasp,
        Self::Netconsole,
        Self::Heartbeat,
        Self::PreviousBoot,
        Self::Pstore,
        Self::Vmcore,
        Self::Lease,
        Self::NodeObject,
    ];
}

/// One thing that one channel said, and when it reached us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// By which way it came.
    pub channel: Channel,
    /// When it was received.
    pub at: Timestamp,
    /// What it says, for people.
    pub text: String,
}

/// How sure we became, when, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The level that was reached, or fallen back to.
    pub proof: Proof,
    /// When, by the annotator's clock.
    pub at: Timestamp,
    /// By whose evidence.
    pub by: Channel,
    /// Why, for people.
    pub text: String,
}

/// What one channel would have shown of an end, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The channel.
    pub channel: Channel,
    /// What it shows when it works, for people.
    pub would: String,
    /// What it did, for people.
    pub did: String,
}

/// Whether the work of a pod may be run again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum RetryAdvice {
    /// The death had nothing to do with the workload.
    Safe,
    /// The workload brought the node down.
    Unsafe,
    /// Nobody can know.
    Unknown,
}

impl RetryAdvice {
    /// As it is written into an annotation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a death stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum DeathState {
    /// An oops was reported; it is not known yet whether the node survived.
    Suspected,
    /// The kernel lived on: a report, no death.
    Survived,
    /// The boot ended.
    Dead,
    /// The same boot spoke again: it was no death.
    Revoked,
    /// The node is back with another boot.
    Returned,
}

/// What is known of the end of one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// Key: node and boot.
    pub name: DeathName,
    /// The node.
    pub node: NodeName,
    /// The Node object's uid, if known.
    pub node_uid: Option<String>,
    /// The boot that ended.
    pub boot: BootId,
    /// Where it stands.
    pub state: DeathState,
    /// How sure we are.
    pub proof: Proof,
    /// The strongest notice so far; absent where nobody gave any: the boot ended
    /// without a word.
    #[serde(default)]
    pub notice: Option<Notice>,
    /// The first words that speak for `notice`; absent if only lines came.
    #[serde(default)]
    pub word: Option<Word>,
    /// The packet that the kernel was about to stop at, where that was seen beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<Box<Packet>>,
    /// What happened: the decoded log, and until lines came what the first
    /// words alone say.
    pub report: Option<Report>,
    /// When the first evidence was received.
    pub detected_at: Timestamp,
    /// When the node itself says that it happened (its wall clock).
    pub happened_at: Timestamp,
    /// What each channel said, oldest first. Bounded.
    pub evidence: Vec<Evidence>,
    /// Why each level of proof was reached, oldest first. Bounded.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Where no channel spoke of the end: what each would have shown.
    #[serde(default)]
    pub channels: Vec<Account>,
    /// The second opinion on the node's silence.
    #[serde(default)]
    pub lease: Opinion,
    /// Kernel release of the boot, from its hello.
    pub kernel_release: Option<String>,
}

impl Death {
    /// A record of which nothing is known but that it was opened.
    pub fn opened(
        now: Timestamp,
        node: &NodeName,
        boot: BootId,
        proof: Proof,
        notice: Option<Notice>,
        happened_at: Timestamp,
    ) -> Self {
        Self {
            name: DeathName::of(node, boot),
            node: node.clone(),
            node_uid: None,
            boot,
            state: DeathState::Suspected,
            proof,
            notice,
            word: None,
            packet: None,
            report: None,
            detected_at: now,
            happened_at,
            evidence: Vec::new(),
            steps: Vec::new(),
            channels: Vec::new(),
            lease: Opinion::Open,
            kernel_release: None,
        }
    }
}
