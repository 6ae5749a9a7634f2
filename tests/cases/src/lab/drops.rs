//! Packets that a lab kernel drops, while `lastgasp trace drops` counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use harness::progress;
use harness::vm::Vm;

use super::stories::{Stage, beats};
use crate::native::Counted;

/// Packets of each kind.
const PACKETS: u64 = 300;

/// Ports: nobody listens, nobody reads.
const CLOSED: u16 = 9;
const FULL: u16 = 4000;

/// Where the machine keeps what the program says.
const LOG: &str = "/run/trace.log";

/// It has read the types of an emulated kernel within this, and ends within this.
const READY: Duration = Duration::from_secs(60);

/// See `scenes`.
pub fn lost(stage: &mut Stage) -> Result<()> {
    let mut vm = stage.boot()?;
    for (form, how) in [
        ("btf", "tp_btf"),
        ("raw", "raw_tp"),
        ("tracepoint", "tracepoint"),
    ] {
        count(&mut vm, form, how).with_context(|| format!("--attach {form}"))?;
    }
    beats(&mut vm, 2)?;
    stage.no_death()
}

fn count(vm: &mut Vm, form: &str, how: &str) -> Result<()> {
    vm.ask(&format!(
        "sh /lastgasp trace drops -o json --attach {form} >{LOG} 2>&1 & echo $! >/run/trace.pid"
    ))?;
    let begin = said(vm, "\"begin\"")?;
    ensure!(begin.contains(&format!("\"{how}\"")), "{begin}");
    vm.ask(&format!("lose {CLOSED} {PACKETS}"))?;
    let waited: u64 = vm.ask(&format!("overfill {FULL} {PACKETS}"))?.parse()?;
    ensure!(waited > 0 && waited < PACKETS, "{waited} had room");
    vm.ask("sh read pid </run/trace.pid; kill -TERM $pid")?;
    said(vm, "\"end\"")?;
    let text = vm.ask(&format!("output 10000 /bin/busybox cat {LOG}"))?;
    let counted = Counted::parse(&text.replace('\x1e', "\n"))?;

    let found = of_host(&counted);
    // Kernels before 5.17 give no reasons; the function has to do.
    let reasons = counted.drops.iter().any(|d| d["reason"] != "not given");
    let (closed, full) = if reasons {
        ("NO_SOCKET", "SOCKET_RCVBUFF")
    } else {
        ("__udp4_lib_rcv", "udp_queue_rcv_one_skb")
    };
    progress::say(&format!("{how}: {found:?}"));
    for (what, packets) in [(closed, PACKETS), (full, PACKETS - waited)] {
        ensure!(
            found.get(what) == Some(&packets),
            "{packets} of {what} were lost, and found {found:?}"
        );
    }
    for lack in ["no_room", "missed"] {
        let packets = counted.end(lack);
        ensure!(packets == 0, "{packets} packets are in {lack}");
    }
    Ok(())
}

/// Waits until the program has said it, and gives that line.
fn said(vm: &mut Vm, part: &str) -> Result<String> {
    let until = Instant::now() + READY;
    loop {
        let line = vm.ask(&format!("last {LOG} {part}"))?;
        if !line.is_empty() {
            return Ok(line);
        }
        if Instant::now() > until {
            bail!("no {part}; it said {}", vm.ask(&format!("last {LOG}"))?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// UDP packets of the machine itself, by reason, or by function where there is none.
fn of_host(counted: &Counted) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let of_host = |d: &&serde_json::Value| d["netns_name"] == "host" && d["protocol"] == "udp";
    for drops in counted.drops.iter().filter(of_host) {
        let of = match drops["reason"].as_str() {
            Some("not given") | None => {
                drops["function"].as_str().and_then(|f| f.split('+').next())
            }
            reason => reason,
        };
        let of = of.unwrap_or_default().to_owned();
        *found.entry(of).or_default() += drops["packets"].as_u64().unwrap_or(0);
    }
    found
}
