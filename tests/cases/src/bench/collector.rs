//! What the collector takes in: the highest rate without a loss, bursts,
//! overload, memory, and lines on disk; beside a bare loop and rsyslog.
//!
//! The load comes from CPU 0, everything that receives is on CPU 1, so that a
//! rate is that of one core. All is loopback: ratios, not rates, are what
//! another machine has as well.

mod durable;
mod load;
mod rsyslog;
pub mod sink;

use std::fmt::Write as _;
use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::cache::Cache;
use lastgasp::gasp::protocol::{Frame, Key, KeyRing};
use lastgasp::kernel::sched;
use serde_json::{Value, json};

use load::{Load, Sender, Sent, What};
use rsyslog::Rsyslog;
use sink::{Kind, Sink};

use super::{Figure, rounded};

/// Hosts that send.
const HOSTS: [usize; 3] = [1, 1_000, 10_000];
/// How long one rate is tried.
const TRIAL: Duration = Duration::from_millis(400);
/// How long after the end of a trial its last datagram may be received: more
/// is a rate that only the socket's buffer makes possible.
const LATE: Duration = Duration::from_millis(20);
/// When nothing has come for so long, nothing comes any more.
const QUIET: Duration = Duration::from_millis(300);
/// Halvings of the range in which the highest rate lies.
const STEPS: usize = 5;
/// Hosts and datagrams of a burst, and how often.
const BURST: (usize, usize, usize) = (1_000, 100_000, 10);

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// The highest rate of heartbeats.
    Heartbeats,
    /// The highest rate of frames with lines.
    Gasps,
    /// The highest rate of lines by netconsole.
    Netconsole,
    /// The same of rsyslog, for lines of text.
    Rsyslog,
    /// Many datagrams at once.
    Burst,
    /// More heartbeats than can be taken, and few words.
    Overload,
    /// What ten thousand hosts take.
    Memory,
    /// Lines until they are on disk.
    Lines,
}

/// Measures these parts; `rounds`: how often each rate is looked for. Each
/// figure is given to `show` as soon as it is there.
pub fn run(
    parts: &[Part],
    rounds: usize,
    show: &mut dyn FnMut(Figure) -> Result<()>,
) -> Result<()> {
    let cpus = sched::allowed_cpus().context("cannot ask for the CPUs")?;
    ensure!(
        cpus.contains(&sink::SENDER) && cpus.contains(&sink::RECEIVER),
        harness::tool::Skip("the collector's bench needs CPU 0 and CPU 1".to_owned())
    );
    sched::pin(sink::SENDER)?;
    for part in parts {
        match part {
            Part::Heartbeats => all_hosts(|hosts| rates(What::Heartbeats, hosts, rounds), show)?,
            Part::Gasps => all_hosts(|hosts| rates(What::Gasps, hosts, rounds), show)?,
            Part::Netconsole => all_hosts(|hosts| rates(What::Netconsole, hosts, rounds), show)?,
            Part::Rsyslog => {
                let cache = Cache::open()?;
                match harness::rsyslog::version(&cache) {
                    Ok(version) => {
                        let beside = |hosts| beside_rsyslog(&cache, &version, hosts, rounds);
                        all_hosts(|hosts| Ok(vec![beside(hosts)?]), show)?;
                    }
                    Err(error) => println!("SKIPPED: rsyslog: {error:#}"),
                }
            }
            Part::Burst => show(burst()?)?,
            Part::Overload => overload()?.into_iter().try_for_each(&mut *show)?,
            Part::Memory => {
                show(memory()?)?;
                show(durable::memory()?)?;
            }
            Part::Lines => durable::lines()?.into_iter().try_for_each(&mut *show)?,
        }
    }
    Ok(())
}

fn all_hosts(
    measure: impl Fn(usize) -> Result<Vec<Figure>>,
    show: &mut dyn FnMut(Figure) -> Result<()>,
) -> Result<()> {
    for hosts in HOSTS {
        measure(hosts)?.into_iter().try_for_each(&mut *show)?;
    }
    Ok(())
}

/// Something that receives.
enum Target<'a> {
    Sink(Kind),
    Rsyslog(&'a Cache),
}

/// One that runs.
enum Running {
    Sink(Sink),
    Rsyslog(Rsyslog),
}

