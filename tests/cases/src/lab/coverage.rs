//! What is known of every cell, as `docs/coverage.json` and `docs/coverage.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use harness::kernels;
use serde::{Deserialize, Serialize};

use super::channels::NETCONSOLE;
use super::kept;
use super::next_boot::{KDUMP, PSTORE};
use super::report::{Cell, Matrix, Place};
use super::scenes;
use super::ways::{self, Demand};

/// Of its files.
const NAME: &str = "coverage";

/// Of all deaths of a cell, this share must have brought out all that they have to,
/// in percent.
const GOOD_MIN: usize = 90;

/// A word that comes later after the kernel's hook than this is not in time, in
/// milliseconds: whoever watches the node has given it up by itself soon.
const IN_TIME_MS: f64 = 1000.0;

/// The name, among a cell's other channels, of what the next boot says of a machine that
/// kept no log.
pub const NEXT_BOOT: &str = "next boot";

/// Whether a death is told, best last; what cannot be is neither better nor worse.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Nobody says anything.
    No,
    /// The dying kernel does, but not in time, or another boot does.
    Late,
    /// The dying kernel does.
    Yes,
    /// This kernel cannot die so.
    NotPossible,
}

impl fmt::Display for Grade {
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
    pub told: Grade,
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
    /// What the other channels said, and when (median): `yes 3, no 1, 25 ms`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
}

impl Entry {
    fn new(place: &Place, cell: &Cell) -> Self {
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
            word_ms: kept::tenths(cell.word_ms()),
            hold_ms: kept::tenths(cell.hold_ms()),
            channels: cell.said(),
        }
    }

    fn place(&self) -> (&str, u32, &str) {
        (&self.kernel, self.cpus, &self.way)
    }

    /// The cell of the table.
    fn text(&self) -> String {
        let (good, runs) = (self.good, self.runs);
        let share = match self.told {
            Grade::NotPossible => return "-".to_owned(),
            Grade::No => return format!("**no** {}/{runs}", self.words),
            _ if good < runs => format!("**{good}/{runs}**"),
            _ => format!("{good}/{runs}"),
        };
        let late = if self.told == Grade::Late {
            "late "
        } else {
            ""
        };
        let when = match self.words {
            0 => String::new(),
            _ => format!(", {} ms", self.word_ms.0),
        };
        format!("{late}{share}{when}")
    }

    /// Told less surely than before, less often in whole, or not possible any more.
    fn is_worse_than(&self, before: &Self) -> bool {
        let share = |e: &Self| e.good * 100 / e.runs.max(1);
        match (self.told, before.told) {
            (_, Grade::NotPossible) => false,
            (Grade::NotPossible, _) => true,
            (now, then) => now < then || share(self) + (100 - GOOD_MIN) < share(before),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kernel, cpus, way) = self.place();
        let (told, good, runs) = (self.told, self.good, self.runs);
        write!(f, "{kernel} x{cpus} {way}: {told} {good}/{runs}")
    }
}

