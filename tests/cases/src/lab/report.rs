//! The matrix as people and machines read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::run::{Done, End};

/// All deaths of one kernel and way.
#[derive(Debug, Default)]
pub struct Cell {
    /// Deaths died.
    pub runs: usize,
    /// Deaths whose first word was out.
    pub words: usize,
    /// Deaths whose whole log was out.
    pub complete: usize,
    /// Deaths without any miss.
    pub good: usize,
    /// Deaths that could not be run.
    pub errors: usize,
    /// Why this kernel cannot die so, if it cannot.
    pub not_possible: Option<String>,
    first_ms: Vec<f64>,
    hold_ms: Vec<f64>,
    held_at: BTreeMap<String, usize>,
    expired: usize,
    wall: Duration,
}

impl Cell {
    /// Adds a death.
    pub fn add(&mut self, done: &Done<'_>) {
        let verdict = match &done.end {
            Ok(End::NotPossible(why)) => {
                self.not_possible = Some(why.clone());
                return;
            }
            Ok(End::Died(verdict)) => Some(verdict),
            Err(_) => None,
        };
        self.runs += 1;
        self.wall += done.wall;
        let Some(verdict) = verdict else {
            self.errors += 1;
            return;
        };
        self.words += usize::from(verdict.has_word());
        self.complete += usize::from(verdict.is_complete());
        self.good += usize::from(verdict.misses.is_empty());
        self.first_ms.extend(verdict.word_ms);
        self.hold_ms.push(verdict.hold_ms);
        for point in &verdict.held_at {
            *self.held_at.entry(format!("{point:?}")).or_default() += 1;
        }
        self.expired += usize::from(verdict.holds_expired > 0);
    }
}

/// Median and greatest.
fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

/// The table, 80 columns wide.
pub fn table(cells: &[((String, &'static str), Cell)]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<10} {:<17} {:>5} {:>5} {:>6} {:>5}  {:>14}  {:>14}",
        "kernel", "way", "runs", "word", "whole", "good", "word ms", "hold ms"
    );
    for ((kernel, way), cell) in cells {
        if let Some(why) = &cell.not_possible {
            let _ = writeln!(text, "{kernel:<10} {way:<17} not possible: {why}");
            continue;
        }
        let (word, word_max) = spread(&cell.first_ms);
        let (hold, hold_max) = spread(&cell.hold_ms);
        let _ = writeln!(
            text,
            "{kernel:<10} {way:<17} {:>5} {:>5} {:>6} {:>5}  {:>6.1} {:>7.1}  {:>6.1} {:>7.1}",
            cell.runs, cell.words, cell.complete, cell.good, word, word_max, hold, hold_max
        );
    }
    text.push_str("word and hold: median and greatest; word counts from the kernel's hook\n");
    let mut held_at: BTreeMap<&str, usize> = BTreeMap::new();
    for (point, count) in cells.iter().flat_map(|(_, cell)| &cell.held_at) {
        *held_at.entry(point).or_default() += count;
    }
    let points: Vec<String> = held_at.iter().map(|(p, n)| format!("{p} {n}")).collect();
    let expired: usize = cells.iter().map(|(_, cell)| cell.expired).sum();
    let _ = writeln!(
        text,
        "held at: {}; ended by the limit: {expired}",
        points.join(", ")
    );
    text
}

/// What the host did meanwhile, for who looks for the cause of a miss.
pub fn host(done: &Done<'_>) -> String {
    match done.stolen_ms {
        Some(0) => " (the host ran all the time)".to_owned(),
        Some(ms) => format!(" (the host itself was not run for {ms} ms of it)"),
        None => String::new(),
    }
}

/// One death as a line of JSON.
pub fn json_line(out: &mut impl Write, done: &Done<'_>, cpus: u32) -> Result<()> {
    let task = &done.task;
    let mut line = json!({
        "lab": "gasp",
        "case": {"kernel": task.on.kernel, "way": task.way.name, "cold": task.cold,
                 "delay_us": task.delay_us},
        "kernel": task.on.release,
        "arch": task.on.machine.arch.linux(),
        "cpus": cpus,
        "way": task.way.name,
        "channel": "gasp",
        "metric": "death",
        "unit": "run",
        "value": 1,
        "runs": 1,
        "wall_ms": done.wall.as_millis() as u64,
        "host_stolen_ms": done.stolen_ms,
    });
    let more = match &done.end {
        Ok(End::NotPossible(why)) => json!({"verdict": "not possible", "why": why}),
        Ok(End::Died(verdict)) => json!({
            "verdict": if verdict.misses.is_empty() { "yes" } else { "no" },
            "misses": verdict.misses,
            "first_datagram_ms": verdict.first_ms,
            "first_word_ms": verdict.word_ms,
            "lines_expected": verdict.lines_expected,
            "lines_received": verdict.lines_received,
            "hold_ms": verdict.hold_ms,
            "held_at": verdict.held_at,
            "holds_expired": verdict.holds_expired,
            "proof": verdict.proof,
            "reason": verdict.reason,
        }),
        Err(error) => json!({"verdict": "error", "misses": [format!("{error:#}")]}),
    };
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    writeln!(out, "{line}")?;
    Ok(())
}
