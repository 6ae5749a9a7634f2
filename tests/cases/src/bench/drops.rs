//! What it costs to count the packets that the kernel drops, a packet.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use harness::borrowed;
use harness::cache::Cache;
use harness::tool::BPFTRACE;
use lastgasp::kernel::sched;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Figure, rounded};
use crate::native::{Net, Side, Trace, with_tracefs};
use crate::node;

/// The CPU that sends, and so drops.
const SENDER: u32 = 1;
/// Packets that are dropped in a run.
const PACKETS: u64 = 500_000;

/// Who looks at each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// Nobody.
    Nobody,
    /// A program that does nothing, attached in this form.
    Empty(&'static str),
    /// `lastgasp trace drops`, in this form.
    Ours(&'static str),
    /// bpftrace, counting by reason.
    Bpftrace,
}

/// All of them, each behind what it is held against.
const ALL: [By; 7] = [
    By::Nobody,
    By::Empty("btf"),
    By::Ours("btf"),
    By::Empty("raw"),
    By::Ours("raw"),
    By::Ours("tracepoint"),
    By::Bpftrace,
];

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Empty(_) => "an empty program",
            Self::Ours(_) => "lastgasp trace drops",
            Self::Bpftrace => "bpftrace",
        }
    }

    fn form(self) -> &'static str {
        match self {
            Self::Nobody => "",
            Self::Empty(form) | Self::Ours(form) => form,
            Self::Bpftrace => "tracepoint",
        }
    }
}

/// Nanoseconds a packet, one a run.
#[derive(Debug)]
struct Measured {
    by: By,
    ns: Vec<f64>,
}

/// Measures on this machine, each of them in turn, so often. Takes root.
pub fn run(runs: usize) -> Result<Vec<Figure>> {
    let net = Net::new()?;
    sched::pin(SENDER)?;
    let cache = Cache::open()?;
    let mut all: Vec<Measured> = ALL.map(|by| Measured { by, ns: Vec::new() }).into();
    // The first round is for whatever is done once.
    for round in 0..=runs {
        let mut left = Vec::new();
        for mut measured in all {
            match ns_a_packet(&net, &cache, measured.by) {
                Ok(ns) if round > 0 => measured.ns.push(ns),
                Ok(_) => {}
                Err(error) if measured.by == By::Bpftrace => {
                    println!("SKIPPED: bpftrace: {error:#}");
                    continue;
                }
                Err(error) => return Err(error.context(format!("{:?}", measured.by))),
            }
            left.push(measured);
        }
        all = left;
    }
    Ok(figures(&all))
}

fn figures(all: &[Measured]) -> Vec<Figure> {
    let median = |wanted: By| {
        let found = all.iter().find(|measured| measured.by == wanted)?;
        let mut ns = found.ns.clone();
        ns.sort_by(f64::total_cmp);
        ns.get(ns.len() / 2).copied()
    };
    let nobody = median(By::Nobody).unwrap_or(f64::NAN);
    all.iter()
        .map(|measured| {
            // What the classic form is held against has none of its own.
            let form = Some(measured.by.form()).filter(|form| *form != "tracepoint");
            let empty = median(By::Empty(form.unwrap_or("raw"))).unwrap_or(f64::NAN);
            let cost = |ns: f64| ns - nobody;
            let own = median(measured.by).unwrap_or(f64::NAN);
            Figure {
                case: json!({
                    "by": measured.by.name(), "form": measured.by.form(), "packets": PACKETS,
                }),
                metric: "cost",
                unit: "ns a drop",
                values: measured.ns.iter().copied().map(cost).collect(),
                yardstick: json!({
                    "a_dropped_packet": rounded(own),
                    "without": rounded(nobody),
                    "empty_program": rounded(cost(empty)),
                    "ratio_to_empty_program": rounded(cost(own) / cost(empty)),
                    "ratio_of_a_dropped_packet": rounded(own / empty),
                }),
            }
        })
        .collect()
}

