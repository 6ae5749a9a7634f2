//! What is written down of one death: a line of JSON, which a later run reads
//! again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use agent_core::model::{HoldPoint, Proof, ReasonCode};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::run::{Done, Fate, Task};

/// Which death it was: enough to die it again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Case {
    /// Kernel, as `tests/kernels.toml` calls it.
    pub kernel: String,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Way to die, or scene.
    pub way: String,
    /// The CPU that was told to.
    pub on_cpu: u32,
    /// It was booted anew, and did not go on from the snapshot.
    pub cold: bool,
    /// Before the trigger, in microseconds.
    pub delay_us: u64,
    /// Seed of the run, and the number of the draw where deaths are drawn.
    pub seed: u64,
    /// See `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<u64>,
}

/// One death, in the form of DESIGN section 12. Times in milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeathRecord {
    /// What is measured: `gasp`.
    pub lab: String,
    /// Which death it was.
    pub case: Case,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub arch: String,
    /// CPUs.
    pub cpus: u32,
    /// Way to die.
    pub way: String,
    /// Channel that is judged here: `gasp`.
    pub channel: String,
    /// `death`.
    pub metric: String,
    /// `run`.
    pub unit: String,
    /// 1.
    pub value: u32,
    /// 1.
    pub runs: u32,
    /// Which binaries died: a hash of them.
    pub build: String,
    /// Time for all of it.
    pub wall_ms: u64,
    /// How much of it the host was not run itself, if that is known.
    pub host_stolen_ms: Option<u64>,
    /// For how long the machine's threads wanted a CPU and had none while it died, summed, if
    /// that is known.
    #[serde(default)]
    pub machine_waited_ms: Option<u64>,
    /// `yes`, `no`, `not possible`, `error`.
    pub verdict: String,
    /// Why it is not possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Everything wrong with it.
    #[serde(default)]
    pub misses: Vec<String>,
    /// From the kernel's hook to the first datagram.
    pub first_datagram_ms: Option<f64>,
    /// From the kernel's hook to the first word with the true reason.
    pub first_word_ms: Option<f64>,
    /// Lines on the console from the cause to the stop of the other CPUs.
    pub lines_expected: usize,
    /// How many of these got out.
    pub lines_received: usize,
    /// How long the kernel was held.
    pub hold_ms: f64,
    /// Where.
    #[serde(default)]
    pub held_at: Vec<HoldPoint>,
    /// Holds that ended by their limit.
    #[serde(default)]
    pub holds_expired: u8,
    /// How sure the engine was.
    pub proof: Option<Proof>,
    /// The engine's reason.
    pub reason: Option<ReasonCode>,
    /// What each of the other channels said: `yes`, `slow`, or why not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, String>,
    /// And when: netconsole's from the console's line that says why, that of what the next
    /// boot finds from its agent being ready.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels_ms: BTreeMap<String, f64>,
}

impl DeathRecord {
    /// What is known before anything happened.
    fn of(task: &Task<'_>, build: &str, seed: u64) -> Self {
        Self {
            lab: "gasp".into(),
            case: Case {
                kernel: task.on.kernel.clone(),
                cpus: task.on.machine.cpus,
                way: task.how.name().into(),
                on_cpu: task.on_cpu,
                cold: task.cold,
                delay_us: task.delay_us,
                seed,
                draw: task.draw,
            },
            kernel: task.on.release.clone(),
            arch: task.on.machine.arch.linux().into(),
            cpus: task.on.machine.cpus,
            way: task.how.name().into(),
            channel: "gasp".into(),
            metric: "death".into(),
            unit: "run".into(),
            value: 1,
            runs: 1,
            build: build.into(),
            wall_ms: 0,
            host_stolen_ms: None,
            machine_waited_ms: None,
            verdict: "error".into(),
            why: None,
            misses: Vec::new(),
            first_datagram_ms: None,
            first_word_ms: None,
            lines_expected: 0,
            lines_received: 0,
            hold_ms: 0.0,
            held_at: Vec::new(),
            holds_expired: 0,
            proof: None,
            reason: None,
            channels: BTreeMap::new(),
            channels_ms: BTreeMap::new(),
        }
    }