impl Target<'_> {
    /// Starts it anew: it has seen no number of the load yet.
    fn start(&self, load: &Load) -> Result<Running> {
        Ok(match self {
            Self::Sink(kind) => Running::Sink(Sink::start(*kind, Duration::ZERO)?),
            Self::Rsyslog(cache) => Running::Rsyslog(Rsyslog::start(cache, load.size, load.hosts)?),
        })
    }

    /// Sends, and waits for the last datagram.
    fn trial(&self, load: &Load, rate: Option<f64>) -> Result<Trial> {
        let wanted = rate.map_or(load.len(), |rate| (rate * TRIAL.as_secs_f64()) as usize);
        let mut running = self.start(load)?;
        let sender = Sender::new(running.port())?;
        let sent = sender.send(load, wanted.min(load.len()), rate)?;
        let mut received = running.received()?;
        let mut last = Instant::now();
        while received < sent.count as u64 && last.elapsed() < QUIET {
            sleep(Duration::from_millis(1));
            let now = running.received()?;
            if now > received {
                (received, last) = (now, Instant::now());
            }
        }
        Ok(Trial {
            sent,
            received,
            served: last.duration_since(sent.began),
        })
    }

    /// The highest rate without a loss, in datagrams a second.
    fn highest(&self, load: &Load) -> Result<f64> {
        let flat_out = self.trial(load, None)?;
        if flat_out.is_clean() {
            let rate = flat_out.sent.rate();
            println!(
                "no sender is faster here than {rate:.0}/s: the next figure is what was sent, \
                 not what could be received"
            );
            return Ok(rate);
        }
        let served = flat_out.received as f64 / flat_out.served.as_secs_f64();
        let (mut low, mut high) = (0.5 * served, 1.2 * served);
        let mut found = 0.0;
        for _ in 0..STEPS {
            let rate = f64::midpoint(low, high);
            let trial = self.trial(load, Some(rate))?;
            if trial.is_clean() {
                (low, found) = (rate, trial.sent.rate().max(found));
            } else {
                high = rate;
            }
        }
        Ok(found)
    }
}

impl Running {
    fn port(&self) -> u16 {
        match self {
            Self::Sink(sink) => sink.port,
            Self::Rsyslog(rsyslog) => rsyslog.port,
        }
    }

    fn received(&mut self) -> Result<u64> {
        match self {
            Self::Sink(sink) => number(&sink.counts()?, "received"),
            Self::Rsyslog(rsyslog) => rsyslog.received(),
        }
    }
}

/// How one rate went.
struct Trial {
    sent: Sent,
    received: u64,
    /// From the first datagram's sending until the last was received.
    served: Duration,
}

impl Trial {
    fn is_clean(&self) -> bool {
        self.received == self.sent.count as u64 && self.served < self.sent.took + LATE
    }
}

fn rates(what: What, hosts: usize, rounds: usize) -> Result<Vec<Figure>> {
    let count = match what {
        What::Gasps => 400_000,
        _ => 800_000,
    };
    let load = Load::new(what, hosts, count)?;
    let (kind, proof_ns) = match what {
        // Nobody proves it.
        What::Netconsole => (Kind::Netconsole, 0.0),
        _ => (Kind::Gasps, proof_ns(&load)?),
    };
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(Target::Sink(Kind::Bare).highest(&load)?);
        ours.push(Target::Sink(kind).highest(&load)?);
    }
    let case = json!({"load": what.name(), "hosts": hosts, "bytes": load.size});
    let figure = |metric, unit, values, yardstick| Figure {
        case: case.clone(),
        metric,
        unit,
        values,
        yardstick,
    };
    let ours = figure("loss_free", "1/s", ours, Value::Null);
    let bare = figure("loss_free_bare", "1/s", bare, Value::Null);
    let lines = match what {
        What::Gasps => load::LINES_A_FRAME,
        What::Heartbeats => 0,
        _ => 1,
    };
    // What is left if nothing but the proof is added to the bare loop.
    let limit = 1e9 / (1e9 / bare.median() + proof_ns);
    let proof = figure(
        "proof",
        "ns a datagram",
        vec![proof_ns],
        json!({"share": rounded(proof_ns * ours.median() / 1e9)}),
    );
    let yardstick = json!({
        "bare": rounded(bare.median()),
        "ratio": rounded(ours.median() / bare.median()),
        "bare_and_proof": rounded(limit),
        "ratio_to_that": rounded(ours.median() / limit),
        "lines": rounded(ours.median() * lines as f64),
        "goal_ratio": 0.9,
    });
    Ok(vec![Figure { yardstick, ..ours }, bare, proof])
}

/// Parsing and HMAC alone, on the receivers' CPU.
fn proof_ns(load: &Load) -> Result<f64> {
    let key = Key::new(load::KEY).context("the key is too short")?;
    let keys = KeyRing::pre_shared(key);
    sched::pin(sink::RECEIVER)?;
    let count = 100_000.min(load.len());
    let began = Instant::now();
    for datagram in load.datagrams().take(count) {
        let frame = Frame::parse(datagram)?;
        black_box(frame.verify(&keys))?;
    }
    let took = began.elapsed();
    sched::pin(sink::SENDER)?;
    Ok(took.as_nanos() as f64 / count as f64)
}

