//! What the agent costs a node that does not die.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::cache::Cache;
use harness::kernels;
use harness::vm::Vm;
use lastgasp::config::agent::Low;
use serde_json::json;

use super::Figure;
use super::place::{Here, Place, cpu_times, memory};
use crate::node;

/// Log lines a second under load.
pub const RATE: u64 = 10_000;

/// After it is ready the agent still looks for ways to the collectors.
const SETTLE: Duration = Duration::from_secs(5);

/// How long each state is watched.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// At rest.
    pub rest: Duration,
    /// Under load.
    pub load: Duration,
    /// How often each.
    pub runs: usize,
}

/// Measures on this machine. Takes root, and floods its kernel log.
pub fn here(times: Times) -> Result<Vec<Figure>> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    measure(&mut Here::new()?, release.trim(), "this machine", times)
}

/// Measures in a lab machine of two CPUs. Time is that of an emulated
/// processor: hold it against the same load without the agent, not a clock.
pub fn in_vm(kernel: &str, times: Times) -> Result<Vec<Figure>> {
    let cache = Cache::open()?;
    let kernel = kernels::named(kernel)?.get(&cache)?;
    let mut machine = node::machine(&cache, &kernel, 2)?;
    let once = times.rest + 4 * times.load + 3 * SETTLE;
    machine.limit = Duration::from_secs(60) + once * times.runs as u32;
    let mut vm = Vm::boot(&machine)?;
    measure(&mut vm, &kernel.release, "emulated", times)
}

/// CPU time over wall time, in per cent of a core.
#[derive(Debug, Default)]
struct Use {
    all: Vec<f64>,
    threads: BTreeMap<String, Vec<f64>>,
}

impl Use {
    fn add(
        &mut self,
        before: &BTreeMap<String, Duration>,
        after: &BTreeMap<String, Duration>,
        wall: Duration,
    ) {
        let mut sum = 0.0;
        for (thread, time) in after {
            let spent = time.saturating_sub(before.get(thread).copied().unwrap_or_default());
            let share = 100.0 * spent.as_secs_f64() / wall.as_secs_f64();
            sum += share;
            self.threads.entry(thread.clone()).or_default().push(share);
        }
        self.all.push(sum);
    }
}

