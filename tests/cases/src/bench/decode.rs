//! How fast the decoder reads, on one thread: logs of crashes, and a log of a machine
//! that is well, beside a pass of one regular expression over the same bytes.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use agent_decode::{Decoder, reports};
use anyhow::{Context as _, Result, ensure};
use regex::bytes::Regex;
use serde_json::json;

use super::Figure;
use crate::lab::bless;

/// Bytes of a crash log that is typical.
const TYPICAL: std::ops::Range<usize> = 2_500..3_500;
/// Bytes of the log of a machine that is well.
const CLEAN: usize = 64 << 20;
/// Bytes that are given to the decoder at once.
const CHUNK: usize = 256 << 10;
/// How often each log is read in a run.
const TIMES: usize = 20;
/// What a log has to hold for a plain search to take it for a crash.
const PLAIN: &str = r"BUG:|kernel BUG at|Oops|Kernel panic|WARNING:|INFO: task|soft lockup|hard LOCKUP|detected stall|Call Trace|general protection fault|divide error|Unable to handle kernel|Machine Check";
/// What a machine says that is well; the numbers make each line another.
const LINES: [&str; 6] = [
    "eth0: renamed from veth5c9e7a1, carrier up, queueing discipline noqueue, group default",
    "EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.",
    "audit: type=1400 audit(1700000000.123:45): apparmor=\"STATUS\" operation=\"profile_load\"",
    "IPv6: ADDRCONF(NETDEV_CHANGE): cali1234567890a: link becomes ready",
    "systemd[1]: Started Session 12345 of User root.",
    "nvme nvme0: 8/0/0 default/read/poll queues",
];

/// Measures `runs` times.
pub fn run(runs: usize) -> Result<Vec<Figure>> {
    let crashes = crashes()?;
    let clean = clean();
    let plain = Regex::new(PLAIN)?;
    let mut values: [Vec<f64>; 4] = Default::default();
    for _ in 0..runs {
        let [log, regex, rate, regex_rate] = &mut values;
        log.push(median(&crashes, |log| {
            black_box(reports(log));
        }));
        regex.push(median(&crashes, |log| {
            black_box(plain.find_iter(log).count());
        }));
        let begin = Instant::now();
        ensure!(
            read(&clean) == 0,
            "the log of a machine that is well has a report"
        );
        rate.push(clean.len() as f64 / 1e6 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        black_box(plain.find_iter(&clean).count());
        regex_rate.push(clean.len() as f64 / 1e6 / begin.elapsed().as_secs_f64());
    }
    let [log, regex, rate, regex_rate] = values;
    let bytes = crashes.iter().map(Vec::len).sum::<usize>() / crashes.len();
    let figure = |what: &str, metric, unit, values: Vec<f64>, goal, beside: Vec<f64>| Figure {
        case: json!({"log": what}),
        metric,
        unit,
        values,
        yardstick: json!({
            "goal": goal,
            "regex": super::rounded(beside.iter().sum::<f64>() / beside.len() as f64),
        }),
    };
    let crash = format!("{} crashes of {bytes} bytes", crashes.len());
    Ok(vec![
        figure(&crash, "decode_median", "us", log, 20, regex),
        figure("64 MiB, well", "decode_rate", "MB/s", rate, 300, regex_rate),
    ])
}

/// The logs of the lab's deaths that are as long as most.
fn crashes() -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(bless::FOLDER);
    let mut logs = Vec::new();
    let what = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(&folder).with_context(what)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let log = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if TYPICAL.contains(&log.len()) && !reports(&log).is_empty() {
            logs.push(log);
        }
    }
    ensure!(!logs.is_empty(), "no logs in {}", folder.display());
    Ok(logs)
}

fn clean() -> Vec<u8> {
    let mut log = Vec::with_capacity(CLEAN + 256);
    for number in 0.. {
        let text = LINES[number % LINES.len()];
        let s = number as f64 / 100.0;
        log.extend_from_slice(
            format!("Nov 21 01:40:46 w01 kernel: [{s:12.6}] {text}\n").as_bytes(),
        );
        if log.len() >= CLEAN {
            break;
        }
    }
    log
}

fn read(log: &[u8]) -> usize {
    let mut decoder = Decoder::default();
    let mut found = 0;
    for chunk in log.chunks(CHUNK) {
        decoder.push(chunk);
        found += decoder.reports().count();
    }
    found + decoder.finish().count()
}

/// Microseconds that a log takes.
fn median(logs: &[Vec<u8>], read: impl Fn(&[u8])) -> f64 {
    let mut all = Vec::with_capacity(logs.len() * TIMES);
    for _ in 0..TIMES {
        for log in logs {
            let begin = Instant::now();
            read(log);
            all.push(begin.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
