//! What the store could not take yet.

use agent_core::engine::Action;
use agent_core::model::{Death, NodeName, Silence};

use crate::store::Change;

/// Most lines that wait in memory.
const LINES_MAX: usize = 20_000;
/// Most lines without proof that wait in memory, beside those.
const OVERHEARD_MAX: usize = 4_000;
/// Most records that wait in memory: a batch may be nothing else. The oldest go
/// first: they come again, as no receipt is given.
const RECORDS_MAX: usize = super::BATCH;
/// Most nodes, and Node objects, that wait in memory.
const NODES_MAX: usize = 20_000;

/// Most Node objects that were deleted and wait in memory.
const REMOVALS_MAX: usize = 1_000;

/// What there was no room for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) removals: u64,
    pub(super) objects: u64,
    pub(super) overheard: u64,
}

/// Changes folded into one. Bounded: deaths and actions by what the engine
/// holds, nodes and lines by a number.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    change: Change,
    lines: usize,
    overheard: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.change.is_empty()
    }

    /// Adds a change; gives what there was no room for.
    pub(super) fn add(&mut self, change: Change) -> Lost {
        let mut lost = Lost::default();
        for death in change.deaths {
            put_death(&mut self.change.deaths, death);
        }
        for stop in change.stops {
            let stops = &mut self.change.stops;
            stops.retain(|other| other.node != stop.node);
            stops.push(stop);
        }
        for (node, silence) in change.silences {
            put_silence(&mut self.change.silences, node, silence);
        }
        let removals = &mut self.change.removals;
        removals.extend(change.removals);
        let over = removals.len().saturating_sub(REMOVALS_MAX);
        removals.drain(..over);
        lost.removals = over as u64;
        let objects = &mut self.change.objects;
        objects.extend(change.objects);
        let over = objects.len().saturating_sub(NODES_MAX);
        objects.drain(..over);
        lost.objects = over as u64;
        self.change.watched = self.change.watched.max(change.watched);
        for action in change.actions {
            put_action(&mut self.change.actions, action);
        }
        for node in change.nodes {
            if self.change.nodes.len() >= NODES_MAX {
                self.change.nodes.remove(0);
            }
            self.change.nodes.push(node);
        }
        let records = &mut self.change.records;
        records.extend(change.records);
        records.drain(..records.len().saturating_sub(RECORDS_MAX));
        for new in change.lines {
            if self.lines + new.lines.len() > LINES_MAX {
                lost.lines += new.lines.len() as u64;
            } else {
                self.lines += new.lines.len();
                self.change.lines.push(new);
            }
        }
        for new in change.overheard {
            if self.overheard + new.lines.len() > OVERHEARD_MAX {
                lost.overheard += new.lines.len() as u64;
            } else {
                self.overheard += new.lines.len();
                self.change.overheard.push(new);
            }
        }
        lost
    }

    pub(super) fn take(&mut self) -> Change {
        (self.lines, self.overheard) = (0, 0);
        std::mem::take(&mut self.change)
    }
}

/// Keeps the newest of each node.
pub(super) fn put_silence(
    silences: &mut Vec<(NodeName, Option<Silence>)>,
    node: NodeName,
    silence: Option<Silence>,
) {
    silences.retain(|(other, _)| *other != node);
    silences.push((node, silence));
}

/// Keeps the newest record of each death.
pub(super) fn put_death(deaths: &mut Vec<Death>, death: Death) {
    deaths.retain(|other| other.name != death.name);
    deaths.push(death);
}

/// Puts an action at the end, and takes out what it makes pointless.
pub(super) fn put_action(actions: &mut Vec<Action>, action: Action) {
    actions.retain(|other| !action.supersedes(other));
    actions.push(action);
}

#[cfg(test)]
mod tests {
    use agent_core::model::{Machine, NodeObject, Removal, Timestamp};

    use super::*;

    #[test]
    fn removals_that_find_no_room_are_counted_and_the_newest_stay() {
        let node = NodeName::new("w01").expect("a DNS label");
        let removal = |n: usize| Removal {
            name: format!("w01-removed-{n}"),
            node: node.clone(),
            at: Timestamp(0),
            seen: None,
            machine: Machine::Unheard,
            who: String::new(),
            why: None,
            object: NodeObject::default(),
            events: Vec::new(),
        };
        let mut backlog = Backlog::default();
        let mut lost = 0;
        for n in 0..REMOVALS_MAX + 3 {
            let change = Change {
                removals: vec![(removal(n), Vec::new())],
                ..Change::default()
            };
            lost += backlog.add(change).removals;
        }
        assert_eq!(lost, 3);
        let kept = backlog.take().removals;
        assert_eq!((kept.len(), &kept[0].0), (REMOVALS_MAX, &removal(3)));
    }
}
