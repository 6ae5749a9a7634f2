//! The second opinion: what a silent node's Lease says.
//!
//! A kubelet renews its node's Lease four times in the time that the Lease
//! lasts. The time in it is the node's own, so only its change counts, by the
//! engine's clock; Kubernetes' node controller does the same
//! (`pkg/controller/nodelifecycle`, `tryUpdateNodeHealth`). Nobody looks at
//! the Lease of a node that speaks.

use std::collections::BTreeSet;

use super::account::{self, Witness};
use super::{Engine, Key, Output, overheard, rfc3339};
use crate::model::{BootId, Channel, DeathState, Lease, NodeName, Opinion, Silence, Timestamp};

/// How often a Lease in doubt is looked at, in milliseconds.
const LOOK_EVERY_MS: u64 = 4_000;
/// How often after it was in doubt for [`LONG_MS`], and where it cannot be read.
const LOOK_LATER_MS: u64 = 60_000;
/// A node that is silent for so long is not awaited back at any moment.
const LONG_MS: u64 = 600_000;
/// Most Leases looked at in one second: where more are in doubt, it is the
/// annotator that is cut off.
const LOOKS_MAX: usize = 64;
/// Longest time between two looks that still prove that nothing changed, in
/// milliseconds: where the API server was away, no kubelet could renew anything.
const GAP_MS: u64 = 15_000;

/// What is said where nobody can be asked.
const NO_CLUSTER: &str = "there is no API server to ask for its Lease";

/// A Lease, as it was seen since its node is in doubt. Times are the engine's.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaseWatch {
    asked_ms: Option<u64>,
    looked_ms: u64,
    /// What the newest look showed, and since when it shows that.
    renewed: Option<(Timestamp, u64)>,
    pub(super) opinion: Opinion,
}

impl LeaseWatch {
    /// Takes a look in; true if that changes the opinion.
    fn see(&mut self, lease: Lease, clock_ms: u64) -> bool {
        let gap = clock_ms - self.looked_ms > GAP_MS;
        self.looked_ms = clock_ms;
        let opinion = match lease {
            Lease::Missing => Opinion::Nobody("it has no Lease".to_owned()),
            Lease::Denied(why) => Opinion::Nobody(format!("its Lease cannot be read: {why}")),
            Lease::Found { renewed, lasts_ms } => {
                let before = self.renewed;
                if before.is_none_or(|(at, _)| gap || at != renewed) {
                    self.renewed = Some((renewed, clock_ms));
                }
                let unchanged_ms = before.map_or(0, |(_, since_ms)| clock_ms - since_ms);
                match before {
                    Some((at, _)) if at != renewed => Opinion::Renewed { at: renewed },
                    Some((at, _)) if !gap && unchanged_ms >= patience_ms(lasts_ms) => {
                        Opinion::NotRenewed {
                            for_ms: unchanged_ms,
                            at,
                        }
                    }
                    _ if matches!(self.opinion, Opinion::Nobody(_)) => Opinion::Open,
                    _ => return false,
                }
            }
        };
        let same = match (&opinion, &self.opinion) {
            // How long, and by which renewal, is said once.
            (Opinion::NotRenewed { .. }, Opinion::NotRenewed { .. })
            | (Opinion::Renewed { .. }, Opinion::Renewed { .. }) => true,
            (new, old) => new == old,
        };
        if !same {
            self.opinion = opinion;
        }
        !same
    }

    /// The opinion, if there is somebody to ask.
    pub(super) fn opinion_of(&self, leases: bool) -> Opinion {
        if leases {
            self.opinion.clone()
        } else {
            Opinion::Nobody(NO_CLUSTER.to_owned())
        }
    }

    fn every_ms(&self) -> u64 {
        match self.opinion {
            Opinion::Nobody(_) => LOOK_LATER_MS,
            Opinion::Open | Opinion::Renewed { .. } | Opinion::NotRenewed { .. } => LOOK_EVERY_MS,
        }
    }

    /// Whether to look again, at a node that is quiet since then.
    fn is_due(&self, clock_ms: u64, quiet_since: u64) -> bool {
        let every_ms = if clock_ms - quiet_since >= LONG_MS {
            LOOK_LATER_MS
        } else {
            self.every_ms()
        };
        self.asked_ms.is_none_or(|at| clock_ms - at >= every_ms)
    }
}

