//! Which boots of which nodes were heard of.

use std::collections::HashMap;

use super::account;
use super::lease::LeaseWatch;
use crate::model::{BootId, Inventory, NodeName, Timestamp};

/// Boots remembered per node: enough to know a late datagram of an earlier
/// boot from the first one of a new boot.
const BOOTS_MAX: usize = 8;
/// A record that names no boot is of the one that was last heard this long
/// before or after it at most, in milliseconds: heartbeats come every second, and
/// the clocks of node and annotator differ.
const NEAR_MS: u64 = 60_000;

/// What a boot has shown of its life, in nanoseconds of its own clock. Each
/// only grows.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_field_names, reason = "they end in their unit")]
pub(super) struct Life {
    /// Newest hello, heartbeat or survival.
    pub(super) alive_ns: u64,
    /// Newest goodbye.
    pub(super) goodbye_ns: u64,
    /// Newest message that says outright that the kernel lived on (survival
    /// or goodbye).
    pub(super) survived_ns: u64,
}

impl Life {
    /// The newest thing it said, death's words aside.
    pub(super) fn newest_ns(&self) -> u64 {
        self.alive_ns.max(self.goodbye_ns)
    }

    /// Whether the last thing it said was a goodbye.
    pub(super) fn stopped(&self) -> bool {
        self.goodbye_ns > 0 && self.goodbye_ns >= self.alive_ns
    }

    /// The newest of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            alive_ns: self.alive_ns.max(other.alive_ns),
            goodbye_ns: self.goodbye_ns.max(other.goodbye_ns),
            survived_ns: self.survived_ns.max(other.survived_ns),
        }
    }
}

/// One boot of a node.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    pub(super) id: BootId,
    pub(super) life: Life,
    pub(super) kernel_release: Option<String>,
    /// When it was last heard, if it was since the annotator runs.
    pub(super) heard: Option<Timestamp>,
    /// When an earlier process had last noted it.
    pub(super) noted: Option<Timestamp>,
    /// What its probes would have heard, in words, by its hello.
    pub(super) reach: Option<String>,
    /// How its netconsole stands, by its hello.
    pub(super) netconsole: Option<String>,
    /// When its Node object was deleted, and by whom, in words.
    pub(super) removed: Option<(Timestamp, String)>,
    /// Its Lease, since it is in doubt.
    pub(super) lease: LeaseWatch,
    /// The end of the boot before it was looked at.
    pub(super) introduced: bool,
}

impl Boot {
    /// When it was last heard, by this process or an earlier one.
    pub(super) fn last_heard(&self) -> Option<Timestamp> {
        self.heard.or(self.noted)
    }

    /// Whether its Node object was deleted, and it was not heard since: nobody
    /// waits for it.
    fn is_gone(&self) -> bool {
        let removed = self.removed.as_ref().map(|(at, _)| *at);
        removed.is_some_and(|at| self.last_heard().is_none_or(|heard| heard <= at))
    }

    /// Takes in what the boot is made of.
    pub(super) fn introduce(&mut self, inventory: &Inventory) {
        if !inventory.kernel_release.is_empty() {
            self.kernel_release = Some(inventory.kernel_release.clone());
        }
        if let Some(reach) = account::reach(&inventory.probes) {
            self.reach = Some(reach);
        }
        if let Some(status) = account::netconsole(&inventory.probes) {
            self.netconsole = Some(status);
        }
    }

    fn new(id: BootId) -> Self {
        Self {
            id,
            life: Life::default(),
            kernel_release: None,
            heard: None,
            noted: None,
            reach: None,
            netconsole: None,
            removed: None,
            lease: LeaseWatch::default(),
            introduced: false,
        }
    }
}

/// Whether a boot introduces itself for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Introduction {
    /// It does; the boot that was heard before it, if any was.
    New(Option<BootId>),
    /// It has before, or another one runs.
    Known,
}