fn beside_rsyslog(cache: &Cache, version: &str, hosts: usize, rounds: usize) -> Result<Figure> {
    let load = Load::new(What::Syslog, hosts, 400_000)?;
    let (mut bare, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(Target::Sink(Kind::Bare).highest(&load)?);
        theirs.push(Target::Rsyslog(cache).highest(&load)?);
    }
    let figure = |metric, values| Figure {
        case: json!({"load": What::Syslog.name(), "hosts": hosts, "bytes": load.size, "by": version}),
        metric,
        unit: "1/s",
        values,
        yardstick: Value::Null,
    };
    let bare = figure("loss_free_bare", bare);
    let theirs = figure("loss_free_rsyslog", theirs);
    let ratio = theirs.median() / bare.median();
    Ok(Figure {
        yardstick: json!({"bare": rounded(bare.median()), "ratio": rounded(ratio)}),
        ..theirs
    })
}

/// As many datagrams at once as a thousand dying nodes send.
fn burst() -> Result<Figure> {
    let (hosts, count, times) = BURST;
    let load = Load::new(What::ShortGasps, hosts, count)?;
    let (mut lost, mut offered) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let mut trial = Target::Sink(Kind::Gasps).trial(&load, None)?;
        trial.received = trial.received.min(count as u64);
        lost.push((count as u64 - trial.received) as f64);
        offered.push(trial.sent.rate());
    }
    let offered = offered.iter().sum::<f64>() / times as f64;
    Ok(Figure {
        case: json!({
            "load": load.what.name(), "hosts": hosts, "bytes": load.size,
            "datagrams": count, "offered": rounded(offered),
        }),
        metric: "burst_lost",
        unit: "datagrams",
        values: lost,
        yardstick: json!({"goal": 0}),
    })
}

/// Heartbeats as fast as can be, few words of dying nodes among them, and a
/// taker that rests after each 256 messages.
fn overload() -> Result<Vec<Figure>> {
    let beats = Load::new(What::Heartbeats, 1_000, 1_600_000)?;
    let words = Load::from(50_000, What::ShortGasps, 200, 20_000)?;
    let mut sink = Sink::start(Kind::Gasps, Duration::from_millis(1))?;
    let (sent_beats, sent_words) = Sender::new(sink.port)?.mix(&beats, &words, 60)?;
    let mut counts = sink.counts()?;
    let mut changed = Instant::now();
    while changed.elapsed() < 2 * QUIET {
        sleep(Duration::from_millis(5));
        let now = sink.counts()?;
        if now != counts {
            (counts, changed) = (now, Instant::now());
        }
    }
    let of = |name| number(&counts, name);
    let taken = of("received")?;
    let sent = (sent_beats + sent_words) as u64;
    let counted = of("queue_full")? + of("heartbeat_dropped")? + of("kernel_drops")?;
    let case = json!({
        "load": "overload", "hosts": 1_200, "heartbeats": sent_beats,
        "words": sent_words, "outcome": counts,
    });
    let figure = |metric, value: f64, yardstick| Figure {
        case: case.clone(),
        metric,
        unit: "datagrams",
        values: vec![value],
        yardstick,
    };
    let lost = sent - taken;
    Ok(vec![
        figure(
            "words_lost",
            (sent_words as u64 - of("words")?) as f64,
            json!({"goal": 0}),
        ),
        figure(
            "lost_not_counted",
            lost as f64 - counted as f64,
            json!({"goal": 0, "lost": lost}),
        ),
    ])
}

/// A receiver that knows ten thousand hosts.
fn memory() -> Result<Figure> {
    let (hosts, each) = (10_000, 3);
    let load = Load::new(What::Heartbeats, hosts, hosts * each)?;
    let mut sink = Sink::start(Kind::Gasps, Duration::ZERO)?;
    let before = sink.memory("VmRSS")?;
    let sent = Sender::new(sink.port)?.send(&load, load.len(), Some(50_000.0))?;
    sleep(QUIET);
    let received = number(&sink.counts()?, "received")?;
    ensure!(received == sent.count as u64, "heartbeats were lost");
    Ok(Figure {
        case: json!({"load": load.what.name(), "hosts": hosts, "by": "receiver alone"}),
        metric: "rss",
        unit: "MiB",
        values: vec![sink.memory("VmRSS")?],
        yardstick: json!({"goal": 16, "without_hosts": rounded(before)}),
    })
}

fn number(counts: &Value, name: &str) -> Result<u64> {
    let value = counts[name].as_u64();
    value.with_context(|| format!("the receiver did not say {name}: {counts}"))
}

/// For a terminal.
pub fn line(figure: &Figure) -> String {
    let word = |key: &str| match &figure.case[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut text = format!(
        "{:<12} {:>6} {:>6}  {:<18} {:>13.1}  {}",
        word("load"),
        word("hosts"),
        word("bytes"),
        figure.metric,
        figure.median(),
        figure.unit,
    );
    for (name, value) in figure.yardstick.as_object().into_iter().flatten() {
        let _ = write!(text, ", {name} {value}");
    }
    text
}

/// The heading of [`line`]s.
pub fn heading() -> String {
    format!(
        "{:<12} {:>6} {:>6}  {:<18} {:>13}  unit, yardstick",
        "load", "hosts", "bytes", "metric", "median"
    )
}
