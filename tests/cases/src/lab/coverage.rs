//! What is known of every cell, as `docs/coverage.json` and `docs/coverage.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::report::{Cell, Matrix, Place};
use super::scenes;
use super::ways::{self, Demand};

/// Where it is kept, from the root of the work tree.
pub const FOLDER: &str = "docs";

/// Of all deaths of a cell, this share must have brought out all that they have to,
/// in percent.
const GOOD_MIN: usize = 90;

/// The name, among a cell's other channels, of what the next boot finds.
pub const NEXT_BOOT: &str = "next boot";

/// Whether a death is told, best last.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Nobody says anything.
    No,
    /// Another boot does.
    Late,
    /// The dying kernel does.
    Yes,
    /// This kernel cannot die so.
    NotPossible,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Late => "late",
            Self::Yes => "yes",
            Self::NotPossible => "not possible",
        })
    }
}

/// One cell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// Kernel, as `tests/kernels.toml` calls it.
    pub kernel: String,
    /// `uname -r`.
    pub release: String,
    /// CPUs.
    pub cpus: u32,
    /// Way to die.
    pub way: String,
    /// Whether it is told.
    pub told: Told,
    /// Why it is not possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Deaths.
    pub runs: usize,
    /// Deaths that brought out all that they have to.
    pub good: usize,
    /// Deaths whose first word was out.
    pub words: usize,
    /// Deaths whose whole log was out.
    pub whole: usize,
    /// From the kernel's hook to the first word: median and greatest, milliseconds.
    pub word_ms: (f64, f64),
    /// How long the kernel was held: median and greatest, milliseconds.
    pub hold_ms: (f64, f64),
    /// What the other channels said: `yes 3, late 1`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
}

impl Entry {
    fn new(place: &Place, cell: &Cell) -> Self {
        let tenth = |ms: (f64, f64)| ((ms.0 * 10.0).round() / 10.0, (ms.1 * 10.0).round() / 10.0);
        let list = |said: &BTreeMap<String, usize>| {
            let said: Vec<String> = said.iter().map(|(s, n)| format!("{s} {n}")).collect();
            said.join(", ")
        };
        Self {
            kernel: place.kernel.clone(),
            release: cell.release.clone(),
            cpus: place.cpus,
            way: place.way.clone(),
            told: told(place, cell),
            why: cell.not_possible.clone(),
            runs: cell.runs,
            good: cell.good,
            words: cell.words,
            whole: cell.complete,
            word_ms: tenth(cell.word_ms()),
            hold_ms: tenth(cell.hold_ms()),
            channels: cell
                .channels
                .iter()
                .map(|(channel, said)| (channel.clone(), list(said)))
                .collect(),
        }
    }

    fn place(&self) -> (&str, u32, &str) {
        (&self.kernel, self.cpus, &self.way)
    }

    /// The cell of the table.
    fn text(&self) -> String {
        match self.told {
            Told::NotPossible => "-".to_owned(),
            Told::Yes if self.good == self.runs => {
                format!("{}/{}, {} ms", self.good, self.runs, self.word_ms.0)
            }
            Told::Yes => format!("**{}/{}**, {} ms", self.good, self.runs, self.word_ms.0),
            Told::Late => "late".to_owned(),
            Told::No => format!("**no** {}/{}", self.words, self.runs),
        }
    }
}

fn told(place: &Place, cell: &Cell) -> Told {
    if cell.not_possible.is_some() {
        return Told::NotPossible;
    }
    let by_gasp = match scenes::demand(&place.way, place.cpus) {
        // What must come out is nothing, so what came out decides.
        None | Some(Demand::End) => cell.words == cell.runs,
        Some(Demand::Word | Demand::Everything) => cell.good * 100 >= cell.runs * GOOD_MIN,
    };
    let next_boot = cell.channels.get(NEXT_BOOT);
    match next_boot {
        _ if by_gasp => Told::Yes,
        Some(said) if said.keys().all(|said| said == "yes") => Told::Late,
        _ => Told::No,
    }
}

