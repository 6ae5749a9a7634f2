//! How the boot before ended, asked once when a boot introduces itself.

use super::account::{self, Witness};
use super::case::Case;
use super::fleet::Introduction;
use super::{Engine, Output, overheard};
use crate::model::{BootId, Channel, NodeName, PreviousBoot, Timestamp};

impl Engine {
    /// A boot has introduced itself: how did the one before it end? What is on
    /// the node's disk (`previous`) says so; without that, what was heard.
    pub(super) fn look_back(
        &mut self,
        now: Timestamp,
        node: &NodeName,
        boot: BootId,
        previous: Option<PreviousBoot>,
        out: &mut Vec<Output>,
    ) {
        let Introduction::New(heard) = self.fleet.introduce(node, boot) else {
            return;
        };
        // A marker of an earlier boot is out of date: that disk was full, or lost.
        let previous = previous.filter(|p| {
            let is_old = heard.is_some_and(|h| h != p.boot) && self.fleet.knows(node, p.boot);
            p.boot != boot && !is_old
        });
        let marked = previous.as_ref().map(|p| p.boot);
        if let Some(before) = heard.filter(|heard| marked != Some(*heard)) {
            let text = "it said no goodbye";
            self.ended(now, (node, before), boot, (Channel::Heartbeat, text), out);
        }
        let Some(previous) = previous else { return };
        self.fleet.insert_before(node, previous.boot, boot);
        if previous.stopped {
            // After whatever it survived.
            let ended = self.fleet.recall(node, previous.boot, self.clock_ms);
            ended.life.survived_ns = u64::MAX;
            self.settle(now, &(node.clone(), previous.boot), out);
        } else {
            let text = "by what is on its disk, its agent was not told to stop";
            let why = (Channel::PreviousBoot, text);
            self.ended(now, (node, previous.boot), boot, why, out);
        }
    }

    /// A boot is over, as `next` runs, and if no word that stands says why, it
    /// ended without one; unless it said goodbye.
    fn ended(
        &mut self,
        now: Timestamp,
        (node, boot): (&NodeName, BootId),
        next: BootId,
        (channel, why): (Channel, &str),
        out: &mut Vec<Output>,
    ) {
        let key = (node.clone(), boot);
        let facts = self.facts(&key);
        if facts.life.stopped() || self.cases.get(&key).is_some_and(Case::has_last_word) {
            return;
        }
        let ended = self.fleet.recall(node, boot, self.clock_ms);
        let lease = ended.lease.opinion_of(self.limits.leases);
        let channels = account::accounts(&Witness {
            heard: facts.heard,
            reach: ended.reach.as_deref(),
            netconsole: ended.netconsole.as_deref(),
            evidence: overheard::timeline(&self.cases, &self.unproven, &key),
            marker: Some(match channel {
                Channel::PreviousBoot => "says that its agent was not told to stop",
                _ => "said nothing of this boot",
            }),
            lease: &lease,
        });
        let at = facts.heard.unwrap_or(now);
        self.open(now, &key, None, at);
        if let Some(case) = self.cases.get_mut(&key) {
            case.end_unheard(at, facts.life.alive_ns, self.clock_ms, channels);
            let text = format!("boot {next} runs now; {why}");
            case.end_known(channel, &text);
            case.note(now, channel, text, &self.limits, &mut self.cut);
        }
        self.settle(now, &key, out);
    }
}