fn told(place: &Place, cell: &Cell) -> Grade {
    if cell.not_possible.is_some() {
        return Grade::NotPossible;
    }
    let by_gasp = match scenes::demand(&place.way, place.cpus) {
        // What must come out is nothing, so what came out decides.
        None | Some(Demand::End) => cell.words == cell.runs,
        Some(Demand::Word | Demand::Everything) => cell.good * 100 >= cell.runs * GOOD_MIN,
    };
    let later = [NEXT_BOOT, PSTORE, KDUMP];
    let next_boot = later.iter().find_map(|name| cell.channels.get(*name));
    match next_boot {
        _ if by_gasp && cell.word_ms().0 > IN_TIME_MS => Grade::Late,
        _ if by_gasp => Grade::Yes,
        Some(said) if said.keys().all(|said| said == "yes") => Grade::Late,
        _ => Grade::No,
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
    pub fn over(mut self, before: &Self) -> Result<Self> {
        let new: BTreeSet<_> = self.cells.iter().map(Entry::place).collect();
        let kept = before.cells.iter().filter(|e| !new.contains(&e.place()));
        let kept: Vec<Entry> = kept.cloned().collect();
        self.cells.extend(kept);
        let (kernels, ways) = (kernel_names()?, way_names());
        let kernel = |e: &Entry| kernels.iter().position(|name| *name == e.kernel);
        let way = |e: &Entry| ways.iter().position(|name| *name == e.way);
        // What the lab has no more is forgotten.
        self.cells
            .retain(|e| kernel(e).is_some() && way(e).is_some());
        self.cells.sort_by_key(|e| (e.cpus, way(e), kernel(e)));
        Ok(self)
    }

    /// The one that is kept in `dir`; empty if there is none.
    pub fn read(dir: &Path) -> Result<Self> {
        kept::read(dir, NAME)
    }

    /// Keeps it in `dir`, for machines and for people.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let lines: Vec<String> = self
            .cells
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        let json = format!("{{\"cells\": [\n{}\n]}}\n", lines.join(",\n"));
        kept::write(dir, NAME, &json, &self.markdown()?)
    }

    /// Cells of which `before` knew better.
    pub fn worse_than(&self, before: &Self) -> Vec<String> {
        let worse = |entry: &Entry| {
            let old = before.at(entry).filter(|old| entry.is_worse_than(old))?;
            Some(format!(
                "{entry}, was {} {}/{}",
                old.told, old.good, old.runs
            ))
        };
        self.cells.iter().filter_map(worse).collect()
    }

    /// Cells that are not told, and of which `before` did not know that they can be died.
    pub fn untold(&self, before: &Self) -> Vec<String> {
        let is_new = |entry: &&Entry| {
            let old = before.at(entry).map(|old| old.told);
            entry.told == Grade::No && matches!(old, None | Some(Grade::NotPossible))
        };
        self.cells
            .iter()
            .filter(is_new)
            .map(Entry::to_string)
            .collect()
    }

    fn at(&self, like: &Entry) -> Option<&Entry> {
        self.cells.iter().find(|e| e.place() == like.place())
    }

    /// One line: how many cells are how.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<Grade, usize> = BTreeMap::new();
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

    /// What of the lab was died: CPUs, ways, scenes, and deaths of a cell.
    fn extent(&self) -> String {
        let died = || self.cells.iter().filter(|e| e.told != Grade::NotPossible);
        let cpus: BTreeSet<String> = died().map(|e| e.cpus.to_string()).collect();
        let cpus: Vec<String> = cpus.into_iter().collect();
        let names: BTreeSet<&str> = died().map(|e| e.way.as_str()).collect();
        let is_there = |name: &&str| names.contains(name);
        let scenes: Vec<&str> = scenes::names().filter(is_there).collect();
        let least = died().map(|e| e.runs).min().unwrap_or_default();
        let most = died().map(|e| e.runs).max().unwrap_or_default();
        let deaths = match least {
            1 if most == 1 => "one death".to_owned(),
            _ if least == most => format!("{least} deaths"),
            _ => format!("{least} to {most} deaths"),
        };
        format!(
            "Machines with {} CPUs, {} ways, {} scenes ({}), {deaths} a cell",
            cpus.join(" and "),
            ways::names(false).filter(is_there).count(),
            scenes.len(),
            scenes.join(", "),
        )
    }

    fn markdown(&self) -> Result<String> {
        let kernels = kernel_names()?;
        let mut text = String::from(
            "# Every way to die, on every kernel\n\n\
             Written by `cargo xtask lab --all`; [coverage.json](coverage.json) has more of each cell.\n\n\
             `10/10, 3.1 ms`: of ten deaths ten brought out all that they have to; the first word with\n\
             the true reason was out 3.1 ms (median) after the kernel's hook. `late`: the dying kernel\n\
             said nothing, and the next boot did; or it did say it, but after more than a second.\n\
             `-`: this kernel cannot die so; why is said below. Where another channel was not asked,\n\
             its table has nothing.\n",
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}.\n{}.", self.summary(), self.extent());
        let cpus: BTreeSet<u32> = self.cells.iter().map(|e| e.cpus).collect();
        for cpus in cpus {
            let cells: Vec<&Entry> = self.cells.iter().filter(|e| e.cpus == cpus).collect();
            let plural = if cpus == 1 { "" } else { "s" };
            let _ = writeln!(text, "\n## {cpus} CPU{plural}\n");
            let told = |entry: &Entry| entry.text();
            table(&mut text, &kernels, &cells, &told);
            let channels: BTreeSet<&String> =
                cells.iter().flat_map(|e| e.channels.keys()).collect();
            for channel in channels {
                let _ = writeln!(text, "\n### {cpus} CPU{plural}: {channel}\n");
                if let Some(since) = since(channel) {
                    let _ = writeln!(text, "Times (median) count from {since}.\n");
                }
                let has_it = |e: &&Entry| e.channels.contains_key(channel);
                let ways: BTreeSet<&str> = cells
                    .iter()
                    .copied()
                    .filter(has_it)
                    .map(|e| e.way.as_str())
                    .collect();
                let of_it: Vec<&Entry> = cells
                    .iter()
                    .copied()
                    .filter(|e| ways.contains(e.way.as_str()))
                    .collect();
                let nothing = |entry: &Entry| if entry.why.is_some() { "-" } else { "" };
                let said = |entry: &Entry| {
                    let said = entry.channels.get(channel);
                    said.map_or_else(|| nothing(entry).to_owned(), String::clone)
                };
                table(&mut text, &kernels, &of_it, &said);
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
        Ok(text)
    }
}

/// The lab's kernels, in the order in which tables have them.
fn kernel_names() -> Result<Vec<String>> {
    Ok(kernels::all()?.into_iter().map(|spec| spec.name).collect())
}

/// Ways and scenes, likewise.
fn way_names() -> Vec<&'static str> {
    ways::names(false).chain(scenes::names()).collect()
}

/// What a channel's times count from.
fn since(channel: &str) -> Option<&'static str> {
    match channel {
        NETCONSOLE => Some("the console's line that says why"),
        PSTORE | KDUMP => Some("the next boot's agent being ready until the reason is written"),
        _ => None,
    }
}