/// The whole of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Coverage {
    /// Cells, in the matrix's order.
    pub cells: Vec<Entry>,
}

impl Coverage {
    /// That of these deaths.
    pub fn of(matrix: &Matrix) -> Self {
        let entry = |(place, cell): &(Place, Cell)| Entry::new(place, cell);
        Self {
            cells: matrix.0.iter().map(entry).collect(),
        }
    }

    /// This, and of the cells that it does not have what `before` knew.
    #[must_use]
    pub fn over(mut self, before: &Self) -> Self {
        let new: BTreeSet<_> = self.cells.iter().map(Entry::place).collect();
        let kept = before.cells.iter().filter(|e| !new.contains(&e.place()));
        let kept: Vec<Entry> = kept.cloned().collect();
        self.cells.extend(kept);
        let names: Vec<&str> = ways::names(false).chain(scenes::names()).collect();
        let order = |way: &str| names.iter().position(|name| *name == way);
        self.cells.sort_by_key(|e| (e.cpus, order(&e.way)));
        self
    }

    /// The one that is kept in `dir`; empty if there is none.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("coverage.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no coverage", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps it in `dir`, for machines and for people.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let lines: Vec<String> = self
            .cells
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        let json = format!("{{\"cells\": [\n{}\n]}}\n", lines.join(",\n"));
        for (name, text) in [("coverage.json", json), ("coverage.md", self.markdown())] {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Cells of which `before` knew better: told less surely, or less often in whole.
    pub fn worse_than(&self, before: &Self) -> Vec<String> {
        let old: BTreeMap<_, _> = before.cells.iter().map(|e| (e.place(), e)).collect();
        let mut worse = Vec::new();
        for entry in &self.cells {
            let Some(old) = old.get(&entry.place()) else {
                continue;
            };
            let share = |e: &Entry| e.good * 100 / e.runs.max(1);
            let is_worse = entry.told < old.told
                || entry.told == Told::Yes && share(entry) + (100 - GOOD_MIN) < share(old);
            if is_worse {
                worse.push(format!(
                    "{} x{} {}: {} {}/{}, was {} {}/{}",
                    entry.kernel,
                    entry.cpus,
                    entry.way,
                    entry.told,
                    entry.good,
                    entry.runs,
                    old.told,
                    old.good,
                    old.runs
                ));
            }
        }
        worse
    }

    /// One line: how many cells are how.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<Told, usize> = BTreeMap::new();
        for entry in &self.cells {
            *counts.entry(entry.told).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .rev()
            .map(|(told, n)| format!("{told} {n}"))
            .collect();
        format!("{} cells: {}", self.cells.len(), counts.join(", "))
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "# Every way to die, on every kernel\n\n\
             Written by `cargo xtask lab --all`; [coverage.json](coverage.json) has more of each cell.\n\n\
             `10/10, 3.1 ms`: of ten deaths ten brought out all that they have to; the first word with\n\
             the true reason was out 3.1 ms (median) after the kernel's hook. `late`: the dying kernel\n\
             said nothing, the next boot did. `-`: this kernel cannot die so; why is said below.\n",
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}.", self.summary());
        let cpus: BTreeSet<u32> = self.cells.iter().map(|e| e.cpus).collect();
        for cpus in cpus {
            let cells: Vec<&Entry> = self.cells.iter().filter(|e| e.cpus == cpus).collect();
            let plural = if cpus == 1 { "" } else { "s" };
            let _ = writeln!(text, "\n## {cpus} CPU{plural}\n");
            let told = |entry: &Entry| entry.text();
            table(&mut text, &cells, &told);
            let channels: BTreeSet<&String> =
                cells.iter().flat_map(|e| e.channels.keys()).collect();
            for channel in channels {
                let _ = writeln!(text, "\n### {cpus} CPU{plural}: {channel}\n");
                let said = |entry: &Entry| entry.channels.get(channel).cloned().unwrap_or_default();
                table(&mut text, &cells, &said);
            }
        }
        let mut reasons: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for entry in &self.cells {
            if let Some(why) = &entry.why {
                let ways = reasons.entry((&entry.kernel, why)).or_default();
                ways.insert(&entry.way);
            }
        }
        text.push_str("\n## Not possible\n\n| kernel | why | ways |\n|---|---|---|\n");
        for ((kernel, why), ways) in reasons {
            let ways: Vec<&str> = ways.into_iter().collect();
            let _ = writeln!(text, "| {kernel} | {why} | {} |", ways.join(", "));
        }
        text
    }
}

