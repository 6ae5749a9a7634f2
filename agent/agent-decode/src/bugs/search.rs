//! Which of many records a report may be of.
//!
//! Thousands of fixes name `kfree`; few name `skb_segment`. What is shared weighs as much
//! as it is rare among all records.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::report::Report;

use super::cna::Record;
use super::rank::{Kernel, Look, Opinion, opinion, standing};

/// Functions of a stack that are compared.
const FRAMES_MAX: usize = 16;
/// Candidates that are kept.
const CANDIDATES_MAX: usize = 20;
/// Less than this speaks for nothing: about one function that few records name.
const SCORE_MIN: f64 = 6.0;

/// Records, and how rare the functions in them are.
#[derive(Debug)]
pub struct Index {
    records: Vec<Record>,
    /// Records that name a function, by their place.
    by_function: HashMap<String, Vec<u32>>,
}

/// A record that a report may be of.
#[derive(Clone, Debug, Serialize)]
pub struct Found<'a> {
    /// The record.
    #[serde(flatten)]
    pub record: &'a Record,
    /// What is to be thought of it.
    #[serde(flatten)]
    pub opinion: Opinion,
}

impl Index {
    /// Of all these records.
    pub fn new(records: Vec<Record>) -> Self {
        let mut by_function: HashMap<String, Vec<u32>> = HashMap::new();
        for (at, record) in (0..).zip(&records) {
            for function in record.fault.iter().chain(&record.functions) {
                let all = by_function.entry(function.clone()).or_default();
                if all.last() != Some(&at) {
                    all.push(at);
                }
            }
        }
        Self {
            records,
            by_function,
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records that a report may be of, the likeliest first.
    pub fn search(&self, report: &Report) -> Vec<Found<'_>> {
        let own = report.fault_function.iter().chain(&report.blamed_function);
        let frames = report
            .frames
            .iter()
            .filter(|frame| frame.reliable)
            .take(FRAMES_MAX);
        let mut functions: Vec<&str> = own.map(String::as_str).collect();
        functions.extend(frames.map(|frame| frame.function.as_str()));
        let mut shared: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for function in functions {
            for at in self.by_function.get(function).into_iter().flatten() {
                let shared = shared.entry(*at).or_default();
                if !shared.contains(&function) {
                    shared.push(function);
                }
            }
        }
        let mut found: Vec<Found<'_>> = shared
            .into_iter()
            .filter_map(|(at, shared)| {
                let record = self.records.get(at as usize)?;
                let look = self.look(record, report, &shared)?;
                let standing = standing(&record.introduced, &record.fixed, &Kernel::of(report));
                let opinion = opinion(look, standing);
                Some(Found { record, opinion })
            })
            .collect();
        found.sort_by_key(|found| (found.opinion.order(), Reverse(&found.record.id)));
        found.truncate(CANDIDATES_MAX);
        found
    }

    /// How much a function says: nothing if all records name it.
    fn weight(&self, function: &str) -> f64 {
        let records = self.by_function.get(function).map_or(1, Vec::len).max(1);
        (self.records.len().max(1) as f64 / records as f64).ln()
    }

    fn look(&self, record: &Record, report: &Report, shared: &[&str]) -> Option<Look> {
        let mut look = Look::default();
        let mut score: f64 = shared.iter().map(|function| self.weight(function)).sum();
        look.good(0, format!("the fix names {}", shared.join(", ")));
        let fault = report
            .fault_function
            .as_ref()
            .or(report.blamed_function.as_ref());
        if let Some(fault) = fault {
            if record.fault.as_ref() == Some(fault) {
                score += self.weight(fault);
                look.good(0, format!("its crash was in {fault} as well"));
            } else if !shared.contains(&fault.as_str()) {
                score /= 2.0;
                look.against
                    .push(format!("it does not name {fault}, where this happened"));
            }
        }
        if let Some(file) = &report.source_file
            && let Some(known) = record
                .files
                .iter()
                .find(|known| file.ends_with(known.as_str()))
        {
            score += 3.0;
            look.good(0, format!("the fix is in {known}"));
        }
        if let Some(kind) = record.kind {
            if kind == report.kind {
                score += 1.0;
            } else {
                look.against.push(format!(
                    "its crash was a {}, this is a {}",
                    kind.as_str(),
                    report.kind.as_str()
                ));
            }
        }
        look.score = score.round() as u32;
        (score >= SCORE_MIN).then_some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports;

    fn record(id: &str, functions: &[&str]) -> Record {
        Record {
            id: id.to_owned(),
            functions: functions.iter().map(|&f| f.to_owned()).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn what_few_records_name_weighs_more() {
        let mut records: Vec<Record> = (0..1_000)
            .map(|n| record(&format!("common-{n}"), &["ip_rcv"]))
            .collect();
        records.push(record("rare", &["ip_rcv", "rare_function"]));
        let index = Index::new(records);
        let log = "BUG: kernel NULL pointer dereference, address: 0000000000000000\n\
            CPU: 0 PID: 1 Comm: x Not tainted 6.1.5 #1\nRIP: 0010:rare_function+0x1/0x2\n\
            Call Trace:\n ip_rcv+0x1/0x2\n";
        let reports = reports(log.as_bytes());
        let found = index.search(&reports[0]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].record.id, "rare");
    }
}
