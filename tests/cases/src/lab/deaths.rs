//! The deaths that were drawn at random, summed up as `docs/deaths.json` and
//! `docs/deaths.md`: they take hours, more than one run may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::kept;
use super::record::{self, Case, DeathRecord};
use super::report::Cell;

/// Of its files.
const NAME: &str = "deaths";

/// Bytes of a miss in the table; the rest is in the other file.
const MISS_MAX: usize = 200;

/// Why some of them missed something.
const EXPLAINED: &str = include_str!("../../../explained.toml");

/// An explanation of misses.
#[derive(Debug, Deserialize)]
struct Explained {
    seed: u64,
    draws: Vec<u64>,
    why: String,
}

/// All explanations.
fn explained() -> Vec<Explained> {
    #[derive(Deserialize)]
    struct All {
        miss: Vec<Explained>,
    }
    let all: All = toml::from_str(EXPLAINED).expect("tests/explained.toml, which a test reads");
    all.miss
}

/// Deaths of one kernel on machines with as many CPUs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Sum {
    /// Kernel, as `tests/kernels.toml` calls it.
    pub kernel: String,
    /// `uname -r`.
    pub release: String,
    /// CPUs.
    pub cpus: u32,
    /// Ways in which they died.
    pub ways: usize,
    /// Deaths.
    pub deaths: usize,
    /// Deaths whose first word was out.
    pub words: usize,
    /// Deaths whose whole log was out.
    pub whole: usize,
    /// Deaths without any miss.
    pub good: usize,
    /// From the kernel's hook to the first word: median and greatest, milliseconds.
    pub word_ms: (f64, f64),
    /// How long the kernel was held: median and greatest, milliseconds.
    pub hold_ms: (f64, f64),
    /// Deaths with a hold that ended by its limit.
    pub expired: usize,
}

/// A death that missed something: enough to die it again.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Miss {
    /// Which.
    pub case: Case,
    /// What.
    pub misses: Vec<String>,
    /// For how long the host itself was not run meanwhile, if that is known.
    pub host_stolen_ms: Option<u64>,
    /// For how long the machine's threads wanted a CPU meanwhile, likewise.
    #[serde(default)]
    pub machine_waited_ms: Option<u64>,
}

impl Miss {
    fn draw(&self) -> u64 {
        self.case.draw.unwrap_or_default()
    }
}

/// The deaths of draws that follow one another.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Batch {
    /// What they were drawn from.
    pub seed: u64,
    /// The first draw.
    pub first: u64,
    /// The one behind the last.
    pub end: u64,
    /// Which builds died, and how often.
    pub builds: BTreeMap<String, usize>,
    /// By machine.
    pub sums: Vec<Sum>,
    /// What went wrong.
    pub misses: Vec<Miss>,
}

impl Batch {
    /// That of these deaths; `None` if none of them was drawn. Those behind a draw that
    /// is not there yet are left for later.
    pub fn of(records: &[DeathRecord], seed: u64) -> Option<Self> {
        let is_of_it = |r: &&DeathRecord| r.case.seed == seed;
        // One that could not be run may have been tried again.
        let mut by_draw: BTreeMap<u64, &DeathRecord> = BTreeMap::new();
        for record in records.iter().filter(is_of_it) {
            by_draw.extend(record.case.draw.map(|draw| (draw, record)));
        }
        let first = *by_draw.first_key_value()?.0;
        let whole = (first..)
            .zip(by_draw)
            .take_while(|(i, (draw, _))| i == draw);
        let deaths: Vec<DeathRecord> = whole.map(|(_, (_, record))| record.clone()).collect();
        let mut machines: Vec<(String, u32)> = Vec::new();
        for death in &deaths {
            let machine = (death.case.kernel.clone(), death.cpus);
            if !machines.contains(&machine) {
                machines.push(machine);
            }
        }
        machines.sort();
        let sum = |(kernel, cpus): &(String, u32)| {
            let is_of = |r: &&DeathRecord| r.case.kernel == *kernel && r.cpus == *cpus;
            Sum::of(kernel, *cpus, deaths.iter().filter(is_of))
        };
        let builds = record::builds(&deaths).into_iter();
        let missed = deaths.iter().filter(|death| !death.misses.is_empty());
        Some(Self {
            seed,
            first,
            end: first + deaths.len() as u64,
            builds: builds.map(|(name, n)| (name.to_owned(), n)).collect(),
            sums: machines.iter().map(sum).collect(),
            misses: missed
                .map(|death| Miss {
                    case: death.case.clone(),
                    misses: death.misses.clone(),
                    host_stolen_ms: death.host_stolen_ms,
                    machine_waited_ms: death.machine_waited_ms,
                })
                .collect(),
        })
    }
}

