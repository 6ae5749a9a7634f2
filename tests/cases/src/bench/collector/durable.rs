//! The whole annotator, stand-alone: what it holds, and how fast lines are in
//! its store.

use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lastgasp::store::Store;
use serde_json::json;

use super::load::{self, Load, Sender, What};
use super::sink;
use super::{Figure, QUIET};
use crate::{annotator, node};

/// An annotator on the receivers' CPU.
struct Annotator {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Annotator {
    fn start() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lastgasp-bench-")
            .tempdir()?;
        let binary = node::binary("LASTGASP_BINARY")?;
        let mut command = annotator::command(&binary, dir.path(), load::KEY)?;
        command.stderr(fs::File::create(dir.path().join("log"))?);
        let child = sink::on_its_cpu(&mut command)?;
        let mut annotator = Self {
            child,
            dir,
            port: 0,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some((gasps, _)) = annotator.log().lines().find_map(annotator::addresses) {
                annotator.port = gasps.port();
                return Ok(annotator);
            }
            ensure!(
                annotator.child.try_wait()?.is_none() && Instant::now() < deadline,
                "the annotator does not become ready; it said:\n{}",
                annotator.log()
            );
            sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Annotator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an annotator holds that knows ten thousand nodes.
pub(super) fn memory() -> Result<Figure> {
    let hosts = 10_000;
    let load = Load::new(What::Heartbeats, hosts, 3 * hosts)?;
    let annotator = Annotator::start()?;
    let before = sink::memory(annotator.child.id(), "VmRSS")?;
    Sender::new(annotator.port)?.send(&load, load.len(), Some(10_000.0))?;
    sleep(10 * QUIET);
    let value = sink::memory(annotator.child.id(), "VmRSS")?;
    // The rest are pages of the binary, which the kernel may drop and load again.
    let own = sink::memory(annotator.child.id(), "RssAnon")?;
    Ok(Figure {
        case: json!({"load": load.what.name(), "hosts": hosts, "by": "annotator"}),
        metric: "rss",
        unit: "MiB",
        values: vec![value],
        yardstick: json!({
            "goal": 16, "of_its_own": super::rounded(own), "without_hosts": super::rounded(before),
        }),
    })
}

/// Lines of a thousand dying nodes, until the last is in the store.
pub(super) fn lines() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (hosts, frames) in [(1_000, 10_000), (10_000, 20_000)] {
        let load = Load::new(What::Gasps, hosts, frames)?;
        let lines = (frames * load::LINES_A_FRAME) as u64;
        let annotator = Annotator::start()?;
        let store = Store::open_to_read(&annotator.dir.path().join(annotator::STORE))?;
        let sent = Sender::new(annotator.port)?.send(&load, frames, None)?;
        let mut kept = 0;
        let mut last = Instant::now();
        while kept < lines && last.elapsed() < 10 * QUIET {
            sleep(Duration::from_millis(20));
            let now = store.lines_kept()?;
            if now > kept {
                (kept, last) = (now, Instant::now());
            }
        }
        let took = last.duration_since(sent.began).as_secs_f64();
        figures.push(Figure {
            case: json!({
                "load": load.what.name(), "hosts": hosts, "bytes": load.size,
                "lines": lines, "kept": kept,
            }),
            metric: "lines_durable",
            unit: "lines/s",
            values: vec![kept as f64 / took],
            yardstick: json!({
                "lost": lines - kept,
                "datagrams": super::rounded(kept as f64 / took / load::LINES_A_FRAME as f64),
            }),
        });
    }
    Ok(figures)
}
