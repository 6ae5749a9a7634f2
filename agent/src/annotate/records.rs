//! What boots find of earlier ones: read, stored, acknowledged.

use agent_core::engine::Input;
use agent_core::model::{BootId, Channel, NodeName, Record, Timestamp};

use super::Annotator;
use crate::channels::record;
use crate::gasp::receipt::{Receipt, RecordId};
use crate::store::{Change, KeptRecord};

impl Annotator {
    pub(super) fn take_record(
        &mut self,
        at: Timestamp,
        node: NodeName,
        by: BootId,
        record: Box<Record>,
        change: &mut Change,
    ) {
        let reading = record::read(&record);
        if record.channel == Channel::Vmcore && reading.report.is_none() {
            // What a crash kernel saves has the crash: this is something else.
            self.metrics.lost("vmcore_without_crash", 1);
            return;
        }
        change.records.push(KeptRecord {
            node: node.clone(),
            id: RecordId::of(&record).to_string(),
            record: record.clone(),
            lines: reading.lines,
        });
        let recorded = Input::Recorded {
            node,
            by,
            record,
            printed_ns: reading.printed_ns,
            report: reading.report,
        };
        let recorded = self.engine.step(at, recorded);
        self.collect(recorded, change);
    }

    /// The store has these records.
    pub(super) fn give(&self, receipts: &[Receipt]) {
        let Some(sender) = &self.receipts else { return };
        for receipt in receipts {
            if sender.send(receipt).is_err() {
                self.metrics.lost("receipt", 1);
            }
        }
    }
}
