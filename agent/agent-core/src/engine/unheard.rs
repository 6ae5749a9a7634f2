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
        // A marker of yet another boot is out of date: that disk was full, or lost.
        let is_it = |p: &PreviousBoot| p.boot != boot && heard.is_none_or(|h| h == p.boot);
        let (before, channel, text) = match previous.filter(is_it) {
            Some(previous) if previous.stopped => {
                // After whatever it survived.
                let key = (node.clone(), previous.boot);
                self.fleet.insert_before(node, previous.boot, boot);
                let ended = self.fleet.recall(node, previous.boot, self.clock_ms);
                ended.survived_ns = u64::MAX;
                self.settle(now, &key, out);
                return;
            }
            Some(previous) => (
                previous.boot,
                Channel::PreviousBoot,
                "by what is on its disk, its agent was not told to stop",
            ),
            None => match heard {
                Some(before) => (before, Channel::Heartbeat, "it said no goodbye"),
                None => return,
            },
        };
        let key = (node.clone(), before);
        self.fleet.insert_before(node, before, boot);
        let facts = self.facts(&key);
        if facts.stopped || self.cases.get(&key).is_some_and(Case::has_last_word) {
            return;
        }
        let leases = self.limits.leases;
        let ended = self.fleet.recall(node, before, self.clock_ms);
        let lease = ended.lease.opinion_of(leases);
        let overheard = overheard::said_of(&self.cases, &self.unproven, &key);
        let channels = account::accounts(&Witness {
            heard: facts.heard.or(ended.noted),
            reach: ended.reach.as_deref(),
            netconsole: ended.netconsole.as_deref(),
            overheard: overheard.as_deref(),
            marker: Some(match channel {
                Channel::PreviousBoot => "says that its agent was not told to stop",
                _ => "said nothing of this boot",
            }),
            lease: &lease,
        });
        self.open(now, &key, None, facts.heard.unwrap_or(now));
        if let Some(case) = self.cases.get_mut(&key) {
            case.end_unheard(facts.heard.unwrap_or(now), channels);
            let text = format!("boot {boot} runs now; {text}");
            case.end_known(channel, &text);
            case.note(now, channel, text, &self.limits, &mut self.cut);
        }
        self.settle(now, &key, out);
    }
}