#[derive(Debug)]
struct Node {
    /// In the order of their first words; the last one runs now.
    boots: Vec<Boot>,
    /// When it last spoke, by the engine's clock.
    heard_ms: u64,
    /// Since when it counts as silent.
    silent: Option<Timestamp>,
}

/// What is new of a boot that spoke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    /// It was not known, and is the one that runs now.
    pub(super) is_new: bool,
    /// Its node had been silent.
    pub(super) broke_silence: bool,
}

/// All nodes. Bounded: the one that has been quiet longest goes first.
#[derive(Debug)]
pub(super) struct Fleet {
    nodes: HashMap<NodeName, Node>,
    max: usize,
    evicted: u64,
}

impl Fleet {
    pub(super) fn new(max: usize) -> Self {
        Self {
            nodes: HashMap::new(),
            max: max.max(1),
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn silent(&self) -> usize {
        self.nodes.values().filter(|n| n.silent.is_some()).count()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Notes that a boot spoke.
    pub(super) fn meet(
        &mut self,
        now: Timestamp,
        node: &NodeName,
        boot: BootId,
        clock_ms: u64,
    ) -> Met {
        let known = self.knows(node, boot);
        let spoke = self.recall(node, boot, clock_ms);
        spoke.heard = Some(now);
        spoke.lease = LeaseWatch::default();
        let mut broke_silence = false;
        if let Some(entry) = self.nodes.get_mut(node)
            && entry.boots.last().is_some_and(|last| last.id == boot)
        {
            entry.heard_ms = clock_ms;
            broke_silence = entry.silent.take().is_some();
        }
        Met {
            is_new: !known,
            broke_silence,
        }
    }

    /// The entry of a boot, made if there is none.
    pub(super) fn recall(&mut self, name: &NodeName, boot: BootId, clock_ms: u64) -> &mut Boot {
        if !self.nodes.contains_key(name) {
            self.make_room();
        }
        let node = self.nodes.entry(name.clone()).or_insert_with(|| Node {
            // Most nodes have one, and there are ten thousand of them.
            boots: Vec::with_capacity(1),
            heard_ms: clock_ms,
            silent: None,
        });
        let at = node.boots.iter().position(|b| b.id == boot);
        let at = at.unwrap_or_else(|| {
            if node.boots.len() >= BOOTS_MAX {
                node.boots.remove(0);
            }
            node.boots.push(Boot::new(boot));
            node.boots.len() - 1
        });
        &mut node.boots[at]
    }

    /// Notes that a boot has introduced itself. At the first time, if it is the
    /// one that runs now, gives the boot before it, if that was heard.
    pub(super) fn introduce(&mut self, node: &NodeName, boot: BootId) -> Introduction {
        let Some(node) = self.nodes.get_mut(node) else {
            return Introduction::Known;
        };
        match node.boots.as_mut_slice() {
            [before @ .., last] if last.id == boot && !last.introduced => {
                last.introduced = true;
                let before = before.last().filter(|b| b.heard.is_some());
                Introduction::New(before.map(|b| b.id))
            }
            _ => Introduction::Known,
        }
    }

    /// Takes in a boot that was never heard, as the one before `next`.
    pub(super) fn insert_before(&mut self, node: &NodeName, before: BootId, next: BootId) {
        let Some(node) = self.nodes.get_mut(node) else {
            return;
        };
        if node.boots.iter().all(|b| b.id != before) {
            if node.boots.len() >= BOOTS_MAX {
                node.boots.remove(0);
            }
            let place = node.boots.iter().position(|b| b.id == next);
            let place = place.unwrap_or(node.boots.len().saturating_sub(1));
            node.boots.insert(place, Boot::new(before));
        }
    }

    /// What an earlier process knew of: its predecessor was looked at then.
    pub(super) fn restore(&mut self, node: &NodeName, boot: BootId, clock_ms: u64) -> &mut Boot {
        let boot = self.recall(node, boot, clock_ms);
        boot.introduced = true;
        boot
    }

    /// The boot that was heard before `next`, if it ended about `at`.
    pub(super) fn ended_near(
        &self,
        node: &NodeName,
        next: BootId,
        at: Option<Timestamp>,
    ) -> Option<BootId> {
        let boots = &self.nodes.get(node)?.boots;
        let place = boots.iter().position(|b| b.id == next)?;
        let before = boots[..place].last()?;
        let apart = before.last_heard()?.0.abs_diff(at?.0);
        (apart <= NEAR_MS).then_some(before.id)
    }

    /// Makes this boot, which is known, the one that runs.
    pub(super) fn put_last(&mut self, node: &NodeName, boot: BootId) {
        if let Some(node) = self.nodes.get_mut(node)
            && let Some(at) = node.boots.iter().position(|b| b.id == boot)
        {
            node.boots[at..].rotate_left(1);
        }
    }

    /// What is known of this boot of a node.
    pub(super) fn find(&self, node: &NodeName, boot: BootId) -> Option<&Boot> {
        self.nodes.get(node)?.boots.iter().find(|b| b.id == boot)
    }

    /// The boots of a node that are known; the last one runs now.
    pub(super) fn boots(&self, node: &NodeName) -> &[Boot] {
        self.nodes.get(node).map_or(&[], |node| &node.boots)
    }

    /// Whether this boot of the node was heard of.
    pub(super) fn knows(&self, node: &NodeName, boot: BootId) -> bool {
        self.find(node, boot).is_some()
    }

    /// The boot that runs on a node now.
    pub(super) fn current(&self, node: &NodeName) -> Option<BootId> {
        Some(self.nodes.get(node)?.boots.last()?.id)
    }

    /// Since when a node is silent, if it is.
    pub(super) fn silent_since(&self, node: &NodeName) -> Option<Timestamp> {
        self.nodes.get(node)?.silent
    }

    /// Notes that the Node object of this boot was deleted. True if that ends its
    /// node's silence.
    pub(super) fn remove(
        &mut self,
        name: &NodeName,
        boot: BootId,
        (at, by): (Timestamp, String),
    ) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if let Some(boot) = node.boots.iter_mut().find(|b| b.id == boot) {
            boot.removed = Some((at, by));
        }
        let gone = node.boots.last().is_some_and(Boot::is_gone);
        gone && node.silent.take().is_some()
    }

    /// A node was silent already in an earlier process.
    pub(super) fn restore_silence(&mut self, node: &NodeName, since: Timestamp) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.silent = Some(since);
        }
    }

