//! The matrix as people and machines read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::record::DeathRecord;

/// A kernel, the CPUs of its machine, and a way to die.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Kernel, as `tests/kernels.toml` calls it.
    pub kernel: String,
    /// CPUs.
    pub cpus: u32,
    /// Way to die.
    pub way: String,
}

impl Place {
    /// The one that a death belongs to.
    pub fn of(record: &DeathRecord) -> Self {
        Self {
            kernel: record.case.kernel.clone(),
            cpus: record.case.cpus,
            way: record.case.way.clone(),
        }
    }

    /// Kernel and CPUs: `6.1 x2`.
    pub fn machine(&self) -> String {
        format!("{} x{}", self.kernel, self.cpus)
    }
}

/// All deaths of one place.
#[derive(Debug, Default)]
pub struct Cell {
    /// The kernel's release.
    pub release: String,
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
    /// Of each other channel: what it said, and how often.
    pub channels: BTreeMap<String, BTreeMap<String, usize>>,
    channels_ms: BTreeMap<String, Vec<f64>>,
    /// Of each first word: from the kernel's hook, in milliseconds.
    pub(super) first_ms: Vec<f64>,
    hold_ms: Vec<f64>,
    held_at: BTreeMap<String, usize>,
    /// Deaths with a hold that ended by its limit.
    pub expired: usize,
}

impl Cell {
    /// Adds a death.
    pub fn add(&mut self, record: &DeathRecord) {
        self.release.clone_from(&record.kernel);
        if !record.is_death() {
            self.not_possible.clone_from(&record.why);
            return;
        }
        self.runs += 1;
        if record.is_error() {
            self.errors += 1;
            return;
        }
        self.words += usize::from(record.first_word_ms.is_some());
        self.complete += usize::from(record.lines_received == record.lines_expected);
        self.good += usize::from(record.is_good());
        self.first_ms.extend(record.first_word_ms);
        self.hold_ms.push(record.hold_ms);
        for point in &record.held_at {
            *self.held_at.entry(format!("{point:?}")).or_default() += 1;
        }
        self.expired += usize::from(record.holds_expired > 0);
        for (channel, said) in &record.channels {
            let of_channel = self.channels.entry(channel.clone()).or_default();
            *of_channel.entry(said.clone()).or_default() += 1;
        }
        for (channel, ms) in &record.channels_ms {
            let of_channel = self.channels_ms.entry(channel.clone()).or_default();
            of_channel.push(*ms);
        }
    }

    /// What each other channel said how often, and when (median): `yes 3, 25 ms`.
    pub fn said(&self) -> BTreeMap<String, String> {
        let when = |channel: &String| match self.channels_ms.get(channel) {
            Some(ms) => format!(", {:.0} ms", spread(ms).0),
            None => String::new(),
        };
        let said = |(channel, said)| (String::clone(channel), counts(said) + &when(channel));
        self.channels.iter().map(said).collect()
    }

    /// First word, median and greatest, in milliseconds.
    pub fn word_ms(&self) -> (f64, f64) {
        spread(&self.first_ms)
    }

    /// Hold, median and greatest, in milliseconds.
    pub fn hold_ms(&self) -> (f64, f64) {
        spread(&self.hold_ms)
    }
}

/// All places and what is known of them, in the order in which they came.
#[derive(Debug, Default)]
pub struct Matrix(pub Vec<(Place, Cell)>);

impl Matrix {
    /// That of these deaths.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a DeathRecord>) -> Self {
        let mut matrix = Self::default();
        for record in records {
            matrix.add(record);
        }
        matrix
    }

    /// Adds a death.
    pub fn add(&mut self, record: &DeathRecord) {
        let place = Place::of(record);
        let at = self.0.iter().position(|(known, _)| *known == place);
        let at = at.unwrap_or_else(|| {
            self.0.push((place, Cell::default()));
            self.0.len() - 1
        });
        self.0[at].1.add(record);
    }

    /// A sum over all cells.
    pub fn sum(&self, of: fn(&Cell) -> usize) -> usize {
        self.0.iter().map(|(_, cell)| of(cell)).sum()
    }
}

/// What there is how often: `yes 3, no 1`.
pub fn counts(of: &BTreeMap<String, usize>) -> String {
    let of: Vec<String> = of.iter().map(|(what, n)| format!("{what} {n}")).collect();
    of.join(", ")
}

/// Median and greatest.
fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

/// The table, 86 columns wide.
pub fn table(matrix: &Matrix) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<15} {:<17} {:>5} {:>5} {:>6} {:>5}  {:>14}  {:>14}",
        "kernel, CPUs", "way", "runs", "word", "whole", "good", "word ms", "hold ms"
    );
    for (place, cell) in &matrix.0 {
        let (machine, way) = (place.machine(), &place.way);
        if let Some(why) = &cell.not_possible {
            let _ = writeln!(text, "{machine:<15} {way:<17} not possible: {why}");
            continue;
        }
        let ((word, word_max), (hold, hold_max)) = (cell.word_ms(), cell.hold_ms());
        let _ = writeln!(
            text,
            "{machine:<15} {way:<17} {:>5} {:>5} {:>6} {:>5}  {:>6.1} {:>7.1}  {:>6.1} {:>7.1}",
            cell.runs, cell.words, cell.complete, cell.good, word, word_max, hold, hold_max
        );
        for (channel, said) in cell.said() {
            let _ = writeln!(text, "{:<33} {channel}: {said}", "");
        }
    }
    text.push_str("word and hold: median and greatest; word counts from the kernel's hook\n");
    let mut held_at: BTreeMap<String, usize> = BTreeMap::new();
    for (point, count) in matrix.0.iter().flat_map(|(_, cell)| &cell.held_at) {
        *held_at.entry(point.clone()).or_default() += count;
    }
    let expired = matrix.sum(|cell| cell.expired);
    let _ = writeln!(
        text,
        "held at: {}; ended by the limit: {expired}",
        counts(&held_at)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_says_how_often_and_when() {
        let mut cell = Cell::default();
        for (said, ms) in [("yes", Some(20.4)), ("no", None), ("yes", Some(31.0))] {
            let mut record = DeathRecord::good("6.1", 2, "erst");
            record.channels.insert("pstore".into(), said.into());
            let ms = ms.map(|ms| ("pstore".to_owned(), ms));
            record.channels_ms.extend(ms);
            cell.add(&record);
        }
        assert_eq!(cell.said()["pstore"], "no 1, yes 2, 31 ms");
    }
}
