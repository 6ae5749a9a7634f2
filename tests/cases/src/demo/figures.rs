//! What the demo measured.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::screen::{Screen, Style};

/// The moments of one death, on this host's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The crash: the kernel's first hook, by its own account, or the first
    /// line on the console, whichever was earlier.
    pub(super) crash: Option<Instant>,
    /// The panic line on the console.
    pub(super) panic_line: Option<Instant>,
    /// The first datagram of the death.
    pub(super) first: Option<Instant>,
    /// The first word with the true reason.
    pub(super) true_word: Option<Instant>,
    /// The first word that nobody survives: what condemns the node.
    pub(super) final_word: Option<Instant>,
    /// The Node condition, seen by a watch.
    pub(super) condition: Option<Instant>,
    /// The last pod's reason.
    pub(super) last_pod: Option<Instant>,
    /// How many pods carry the true reason.
    pub(super) told: usize,
    /// How many were to.
    pub(super) eligible: usize,
    /// The same patches by a bare loop.
    pub(super) bare_loop: Option<Duration>,
    /// How long the kernel was held.
    pub(super) held: Duration,
}

/// One figure: what it is called, and what it is beside.
struct Row {
    words: String,
    metric: &'static str,
    time: Option<Duration>,
    yardstick: Value,
}

fn between(from: Option<Instant>, to: Option<Instant>) -> Option<Duration> {
    Some(to?.saturating_duration_since(from?))
}

impl Figures {
    /// When something was, after the crash.
    pub(super) fn after_crash(&self, at: Instant) -> Option<Duration> {
        between(self.crash, Some(at))
    }

    fn rows(&self, kube: bool) -> Vec<Row> {
        let row = |words: String, metric, time, yardstick| Row {
            words,
            metric,
            time,
            yardstick,
        };
        let none = || json!({});
        let last = format!("last of {} pods", self.eligible);
        let mut rows = vec![
            row(
                "crash to first datagram".into(),
                "crash_to_first_datagram",
                between(self.crash, self.first),
                none(),
            ),
            row(
                "crash to first word with the true reason".into(),
                "crash_to_true_word",
                between(self.crash, self.true_word),
                none(),
            ),
            row(
                "crash to panic line on the console".into(),
                "crash_to_panic_line",
                between(self.crash, self.panic_line),
                none(),
            ),
            row(
                "kernel held".into(),
                "hold",
                Some(self.held),
                json!({"limit_ms": 50}),
            ),
        ];
        if kube {
            let limit = |ms: u32| json!({"limit_ms": ms});
            let bare = self.bare_loop.map(milliseconds);
            let all = between(self.first, self.last_pod);
            // Until the kernel says that it does not go on, no pod may be told:
            // an oops in a process may be survived. What the annotator itself
            // takes is this.
            let ours = between(self.final_word, self.last_pod);
            let ratio = |time: Option<Duration>| {
                let both = time.map(milliseconds).zip(bare);
                both.map(|(time, bare)| round(time / bare))
            };
            rows.extend([
                row(
                    "crash to Node condition".into(),
                    "crash_to_node_condition",
                    between(self.crash, self.condition),
                    limit(100),
                ),
                row(
                    "first datagram to Node condition".into(),
                    "first_datagram_to_node_condition",
                    between(self.first, self.condition),
                    limit(50),
                ),
                row(
                    "last word to Node condition".into(),
                    "final_word_to_node_condition",
                    between(self.final_word, self.condition),
                    none(),
                ),
                row(
                    format!("Node condition to {last}"),
                    "node_condition_to_last_pod",
                    between(self.condition, self.last_pod),
                    json!({"bare_loop_ms": bare}),
                ),
                row(
                    format!("crash to {last}"),
                    "crash_to_last_pod",
                    between(self.crash, self.last_pod),
                    none(),
                ),
                row(
                    format!("first datagram to {last}"),
                    "first_datagram_to_last_pod",
                    all,
                    json!({"limit_ms": 1000, "bare_loop_ms": bare, "ratio": ratio(all)}),
                ),
                row(
                    format!("last word to {last}"),
                    "final_word_to_last_pod",
                    ours,
                    json!({"bare_loop_ms": bare, "ratio": ratio(ours), "ratio_limit": 1.2}),
                ),
                row(
                    "a bare loop of the same patches".into(),
                    "bare_loop",
                    self.bare_loop,
                    none(),
                ),
            ]);
        } else {
            rows.extend([
                row(
                    "crash to death in the store".into(),
                    "crash_to_record",
                    between(self.crash, self.condition),
                    none(),
                ),
                row(
                    format!("crash to {last} in the store"),
                    "crash_to_last_pod",
                    between(self.crash, self.last_pod),
                    none(),
                ),
            ]);
        }
        rows
    }

    /// Shows them.
    pub(super) fn show(&self, screen: Screen, kube: bool) {
        for row in self.rows(kube) {
            let time = row.time.map_or("-".to_owned(), |time| {
                format!("{:.1} ms", milliseconds(time))
            });
            let limit = row.yardstick["limit_ms"]
                .as_u64()
                .map_or(String::new(), |limit| format!("(limit {limit} ms)"));
            screen.line(
                &format!("  {:<42} {time:>12}  {limit}", row.words),
                Style::Plain,
            );
        }
    }

    /// Writes them to a file, one JSON object a line.
    pub(super) fn write(&self, path: &Path, kube: bool, case: &Value) -> Result<()> {
        let mut file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for row in self.rows(kube) {
            let value = row.time.map(milliseconds);
            let line = json!({
                "demo": if kube { "kube" } else { "standalone" },
                "case": case,
                "metric": row.metric,
                "unit": "ms",
                "value": value,
                "runs": 1,
                "min": value,
                "max": value,
                "yardstick": row.yardstick,
            });
            writeln!(file, "{line}")?;
        }
        let line = json!({
            "demo": if kube { "kube" } else { "standalone" }, "case": case,
            "metric": "pods_with_true_reason", "unit": "pods", "value": self.told, "runs": 1,
            "min": self.told, "max": self.told, "yardstick": {"eligible": self.eligible},
        });
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", path.display()))
    }
}

fn milliseconds(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_a_line_of_json_and_a_missing_one_is_null() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("demo.jsonl");
        let crash = Instant::now();
        let figures = Figures {
            crash: Some(crash),
            first: Some(crash + Duration::from_micros(1_500)),
            eligible: 110,
            ..Figures::default()
        };
        figures.write(&path, true, &json!({"kernel": "6.1"}))?;
        let text = std::fs::read_to_string(&path)?;
        let lines: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        assert_eq!(lines.len(), 13);
        assert_eq!(
            (lines[0]["metric"].as_str(), lines[0]["value"].as_f64()),
            (Some("crash_to_first_datagram"), Some(1.5))
        );
        let condition = lines
            .iter()
            .find(|l| l["metric"] == "first_datagram_to_node_condition");
        assert_eq!(
            condition.map(|l| (&l["value"], &l["yardstick"]["limit_ms"])),
            Some((&Value::Null, &json!(50)))
        );
        Ok(())
    }
}