    /// Marks the nodes that have been quiet for too long, and names those that
    /// were not marked before.
    pub(super) fn tick(
        &mut self,
        now: Timestamp,
        clock_ms: u64,
        silence_ms: u64,
    ) -> Vec<(NodeName, BootId)> {
        let mut fell_silent = Vec::new();
        for (name, node) in &mut self.nodes {
            let Some(last) = node
                .boots
                .last()
                .filter(|last| !last.life.stopped() && !last.is_gone())
            else {
                continue;
            };
            if node.silent.is_none() && clock_ms - node.heard_ms >= silence_ms {
                node.silent = Some(now);
                fell_silent.push((name.clone(), last.id));
            }
        }
        fell_silent.sort();
        fell_silent
    }

    /// The silent nodes with their newest boot, and when they spoke last by the
    /// engine's clock.
    pub(super) fn silent_nodes(&self) -> impl Iterator<Item = (&NodeName, &Boot, u64)> {
        self.nodes.iter().filter_map(|(name, node)| {
            node.silent?;
            Some((name, node.boots.last()?, node.heard_ms))
        })
    }

    fn make_room(&mut self) {
        while self.nodes.len() >= self.max {
            let quietest = self.nodes.iter().min_by_key(|(_, n)| n.heard_ms);
            let Some(name) = quietest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.nodes.remove(&name);
            self.evicted += 1;
        }
    }
}