/// Ways down, kernels across.
fn table(text: &mut String, cells: &[&Entry], show: &dyn Fn(&Entry) -> String) {
    let mut kernels: Vec<&str> = Vec::new();
    let mut ways: Vec<&str> = Vec::new();
    for entry in cells {
        if !kernels.contains(&entry.kernel.as_str()) {
            kernels.push(&entry.kernel);
        }
        if !ways.contains(&entry.way.as_str()) {
            ways.push(&entry.way);
        }
    }
    let _ = writeln!(text, "| way | {} |", kernels.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(kernels.len()));
    for way in ways {
        let of = |kernel: &&str| {
            let entry = cells.iter().find(|e| e.way == way && e.kernel == *kernel);
            entry.map(|entry| show(entry)).unwrap_or_default()
        };
        let row: Vec<String> = kernels.iter().map(of).collect();
        let _ = writeln!(text, "| {way} | {} |", row.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(told: Told, good: usize) -> Entry {
        Entry {
            kernel: "6.1".into(),
            release: "6.1.0-50".into(),
            cpus: 2,
            way: "sysrq-c".into(),
            told,
            why: None,
            runs: 10,
            good,
            words: good,
            whole: good,
            word_ms: (3.2, 9.0),
            hold_ms: (0.5, 8.0),
            channels: BTreeMap::new(),
        }
    }

    fn one(told: Told, good: usize) -> Coverage {
        Coverage {
            cells: vec![entry(told, good)],
        }
    }

    #[test]
    fn a_cell_that_gets_worse_is_named_and_one_miss_of_ten_is_none() {
        let before = one(Told::Yes, 10);
        assert_eq!(one(Told::Yes, 9).worse_than(&before), [""; 0]);
        assert_eq!(
            one(Told::Yes, 8).worse_than(&before),
            ["6.1 x2 sysrq-c: yes 8/10, was yes 10/10"]
        );
        assert_eq!(
            one(Told::Late, 10).worse_than(&before),
            ["6.1 x2 sysrq-c: late 10/10, was yes 10/10"]
        );
        assert!(before.worse_than(&one(Told::No, 0)).is_empty());
        assert!(before.worse_than(&Coverage::default()).is_empty());
    }

    #[test]
    fn a_run_of_some_cells_leaves_the_others_as_they_were() {
        let mut other = entry(Told::Late, 10);
        other.kernel = "5.10".into();
        let mut before = one(Told::No, 0);
        before.cells.push(other.clone());
        let now = one(Told::Yes, 10).over(&before);
        assert_eq!(now.cells, [entry(Told::Yes, 10), other]);
    }

    #[test]
    fn what_is_kept_is_read_again() -> Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(Coverage::read(dir.path())?, Coverage::default());
        let coverage = one(Told::Yes, 9);
        coverage.write(dir.path())?;
        assert_eq!(Coverage::read(dir.path())?, coverage);
        let text = fs::read_to_string(dir.path().join("coverage.md"))?;
        assert!(text.contains("| sysrq-c | **9/10**, 3.2 ms |"), "{text}");
        Ok(())
    }
}
