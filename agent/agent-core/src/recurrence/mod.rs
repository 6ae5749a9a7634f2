//! Who dies of what, how often, on which platforms, and who never does.
//!
//! Deaths are grouped by fingerprint. How many there are on a platform says little
//! without how long nodes lived on it, so they are held against node-days: the time that
//! boots were seen alive. A platform without a death is only told apart where deaths were
//! to be expected there ([`Comparison`]).

mod census;
mod compare;
mod words;

use serde::{Deserialize, Serialize};

use crate::engine;
use crate::model::{Death, DeathState, NodeName, Proof, ReasonCode, Timestamp};

pub use census::{Census, PlatformId};
pub use compare::{Comparison, Telling, compare};
pub use words::node_days_text;

/// Milliseconds in a day.
const DAY_MS: f64 = 86_400_000.0;

/// Most groups in one answer; those with the most deaths stay.
const GROUPS_MAX: usize = 100;
/// Most kernels, and most rows, of a group; those with deaths and the longest lives stay.
const ROWS_MAX: usize = 64;
/// Most traits of a group that tell its deaths apart, and most names of one.
const APART_MAX: usize = 16;
/// Most nodes that are named.
const NAMES_MAX: usize = 1_000;

/// What is asked of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Only groups whose fingerprint begins so, or in which one has this reason code.
    pub fingerprint: Option<String>,
    /// Only deaths of which this node died as well.
    pub node: Option<NodeName>,
}

/// Whether a kernel has a known bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "has")]
pub enum HasBug {
    /// It has. In words that no reader of YAML takes for a truth value.
    #[serde(rename = "present")]
    Yes {
        /// The first version with the fix, of its series if that has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fixed_in: Option<String>,
    },
    /// It came later, or is fixed there.
    #[serde(rename = "absent")]
    No,
    /// Nobody can know, as by a distribution that takes single fixes.
    Unknown,
}

/// Answers whether a kernel has a bug: the bug's id, the kernel's release (`uname -r`) and
/// its version (`uname -v`), if known.
pub type AskBug<'a> = &'a dyn Fn(&str, &str, Option<&str>) -> HasBug;

/// A fleet and its deaths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// What lies before is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// All deaths, of whatever.
    pub deaths: u64,
    /// Nodes that were seen alive.
    pub nodes: u64,
    /// For how long, together, in days.
    pub node_days: f64,
    /// The nodes among them that never died.
    pub never_died: NeverDied,
    /// The node that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<OneNode>,
    /// Deaths by what they were of, the most first. Bounded.
    pub groups: Vec<Group>,
    /// Groups there was no room for.
    pub groups_left_out: u64,
}

/// Nodes that never died.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverDied {
    /// How many.
    pub nodes: u64,
    /// Who. Bounded.
    pub names: Vec<NodeName>,
}

/// What was seen of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneNode {
    /// The node.
    pub node: NodeName,
    /// Boots that were seen.
    pub boots: u64,
    /// For how long they were seen alive, in days.
    pub node_days: f64,
    /// How many deaths it died, of whatever.
    pub deaths: u64,
}

/// Deaths of one fingerprint, or of one reason code where there is no fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The fingerprint; absent where the deaths have none, or were ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The machine's word for the newest.
    pub code: ReasonCode,
    /// What the newest was of, for people.
    pub reason: String,
    /// How many.
    pub deaths: u64,
    /// When the first was noticed.
    pub first: Timestamp,
    /// When the last was.
    pub last: Timestamp,
    /// How many nodes died of it.
    pub nodes_died: u64,
    /// Which, who died most first. Bounded.
    pub nodes: Vec<NodeDeaths>,
    /// The known bugs that most of the deaths look like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_bugs: Vec<String>,
    /// On which kernels they happen, on which they do not, and what that means, for people.
    pub sentence: String,
    /// How often it is this node's, for people; if a node was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_node: Option<String>,
    /// By kernel. Bounded.
    pub kernels: Vec<Kernel>,
    /// By kernel, firmware and network drivers. Bounded.
    pub rows: Vec<Row>,
    /// Rows there was no room for.
    pub rows_left_out: u64,
    /// What all that died had, and those without it did not die of. Bounded.
    pub apart: Vec<Apart>,
}

/// How often a node died of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDeaths {
    /// The node.
    pub node: NodeName,
    /// How often.
    pub deaths: u64,
}

/// Deaths of one group on a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// How many.
    pub deaths: u64,
    /// Of how many nodes.
    pub nodes_died: u64,
    /// Nodes that were seen alive on it.
    pub nodes: u64,
    /// For how long, together, in days.
    pub node_days: f64,
    /// Where none died on it: whether that means anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<Comparison>,
    /// Whether it has the bugs that the deaths look like, by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bugs: Vec<BugThere>,
}