/// How long a Lease must not change to count as not renewed: two renewals were
/// missed.
fn patience_ms(lasts_ms: u64) -> u64 {
    (lasts_ms / 2).clamp(1_000, 300_000)
}

impl Engine {
    /// A look at the Lease of a node came back.
    pub(super) fn lease(
        &mut self,
        now: Timestamp,
        node: &NodeName,
        lease: Lease,
        out: &mut Vec<Output>,
    ) {
        let Some(boot) = self.fleet.current(node) else {
            return;
        };
        let watch = &mut self.fleet.recall(node, boot, self.clock_ms).lease;
        // It spoke since it was asked for: there is no doubt any more.
        if watch.asked_ms.is_none() || !watch.see(lease, self.clock_ms) {
            return;
        }
        let opinion = watch.opinion.clone();
        let key = (node.clone(), boot);
        if let Some(case) = self.cases.get_mut(&key).filter(|case| case.is_open()) {
            if let Some(text) = opinion_text(&opinion) {
                case.note(now, Channel::Lease, text, &self.limits, &mut self.cut);
            }
            case.take_lease(opinion);
            self.settle(now, &key, out);
        }
        if self.fleet.silent_since(node).is_some() {
            self.tell_silence(node, boot, out);
        }
    }

    /// Asks for the Leases that are in doubt: those of the dead first.
    pub(super) fn look(&mut self, out: &mut Vec<Output>) {
        if !self.limits.leases {
            return;
        }
        let mut wanted: Vec<(bool, Option<u64>, Key)> = Vec::new();
        let mut dead = BTreeSet::new();
        for (key, case) in &self.cases {
            if case.death.state != DeathState::Dead || self.fleet.current(&key.0) != Some(key.1) {
                continue;
            }
            dead.insert(key);
            let watch = self.fleet.find(&key.0, key.1).map(|boot| &boot.lease);
            if let Some(watch) = watch.filter(|w| w.is_due(self.clock_ms, case.quiet_since)) {
                wanted.push((false, watch.asked_ms, key.clone()));
            }
        }
        for (node, boot, heard_ms) in self.fleet.silent_nodes() {
            let key = (node.clone(), boot.id);
            if !dead.contains(&key) && boot.lease.is_due(self.clock_ms, heard_ms) {
                wanted.push((true, boot.lease.asked_ms, key));
            }
        }
        wanted.sort();
        for (_, _, (node, boot)) in wanted.into_iter().take(LOOKS_MAX) {
            let watch = &mut self.fleet.recall(&node, boot, self.clock_ms).lease;
            watch.asked_ms = Some(self.clock_ms);
            out.push(Output::Look(node));
        }
    }

    /// Says of a node that it is silent, unless it is known to be dead.
    pub(super) fn tell_silence(&mut self, node: &NodeName, boot: BootId, out: &mut Vec<Output>) {
        let key = (node.clone(), boot);
        let dead = self.cases.get(&key).is_some_and(|case| {
            matches!(case.death.state, DeathState::Dead | DeathState::Returned)
        });
        let Some(since) = self.fleet.silent_since(node).filter(|_| !dead) else {
            return;
        };
        let leases = self.limits.leases;
        let boot = self.fleet.recall(node, boot, self.clock_ms);
        let lease = boot.lease.opinion_of(leases);
        let heard = boot.last_heard();
        let channels = account::accounts(&Witness {
            heard,
            reach: boot.reach.as_deref(),
            netconsole: boot.netconsole.as_deref(),
            evidence: overheard::timeline(&self.cases, &self.unproven, &key),
            marker: None,
            lease: &lease,
        });
        out.push(Output::Silent(Box::new(Silence {
            node: node.clone(),
            boot: boot.id,
            heard,
            since,
            lease,
            channels,
        })));
    }
}

/// An entry of the timeline.
fn opinion_text(opinion: &Opinion) -> Option<String> {
    match opinion {
        Opinion::Open => None,
        Opinion::Nobody(why) => Some(why.clone()),
        Opinion::Renewed { at } => Some(format!(
            "the Lease was renewed (at {} by its node's clock): this boot or another one lives",
            rfc3339(*at)
        )),
        Opinion::NotRenewed { for_ms, at } => Some(format!(
            "the Lease was not renewed for {for_ms} ms (last at {} by its node's clock)",
            rfc3339(*at)
        )),
    }
}
