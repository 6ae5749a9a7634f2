//! What the kernel of an earlier boot left of its end, found by a later one.

use super::{Engine, Output, account, explain};
use crate::model::{BootId, NodeName, Record, Report, Timestamp};

/// What is known of a record beside its bytes.
#[derive(Debug)]
pub(super) struct Found {
    /// The boot that found it.
    pub(super) by: BootId,
    pub(super) record: Box<Record>,
    /// When its last line was printed, by the kernel's own clock.
    pub(super) printed_ns: Option<u64>,
    pub(super) report: Option<Report>,
}

impl Engine {
    /// A record joins what was heard of that boot: it may be all there is, or
    /// one more thing that says the same.
    pub(super) fn recorded(
        &mut self,
        now: Timestamp,
        node: NodeName,
        found: Found,
        out: &mut Vec<Output>,
    ) {
        let record = &found.record;
        let near = || self.fleet.ended_near(&node, found.by, record.at);
        let Some(boot) = record.boot.or_else(near).filter(|boot| *boot != found.by) else {
            self.unplaced += 1;
            return;
        };
        self.fleet.insert_before(&node, boot, found.by);
        let key = (node, boot);
        let facts = self.facts(&key);
        let printed_ns = found.printed_ns.unwrap_or(facts.life.newest_ns());
        let word = explain::word_of_record(record, found.report.as_ref(), printed_ns);
        let text = explain::record_text(record, found.report.as_ref());
        let happened = record.at.or(facts.heard).unwrap_or(now);
        self.open(now, &key, Some(word.notice), happened);
        let Some(case) = self.cases.get_mut(&key) else {
            return;
        };
        if case.has_noted(record.channel, &text) {
            return;
        }
        // Another one runs, or nobody could have found it.
        case.end_known(record.channel, &format!("found by boot {}", found.by));
        case.begin_again_if_over(now, &word, &facts);
        let provisional = explain::provisional(&word);
        case.hear(word, happened, &facts, &mut self.cut);
        case.improve(found.report.unwrap_or(provisional));
        case.amend(record.channel, account::brought(&text));
        case.note(now, record.channel, text, &self.limits, &mut self.cut);
        self.settle(now, &key, out);
    }
}