    /// One that was died.
    pub fn new(done: &Done<'_>, build: &str, seed: u64) -> Self {
        let mut record = Self::of(&done.task, build, seed);
        record.wall_ms = done.wall.as_millis() as u64;
        record.host_stolen_ms = done.stolen_ms;
        match &done.end {
            Ok(Fate::NotPossible(why)) => {
                record.verdict = "not possible".into();
                record.why = Some(why.clone());
            }
            Ok(Fate::Died(verdict)) => {
                let good = verdict.misses.is_empty();
                record.verdict = if good { "yes" } else { "no" }.into();
                record.misses.clone_from(&verdict.misses);
                record.machine_waited_ms = verdict.waited_ms;
                record.first_datagram_ms = verdict.first_ms;
                record.first_word_ms = verdict.word_ms;
                record.lines_expected = verdict.lines_expected;
                record.lines_received = verdict.lines_received;
                record.hold_ms = verdict.hold_ms;
                record.held_at.clone_from(&verdict.held_at);
                record.holds_expired = verdict.holds_expired;
                record.proof = verdict.proof;
                record.reason = verdict.reason;
                for (channel, (said, ms)) in &verdict.channels {
                    record.channels.insert((*channel).into(), said.clone());
                    let ms = ms.map(|ms| ((*channel).to_owned(), ms));
                    record.channels_ms.extend(ms);
                }
            }
            Err(error) => record.misses.push(format!("{error:#}")),
        }
        record
    }

    /// Whether a machine died for it.
    pub fn is_death(&self) -> bool {
        self.verdict != "not possible"
    }

    /// Whether it could not be run, so that nothing is known of it.
    pub fn is_error(&self) -> bool {
        self.verdict == "error"
    }

    /// Whether all of it was as it should be.
    pub fn is_good(&self) -> bool {
        self.verdict == "yes"
    }

    /// What the host did meanwhile, for who looks for the cause of a miss.
    pub fn host(&self) -> String {
        let stolen = match self.host_stolen_ms {
            Some(0) => " (the host ran all the time)".to_owned(),
            Some(ms) => format!(" (the host itself was not run for {ms} ms of it)"),
            None => String::new(),
        };
        let waited = self
            .machine_waited_ms
            .map(|ms| format!(" (its threads waited {ms} ms for a CPU)"));
        stolen + &waited.unwrap_or_default()
    }
}

/// A file with a record a line.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Begins a new file, or goes on behind the whole lines that one has.
    pub fn open(path: &Path, append: bool) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if append {
            // Seen as bytes: the end may be in the midst of a character.
            let bytes =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n');
            file.set_len(whole.map_or(0, |end| end as u64 + 1))?;
        }
        Ok(Self { file })
    }

    /// Adds a record, in one piece: who is killed meanwhile leaves whole lines.
    pub fn add(&mut self, record: &DeathRecord) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(record)?);
        self.file.write_all(line.as_bytes())?;
        Ok(())
    }
}

/// The records in a file; none if it is not there. A last line that was cut off
/// is left out.
pub fn read(path: &Path) -> Result<Vec<DeathRecord>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: no death", path.display(), number + 1))
    };
    whole.lines().enumerate().map(parse).collect()
}

/// How many deaths each build died, in the order in which they came.
pub fn builds(records: &[DeathRecord]) -> Vec<(&str, usize)> {
    let mut builds: Vec<(&str, usize)> = Vec::new();
    for record in records.iter().filter(|record| record.is_death()) {
        match builds.iter_mut().find(|(name, _)| *name == record.build) {
            Some((_, deaths)) => *deaths += 1,
            None => builds.push((&record.build, 1)),
        }
    }
    builds
}

#[cfg(test)]
impl DeathRecord {
    /// A good one.
    pub(super) fn good(kernel: &str, cpus: u32, way: &str) -> Self {
        let record = serde_json::json!({
            "lab": "gasp", "kernel": "6.1.0-50", "arch": "x86_64", "cpus": cpus, "way": way,
            "channel": "gasp", "metric": "death", "unit": "run", "value": 1, "runs": 1,
            "build": "0", "wall_ms": 1, "verdict": "yes",
            "case": {"kernel": kernel, "cpus": cpus, "way": way, "on_cpu": 0, "cold": false,
                "delay_us": 0, "seed": 1},
            "lines_expected": 0, "lines_received": 0, "hold_ms": 0.0,
        });
        serde_json::from_value(record).expect("a record")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_behind_the_last_whole_line() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("all.jsonl");
        let record = DeathRecord::good("6.1", 2, "sysrq-c");
        Log::open(&path, false)?.add(&record)?;
        // Somebody is killed while writing, then goes on.
        let mut file = OpenOptions::new().append(true).open(&path)?;
        file.write_all(b"{\"lab\": \"g\xc3")?;
        assert_eq!(read(&path)?.len(), 1);
        Log::open(&path, true)?.add(&record)?;
        assert_eq!(read(&path)?.len(), 2);
        Ok(())
    }

    #[test]
    fn deaths_are_told_apart_by_the_build_that_died_them() {
        let record = |build: &str, verdict: &str| DeathRecord {
            build: build.to_owned(),
            verdict: verdict.to_owned(),
            ..DeathRecord::good("6.1", 2, "sysrq-c")
        };
        let records = [
            record("b", "yes"),
            record("a", "no"),
            record("b", "yes"),
            record("c", "not possible"),
        ];
        assert_eq!(builds(&records), [("b", 2), ("a", 1)]);
    }
}