fn measure(
    place: &mut dyn Place,
    kernel: &str,
    processor: &str,
    times: Times,
) -> Result<Vec<Figure>> {
    let (mut rest, mut load) = (Use::default(), Use::default());
    let (mut alone, mut with) = (Vec::new(), Vec::new());
    let mut rates = Vec::new();
    let mut sizes: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut bare_wakes = Vec::new();
    for _ in 0..times.runs {
        bare_wakes.push(wakes(place, times.load)?);
        alone.push(flood(place, times.load)?.us_a_line);
        let pid = place.start()?;
        sleep(SETTLE);
        let (before, start) = (cpu_times(place, pid)?, Instant::now());
        sleep(times.rest);
        rest.add(&before, &cpu_times(place, pid)?, start.elapsed());
        for field in ["VmRSS", "RssAnon"] {
            let size = memory(place, pid, field)?;
            sizes.entry(field).or_default().push(size);
        }
        let (before, start) = (cpu_times(place, pid)?, Instant::now());
        let flooded = flood(place, times.load)?;
        with.push(flooded.us_a_line);
        rates.push(flooded.lines_a_second);
        load.add(&before, &cpu_times(place, pid)?, start.elapsed());
        let peak = memory(place, pid, "VmHWM")?;
        sizes.entry("VmHWM").or_default().push(peak);
        place.stop()?;
        // Once more, so that what changed meanwhile does not count as its cost.
        alone.push(flood(place, times.load)?.us_a_line);
    }

    let case = |load: &str| json!({"kernel": kernel, "processor": processor, "load": load});
    let flooded = format!("{RATE} log lines/s");
    let mut figures = Vec::new();
    for (state, used) in [("rest", &rest), (flooded.as_str(), &load)] {
        let yardstick = if state == "rest" {
            json!({
                "goal": 0.1, "must": 0.3,
                "bare_wakeups": super::rounded(middle(&bare_wakes)),
            })
        } else {
            json!({"rest": super::rounded(middle(&rest.all))})
        };
        let mut figure = |name: &str, values: &[f64], yardstick| {
            let mut case = case(state);
            case["thread"] = name.into();
            figures.push(Figure {
                case,
                metric: "cpu",
                unit: "% of a core",
                values: values.to_vec(),
                yardstick,
            });
        };
        figure("all", &used.all, yardstick);
        for (thread, values) in &used.threads {
            figure(thread, values, json!({}));
        }
    }
    for (metric, field, state) in [
        ("rss", "VmRSS", "rest"),
        ("rss_anonymous", "RssAnon", "rest"),
        ("rss_peak", "VmHWM", flooded.as_str()),
    ] {
        figures.push(Figure {
            case: case(state),
            metric,
            unit: "MiB",
            values: sizes.remove(field).unwrap_or_default(),
            yardstick: json!({"goal": 16, "must": 30}),
        });
    }
    figures.push(Figure {
        case: case(&flooded),
        metric: "log_lines",
        unit: "1/s",
        values: rates,
        yardstick: json!({"wanted": RATE}),
    });
    let bare = middle(&alone);
    figures.push(Figure {
        case: case(&flooded),
        metric: "writer_cpu_a_line",
        unit: "us",
        yardstick: json!({
            "without_agent": super::rounded(bare),
            "ratio": super::rounded(middle(&with) / bare),
        }),
        values: with,
    });
    Ok(figures)
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
        _ => sorted[half],
    }
}

/// What two threads cost that only wake up as often as the agent's, in per
/// cent of a core.
fn wakes(place: &mut dyn Place, over: Duration) -> Result<f64> {
    let defaults = Low {
        collector: Some(vec!["collector:1".into()]),
        key_file: Some("key".into()),
        ..Low::default()
    };
    let every = defaults.check()?.pace.rest.as_micros();
    let answer = place.load(&format!("wake {every} {}", over.as_millis()))?;
    let cpu_us: f64 = answer
        .parse()
        .with_context(|| format!("`guest wake` answered {answer:?}"))?;
    Ok(100.0 * cpu_us / over.as_micros() as f64)
}

/// How one load went.
#[derive(Clone, Copy, Debug)]
struct Flood {
    /// CPU time of the writer, the eBPF program included: it runs in there.
    us_a_line: f64,
    lines_a_second: f64,
}

fn flood(place: &mut dyn Place, over: Duration) -> Result<Flood> {
    let lines = RATE * over.as_secs();
    let answer = place.load(&format!("flood {lines} {}", over.as_millis()))?;
    let numbers: Vec<u64> = answer
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("`guest flood` answered {answer:?}"))?;
    let [cpu, wall, _logged] = numbers[..] else {
        anyhow::bail!("`guest flood` answered {answer:?}");
    };
    Ok(Flood {
        us_a_line: cpu as f64 / lines as f64,
        // An emulated processor may not get that far.
        lines_a_second: lines as f64 / (wall as f64 / 1e6),
    })
}

/// For a terminal, 80 columns wide.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<20} {:<17} {:<14} {:>9}  unit, yardstick\n",
        "load", "metric", "thread", "median"
    );
    for figure in figures {
        let word = |key: &str| figure.case[key].as_str().unwrap_or_default();
        let mut against = String::new();
        for (name, value) in figure.yardstick.as_object().into_iter().flatten() {
            let _ = write!(against, ", {name} {value}");
        }
        let _ = writeln!(
            text,
            "{:<20} {:<17} {:<14} {:>9.3}  {}{against}",
            word("load"),
            figure.metric,
            word("thread"),
            figure.median(),
            figure.unit,
        );
    }
    text
}