fn ns_a_packet(net: &Net, cache: &Cache, by: By) -> Result<f64> {
    let drop_all = || net.inside(Side::Server, lose);
    match by {
        By::Nobody => Ok(drop_all()?.ns_a_packet),
        By::Empty(form) => {
            let mut guest = Command::new(node::binary("LASTGASP_GUEST")?);
            guest.args(["empty-tracepoint", form, "kfree_skb"]);
            let beside = Beside::start(guest)?;
            let lost = drop_all()?;
            beside.finish()?;
            Ok(lost.ns_a_packet)
        }
        By::Ours(form) => {
            let trace = Trace::start(&["--attach", form])?;
            let lost = drop_all()?;
            let counted = trace.finish()?;
            let here = net.number(Side::Server)?;
            let found: u64 = counted.inside(here).values().sum();
            ensure!(
                found == lost.packets && counted.end("missed") == 0,
                "{found} packets counted, and the kernel counted {}",
                lost.packets
            );
            Ok(lost.ns_a_packet)
        }
        By::Bpftrace => {
            let mut bpftrace = borrowed::command(cache, BPFTRACE, "usr/bin/bpftrace")?;
            bpftrace.args([
                "-e",
                "tracepoint:skb:kfree_skb { @[args.reason] = count(); } \
                 interval:ms:100 { printf(\"attached\\n\"); }",
            ]);
            let beside = Beside::start(with_tracefs(&bpftrace)?)?;
            let lost = drop_all()?;
            let said = beside.finish()?;
            let counts = said.lines().filter_map(|line| line.strip_prefix("@["));
            let counts = counts.filter_map(|line| line.split_once("]: ")?.1.parse::<u64>().ok());
            let found: u64 = counts.sum();
            ensure!(found >= lost.packets, "bpftrace counted {found}: {said}");
            Ok(lost.ns_a_packet)
        }
    }
}

/// What was lost.
#[derive(Clone, Copy, Debug)]
struct Lost {
    /// As the kernel counts it.
    packets: u64,
    ns_a_packet: f64,
}

/// Sends to a socket that is full.
fn lose() -> Result<Lost> {
    let full = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sender.connect(full.local_addr()?)?;
    let before = dropped()?;
    while dropped()? == before {
        sender.send(b"lost")?;
    }
    let full_at = dropped()?;
    let began = Instant::now();
    for _ in 0..PACKETS {
        sender.send(b"lost")?;
    }
    let took = began.elapsed();
    let after = dropped()?;
    ensure!(
        after - full_at == PACKETS,
        "{} of {PACKETS} packets were dropped",
        after - full_at
    );
    Ok(Lost {
        packets: after - before,
        ns_a_packet: took.as_nanos() as f64 / PACKETS as f64,
    })
}

/// Datagrams for which a socket of this namespace had no room (`UDP_MIB_RCVBUFERRORS`).
fn dropped() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next(), lines.next());
    let mut fields = names
        .unwrap_or_default()
        .split(' ')
        .zip(values.unwrap_or_default().split(' '));
    let found = fields.find(|(name, _)| *name == "RcvbufErrors");
    Ok(found.context("the kernel does not count them")?.1.parse()?)
}

/// Something that says `attached` once it looks at packets.
struct Beside {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Beside {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let said = child.stdout.take().context("has no output")?;
        let mut beside = Self {
            child,
            said: BufReader::new(said),
        };
        let mut line = String::new();
        while line.trim() != "attached" {
            line.clear();
            if beside.said.read_line(&mut line)? == 0 {
                let mut why = String::new();
                if let Some(mut stderr) = beside.child.stderr.take() {
                    stderr.read_to_string(&mut why)?;
                }
                bail!("it does not attach: {}", why.trim());
            }
        }
        Ok(beside)
    }

    /// Ends it; the rest of what it says.
    fn finish(mut self) -> Result<String> {
        // One of them waits for that, the other one for a signal.
        drop(self.child.stdin.take());
        // It may have ended by then.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let mut said = String::new();
        self.said.read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended; then both fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