impl Sum {
    fn of<'a>(kernel: &str, cpus: u32, deaths: impl Iterator<Item = &'a DeathRecord>) -> Self {
        let (mut all, mut ways) = (Cell::default(), BTreeSet::new());
        for death in deaths {
            all.add(death);
            ways.insert(&death.way);
        }
        Self {
            kernel: kernel.to_owned(),
            cpus,
            ways: ways.len(),
            deaths: all.runs,
            words: all.words,
            whole: all.complete,
            good: all.good,
            word_ms: kept::tenths(all.word_ms()),
            hold_ms: kept::tenths(all.hold_ms()),
            expired: all.expired,
            release: all.release,
        }
    }
}

/// All that is known of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Deaths {
    /// In the order of their draws.
    pub batches: Vec<Batch>,
}

impl Deaths {
    /// What is kept in `dir`; empty if there is nothing.
    pub fn read(dir: &Path) -> Result<Self> {
        kept::read(dir, NAME)
    }

    /// Whether this draw was died.
    pub fn has(&self, seed: u64, draw: u64) -> bool {
        let has = |b: &Batch| b.seed == seed && (b.first..b.end).contains(&draw);
        self.batches.iter().any(has)
    }

    /// With this batch instead of those that it has the draws of.
    #[must_use]
    pub fn with(mut self, batch: Batch) -> Self {
        let is_in =
            |b: &Batch| b.seed == batch.seed && batch.first <= b.first && b.end <= batch.end;
        self.batches.retain(|known| !is_in(known));
        self.batches.push(batch);
        self.batches.sort_by_key(|batch| (batch.seed, batch.first));
        self
    }