/// Ways down, kernels across.
fn table(text: &mut String, kernels: &[String], cells: &[&Entry], show: &dyn Fn(&Entry) -> String) {
    let is_there = |kernel: &&str| cells.iter().any(|e| e.kernel == **kernel);
    let kernels: Vec<&str> = kernels
        .iter()
        .map(String::as_str)
        .filter(is_there)
        .collect();
    let mut ways: Vec<&str> = Vec::new();
    for entry in cells {
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
    use super::super::record::DeathRecord;
    use super::*;

    fn entry(told: Grade, good: usize) -> Entry {
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

    fn one(told: Grade, good: usize) -> Coverage {
        Coverage {
            cells: vec![entry(told, good)],
        }
    }

    #[test]
    fn what_is_told_less_surely_or_less_often_or_cannot_be_any_more_is_worse() {
        use Grade::{Late, No, NotPossible, Yes};
        // Told and good of ten, before and now.
        for (before, now, is_worse) in [
            ((Yes, 10), (Yes, 9), false),
            ((Yes, 10), (Yes, 8), true),
            ((Yes, 10), (Late, 10), true),
            ((Late, 10), (Yes, 10), false),
            // The machine hangs, which nobody tells any worse.
            ((Late, 10), (Late, 0), true),
            ((Late, 10), (No, 10), true),
            ((No, 10), (No, 0), true),
            ((No, 0), (Yes, 10), false),
            ((Yes, 10), (NotPossible, 0), true),
            ((No, 0), (NotPossible, 0), true),
            ((NotPossible, 0), (NotPossible, 0), false),
            ((NotPossible, 0), (Late, 10), false),
            ((NotPossible, 0), (Yes, 10), false),
        ] {
            let worse = one(now.0, now.1).worse_than(&one(before.0, before.1));
            assert_eq!(worse.len(), usize::from(is_worse), "{before:?} {now:?}");
        }
        assert_eq!(
            one(Yes, 8).worse_than(&one(Yes, 10)),
            ["6.1 x2 sysrq-c: yes 8/10, was yes 10/10"]
        );
        assert!(one(Yes, 8).worse_than(&Coverage::default()).is_empty());
    }

    #[test]
    fn a_cell_that_nobody_tells_is_named_when_it_is_new() {
        let no = one(Grade::No, 0);
        let named = ["6.1 x2 sysrq-c: no 0/10"];
        assert_eq!(no.untold(&Coverage::default()), named);
        assert_eq!(no.untold(&one(Grade::NotPossible, 0)), named);
        assert!(no.untold(&no).is_empty());
        assert!(one(Grade::Late, 10).untold(&Coverage::default()).is_empty());
    }

    #[test]
    fn a_word_that_comes_after_a_second_is_late() {
        let place = Place {
            kernel: "6.1".into(),
            cpus: 2,
            way: "sysrq-c".into(),
        };
        for (ms, grade) in [(900.0, Grade::Yes), (10_114.0, Grade::Late)] {
            let mut cell = Cell::default();
            (cell.runs, cell.words, cell.good) = (1, 1, 1);
            cell.first_ms.push(ms);
            assert_eq!(told(&place, &cell), grade);
        }
    }

    #[test]
    fn a_scene_that_only_the_next_boot_tells_is_late() {
        let grade = |way: &str, channel: &str, said: &str, words| {
            let place = Place {
                kernel: "6.1".into(),
                cpus: 2,
                way: way.into(),
            };
            let mut record = DeathRecord::good("6.1", 2, way);
            record.first_word_ms = (words > 0).then_some(3.0);
            record.channels.insert(channel.into(), said.into());
            let mut cell = Cell::default();
            cell.add(&record);
            told(&place, &cell)
        };
        assert_eq!(grade("ramoops", PSTORE, "yes", 0), Grade::Late);
        assert_eq!(grade("ramoops", PSTORE, "no", 0), Grade::No);
        assert_eq!(grade("kdump", KDUMP, "yes", 0), Grade::Late);
        assert_eq!(grade("kdump", KDUMP, "no", 1), Grade::Yes);
    }

    #[test]
    fn a_cell_says_when_only_if_a_word_was_out() {
        let mut silent = entry(Grade::Late, 10);
        silent.words = 0;
        assert_eq!(silent.text(), "late 10/10");
        assert_eq!(entry(Grade::Late, 9).text(), "late **9/10**, 3.2 ms");
        assert_eq!(entry(Grade::Yes, 10).text(), "10/10, 3.2 ms");
        assert_eq!(entry(Grade::No, 3).text(), "**no** 3/10");
    }

    #[test]
    fn a_run_of_some_cells_leaves_the_others_as_they_were() -> Result<()> {
        let mut other = entry(Grade::Late, 10);
        other.kernel = "5.10".into();
        let mut before = one(Grade::No, 0);
        before.cells.push(other.clone());
        let now = one(Grade::Yes, 10).over(&before)?;
        assert_eq!(now.cells, [other, entry(Grade::Yes, 10)]);
        Ok(())
    }

    #[test]
    fn the_order_of_kernels_and_ways_is_not_that_of_the_runs() -> Result<()> {
        let cell = |kernel: &str, way: &str| Entry {
            kernel: kernel.into(),
            way: way.into(),
            ..entry(Grade::Yes, 10)
        };
        // Of the first way the first kernel is not known.
        let cells = [
            cell("7.3", "sysrq-c"),
            cell("5.10", "vlan"),
            cell("6.1", "vlan"),
        ];
        let mut texts = BTreeSet::new();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut coverage = Coverage::default();
            for i in order {
                let one = Coverage {
                    cells: vec![cells[i].clone()],
                };
                coverage = one.over(&coverage)?;
            }
            assert_eq!(coverage.cells, cells);
            texts.insert(coverage.markdown()?);
        }
        assert_eq!(texts.len(), 1);
        assert!(
            texts
                .pop_first()
                .is_some_and(|text| text.contains("| way | 5.10 | 6.1 | 7.3 |"))
        );
        Ok(())
    }

    #[test]
    fn the_table_in_docs_is_what_the_cells_there_say() -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let text = std::fs::read_to_string(docs.join("coverage.md"))?;
        let is_same = Coverage::read(&docs)?.markdown()? == text;
        assert!(is_same, "docs/coverage.md is not of docs/coverage.json");
        Ok(())
    }

    #[test]
    fn what_is_kept_is_read_again() -> Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(Coverage::read(dir.path())?, Coverage::default());
        let coverage = one(Grade::Yes, 9);
        coverage.write(dir.path())?;
        assert_eq!(Coverage::read(dir.path())?, coverage);
        let text = std::fs::read_to_string(dir.path().join("coverage.md"))?;
        assert!(text.contains("| sysrq-c | **9/10**, 3.2 ms |"), "{text}");
        Ok(())
    }
}