/// Whether a kernel has a bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BugThere {
    /// The bug.
    pub id: String,
    /// Whether it is there.
    #[serde(flatten)]
    pub has: HasBug,
}

/// Deaths of one group on a kernel, firmware and network drivers. An empty field is not
/// known, or there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `uname -r`.
    pub kernel: String,
    /// Firmware.
    pub firmware: String,
    /// Drivers of the network devices.
    pub network_drivers: Vec<String>,
    /// How many.
    pub deaths: u64,
    /// Of how many nodes.
    pub nodes_died: u64,
    /// Nodes that were seen alive on it.
    pub nodes: u64,
    /// For how long, together, in days.
    pub node_days: f64,
    /// Where none died on it: deaths that were to be expected, at the rate of the kernels
    /// on which nodes die.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
}

/// What is told apart of a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Kernel release.
    Kernel,
    /// Firmware vendor, version and date.
    Firmware,
    /// Driver of a network device.
    NetworkDriver,
    /// System vendor and product.
    Hardware,
    /// Microcode revision.
    Microcode,
    /// Operating system.
    Os,
    /// `uname -m`.
    Machine,
    /// Loaded module.
    Module,
}

/// One property of a platform.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Trait {
    /// Which property.
    pub of: Dimension,
    /// What it is.
    pub value: String,
}

/// What all that died had in common, and those that did not die had not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apart {
    /// What: more than one where the same boots have all of them, so that nobody can know
    /// which of them matters. Bounded.
    pub traits: Vec<Trait>,
    /// Others that the same boots have.
    pub traits_left_out: u64,
    /// How long nodes with it were seen alive, in days.
    pub node_days: f64,
    /// How long nodes without it were.
    pub node_days_without: f64,
    /// What that means.
    pub without: Comparison,
}

/// How often a death came before, on its node and elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// In words, for people.
    pub text: String,
    /// How many deaths of this kind the node had died with it.
    pub on_node: u64,
    /// When the first of those was noticed.
    pub since: Timestamp,
    /// How many of its kind are known, those that came later with them.
    pub in_fleet: u64,
    /// Of how many nodes those are.
    pub nodes: u64,
}

/// Whether a record is of a death: the boot ended, and somebody has proven it.
pub fn is_death(death: &Death) -> bool {
    death.proof > Proof::P0 && matches!(death.state, DeathState::Dead | DeathState::Returned)
}

/// What a death is grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A crash that the log tells.
    Crash(String),
    /// An end of which only the reason code is known.
    Code(ReasonCode),
    /// An end that somebody ordered. Such have nothing in common but the order.
    Ordered(ReasonCode),
}

impl Kind {
    /// What this death is grouped by.
    pub fn of(death: &Death) -> Self {
        let code = engine::reason_code(death);
        if engine::is_ordered(code) {
            return Self::Ordered(code);
        }
        let report = death.report.as_ref();
        match report.and_then(|report| report.fingerprint.clone()) {
            Some(fingerprint) => Self::Crash(fingerprint),
            None => Self::Code(code),
        }
    }
}

/// How often this death came before, by all deaths of its kind: their nodes, and when they
/// were noticed. `None` of what was ordered.
pub fn recurrence<'a>(
    death: &Death,
    alike: impl IntoIterator<Item = (&'a str, Timestamp)>,
) -> Option<Recurrence> {
    let kind = Kind::of(death);
    if !is_death(death) || matches!(kind, Kind::Ordered(_)) {
        return None;
    }
    let mut nodes = std::collections::BTreeSet::from([death.node.as_str().to_owned()]);
    let (mut on_node, mut since, mut in_fleet) = (0, death.detected_at, 0);
    for (node, at) in alike {
        in_fleet += 1;
        if node == death.node.as_str() {
            if at <= death.detected_at {
                on_node += 1;
                since = since.min(at);
            }
        } else {
            nodes.insert(node.to_owned());
        }
    }
    let mut found = Recurrence {
        text: String::new(),
        // The death itself may not be among them yet.
        on_node: on_node.max(1),
        since,
        in_fleet: in_fleet.max(1),
        nodes: nodes.len() as u64,
    };
    found.text = words::recurrence(&found, &kind, death.detected_at.since(since));
    Some(found)
}

/// Milliseconds as days, to a minute or two: more is not measured.
fn days(ms: u64) -> f64 {
    rounded(ms as f64 / DAY_MS)
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
