//! What goes into the engine and what comes out of it.

use crate::model::{
    BootId, Death, DeathName, Deleted, Gasp, Inventory, Lease, NodeName, Record, Removal, Report,
    Silence, Stop, Timestamp,
};

/// What the engine may hold and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time without a sign of life after which a node counts as silent, in
    /// milliseconds. Agents send a heartbeat a second.
    pub silence_ms: u64,
    /// How much later than a panic a sign of life must have been sent to
    /// revoke it, in milliseconds of the node's own clock. Other CPUs run on
    /// while the dying one prints, and datagrams change places.
    pub revoke_ms: u64,
    /// Most nodes remembered.
    pub nodes: usize,
    /// Most deaths held in memory.
    pub deaths: usize,
    /// Most entries in one death's timeline.
    pub evidence: usize,
    /// Whether there is somebody who looks at Leases ([`Output::Look`]).
    /// Without, silence has to do alone.
    pub leases: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence_ms: 10_000,
            revoke_ms: 10_000,
            nodes: 20_000,
            deaths: 10_000,
            evidence: 64,
            leases: false,
        }
    }
}

/// One fact for the engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// A verified, replay-checked message.
    Said(Gasp),
    /// The decoder read a report in the lines of this boot.
    Decoded {
        /// The node.
        node: NodeName,
        /// The boot.
        boot: BootId,
        /// What the lines say.
        report: Report,
    },
    /// What a look at the node's Lease showed ([`Output::Look`]). A look that
    /// failed shows nothing, and is no fact.
    Leased {
        /// The node.
        node: NodeName,
        /// Its Lease.
        lease: Lease,
    },
    /// A boot has found what an earlier one left of its end.
    Recorded {
        /// The node.
        node: NodeName,
        /// The boot that found it.
        by: BootId,
        /// What it found.
        record: Box<Record>,
        /// When its last line was printed, in nanoseconds since that boot, if
        /// it says so.
        printed_ns: Option<u64>,
        /// What its text means, if it means anything.
        report: Option<Report>,
    },
    /// Somebody who has the node's address says so, without proof. It is
    /// recorded, and nothing else follows from it, now or later.
    Overheard {
        /// The node.
        node: NodeName,
        /// The boot that it names, if it does; another than one that was heard
        /// of is not believed.
        boot: Option<BootId>,
        /// What the text says.
        report: Report,
    },
    /// A Node object is gone.
    NodeDeleted(Box<Deleted>),
    /// Time passes; to be given about once a second.
    Tick,
}

/// What to do about one death.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Record an oops that the node may survive: Node condition and event.
    /// Never anything on a pod.
    ReportOops(DeathName),
    /// The first write of a death: Node condition and taint.
    MarkNode(DeathName),
    /// Write the reason on every pod that was on the node, with `NodeDeath` and
    /// events.
    AnnotatePods(DeathName),
    /// More is known of a death that was told: bring its `NodeDeath` up to date.
    UpdateRecord(DeathName),
    /// Take back what was written: the same boot spoke again.
    Revoke(DeathName),
    /// Another boot runs on the node: lift the mark.
    NodeReturned(DeathName),
}

impl Action {
    /// The death it belongs to.
    pub fn death(&self) -> &DeathName {
        match self {
            Self::ReportOops(d)
            | Self::MarkNode(d)
            | Self::AnnotatePods(d)
            | Self::UpdateRecord(d)
            | Self::Revoke(d)
            | Self::NodeReturned(d) => d,
        }
    }

    /// Whether this one makes `other`, which still waits, pointless: the same
    /// again, an oops of a node that is dead by now, anything that is revoked.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.death() == other.death()
            && match self {
                Self::Revoke(_) => true,
                Self::MarkNode(_) => matches!(other, Self::MarkNode(_) | Self::ReportOops(_)),
                Self::ReportOops(_)
                | Self::AnnotatePods(_)
                | Self::UpdateRecord(_)
                | Self::NodeReturned(_) => self == other,
            }
    }

    /// The action's word, as it is stored and counted.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ReportOops(_) => "ReportOops",
            Self::MarkNode(_) => "MarkNode",
            Self::AnnotatePods(_) => "AnnotatePods",
            Self::UpdateRecord(_) => "UpdateRecord",
            Self::Revoke(_) => "Revoke",
            Self::NodeReturned(_) => "NodeReturned",
        }
    }

    /// The action with this word.
    pub fn from_word(word: &str, death: DeathName) -> Option<Self> {
        Some(match word {
            "ReportOops" => Self::ReportOops(death),
            "MarkNode" => Self::MarkNode(death),
            "AnnotatePods" => Self::AnnotatePods(death),
            "UpdateRecord" => Self::UpdateRecord(death),
            "Revoke" => Self::Revoke(death),
            "NodeReturned" => Self::NodeReturned(death),
            _ => return None,
        })
    }
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Persist the death as it stands now; actions on it follow.
    Record(Box<Death>),
    /// Carry out an action, and try until it is done.
    Act(Action),
    /// A boot of a node was seen for the first time, introduced itself, or said
    /// goodbye.
    NodeSeen {
        /// The node.
        node: NodeName,
        /// The Node object's uid, if the agent knew it.
        uid: Option<String>,
        /// The boot that runs there now.
        boot: BootId,
        /// What it is made of, if it said so.
        inventory: Option<Box<Inventory>>,
        /// Whether a goodbye is the last that it said.
        stopped: bool,
        /// How long the boot is up by its own clock (`CLOCK_MONOTONIC`), in
        /// milliseconds; zero where it has not said yet.
        up_ms: u64,
    },
    /// Record who had a boot stopped in an orderly way.
    Stopped(Box<Stop>),
    /// Record that a Node object was deleted, by whom and why.
    Removed(Box<Removal>),
    /// Look at the Lease of this node, and say what it shows.
    Look(NodeName),
    /// A node is silent, or more is known of its silence; no death follows.
    Silent(Box<Silence>),
    /// A node that was silent speaks, this boot of it or another one; or its Node
    /// object is gone, and nobody waits for it.
    SilenceOver(NodeName),
}

/// What the engine holds and what it had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nodes known.
    pub nodes: usize,
    /// Nodes whose heartbeats stopped without a goodbye.
    pub silent: usize,
    /// Deaths in memory.
    pub deaths: usize,
    /// Nodes forgotten because there were too many.
    pub evicted_nodes: u64,
    /// Deaths dropped from memory because there were too many.
    pub evicted_deaths: u64,
    /// Records of boots that are not known: no death follows from them.
    pub records_unplaced: u64,
    /// Entries cut from timelines that were full.
    pub evidence_cut: u64,
    /// Words not kept because one death had too many.
    pub words_cut: u64,
    /// Unproven reports that are not kept: of a node that is not known, or
    /// there were too many.
    pub unproven_dropped: u64,
}

/// A node as the store remembers it, for [`Engine::restore`].
#[derive(Clone, Debug)]
pub struct KnownNode {
    /// The node.
    pub node: NodeName,
    /// The boot that ran there last.
    pub boot: BootId,
    /// When the store last noted it.
    pub noted: Option<Timestamp>,
    /// What that boot is made of, if it said so.
    pub inventory: Option<Box<Inventory>>,
    /// Whether a goodbye was the last that it said.
    pub stopped: bool,
    /// Its silence, if it had been silent.
    pub silence: Option<Silence>,
}