    /// Keeps it in `dir`, for machines and for people.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        kept::write(dir, NAME, &json, &self.markdown())
    }

    /// One line: how many, and what was missed.
    pub fn summary(&self) -> String {
        let sum = |of: fn(&Sum) -> usize| -> usize {
            self.batches.iter().flat_map(|b| &b.sums).map(of).sum()
        };
        let deaths = sum(|s| s.deaths);
        format!(
            "{deaths} deaths: {} without a first word, {} without their whole log, {} with any miss",
            deaths - sum(|s| s.words),
            deaths - sum(|s| s.whole),
            deaths - sum(|s| s.good),
        )
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "# Deaths drawn at random\n\n\
             Written by `cargo xtask lab --random N`; [deaths.json](deaths.json) has the same. Kernel,\n\
             CPUs, way to die, the CPU that dies and the moment are drawn. Times in milliseconds,\n\
             median and greatest; that of the first word counts from the kernel's hook.\n",
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}.", self.summary());
        for batch in &self.batches {
            let builds = batch.builds.iter().map(|(name, n)| format!("{name} ({n})"));
            let builds: Vec<String> = builds.collect();
            let (first, last) = (batch.first, batch.end - 1);
            let _ = writeln!(
                text,
                "\n## Seed {}, draws {first} to {last}\n\nBy build {}.\n\n\
                 | kernel | CPUs | ways | deaths | words | whole | good | first word ms | hold ms | holds ended by the limit |\n\
                 |---|---|---|---|---|---|---|---|---|---|",
                batch.seed,
                builds.join(", ")
            );
            for s in &batch.sums {
                let _ = writeln!(
                    text,
                    "| {} ({}) | {} | {} | {} | {} | {} | {} | {} / {} | {} / {} | {} |",
                    s.kernel,
                    s.release,
                    s.cpus,
                    s.ways,
                    s.deaths,
                    s.words,
                    s.whole,
                    s.good,
                    s.word_ms.0,
                    s.word_ms.1,
                    s.hold_ms.0,
                    s.hold_ms.1,
                    s.expired,
                );
            }
            if !batch.misses.is_empty() {
                text.push_str("\n| draw | kernel, CPUs | way | host away ms | machine waited ms | what was missed | why |\n|---|---|---|---|---|---|---|\n");
            }
            let explained = explained();
            let of_batch = || (1..).zip(explained.iter().filter(|e| e.seed == batch.seed));
            for miss in &batch.misses {
                let case = &miss.case;
                let known = |ms: Option<u64>| ms.map_or("?".to_owned(), |ms| ms.to_string());
                let (away, waited) = (known(miss.host_stolen_ms), known(miss.machine_waited_ms));
                // Lines of a log are in it.
                let mut what = miss.misses.join("; ").replace('|', "\\|");
                what.truncate(what.floor_char_boundary(MISS_MAX));
                let draw = miss.draw();
                let why = of_batch().find(|(_, known)| known.draws.contains(&draw));
                let why = why.map_or("?".to_owned(), |(number, _)| number.to_string());
                let (kernel, cpus, way) = (&case.kernel, case.cpus, &case.way);
                let _ = writeln!(
                    text,
                    "| {draw} | {kernel} x{cpus} | {way} | {away} | {waited} | {what} | {why} |"
                );
            }
            let of_it = |e: &Explained| batch.misses.iter().any(|m| e.draws.contains(&m.draw()));
            if !batch.misses.is_empty() {
                text.push('\n');
            }
            for (number, known) in of_batch().filter(|(_, known)| of_it(known)) {
                let _ = writeln!(text, "{number}. {}", known.why);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: u64) -> DeathRecord {
        let mut record = DeathRecord::good("6.1", 2, "sysrq-c");
        record.case.draw = Some(draw);
        record.first_word_ms = Some(3.0);
        record
    }

    #[test]
    fn a_batch_ends_at_the_first_draw_that_is_not_there() {
        let mut bad = drawn(6);
        bad.misses.push("the machine hung".into());
        bad.verdict = "no".into();
        let mut other_seed = drawn(7);
        other_seed.case.seed = 2;
        // Machines side by side come out of order.
        let records = [bad, drawn(5), drawn(9), other_seed];
        let batch = Batch::of(&records, 1).expect("a batch");
        assert_eq!((batch.first, batch.end), (5, 7));
        assert_eq!((batch.sums[0].deaths, batch.sums[0].good), (2, 1));
        assert_eq!(batch.misses.len(), 1);
        assert_eq!(Batch::of(&records[..1], 3), None);
    }

    #[test]
    fn the_table_in_docs_is_what_the_batches_there_say() -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let text = std::fs::read_to_string(docs.join("deaths.md"))?;
        let is_same = Deaths::read(&docs)?.markdown() == text;
        assert!(is_same, "docs/deaths.md is not of docs/deaths.json");
        Ok(())
    }

    #[test]
    fn what_is_explained_was_missed() -> Result<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let kept = Deaths::read(&docs)?;
        for Explained { seed, draws, .. } in explained() {
            let batches = || kept.batches.iter().filter(|batch| batch.seed == seed);
            let missed = |draw: &u64| batches().any(|b| b.misses.iter().any(|m| m.draw() == *draw));
            let others: Vec<&u64> = draws.iter().filter(|draw| !missed(draw)).collect();
            assert!(
                others.is_empty(),
                "seed {seed}: nothing was missed in {others:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn a_later_run_goes_on_behind_what_is_kept() -> Result<()> {
        let batch = |draws: std::ops::Range<u64>| {
            let records: Vec<DeathRecord> = draws.map(drawn).collect();
            Batch::of(&records, 1).expect("a batch")
        };
        let dir = tempfile::tempdir()?;
        assert_eq!(Deaths::read(dir.path())?, Deaths::default());
        // The same machine has the deaths of the first run still, another one has not.
        let kept = Deaths::default().with(batch(0..3)).with(batch(0..5));
        assert_eq!(kept.batches.len(), 1);
        let kept = kept.with(batch(5..7));
        kept.write(dir.path())?;
        let kept = Deaths::read(dir.path())?;
        assert_eq!(kept.batches.len(), 2);
        assert!(kept.has(1, 6) && !kept.has(1, 7) && !kept.has(2, 0));
        assert!(
            kept.summary()
                .starts_with("7 deaths: 0 without a first word")
        );
        let text = std::fs::read_to_string(dir.path().join("deaths.md"))?;
        assert!(text.contains("draws 5 to 6"), "{text}");
        Ok(())
    }
}
