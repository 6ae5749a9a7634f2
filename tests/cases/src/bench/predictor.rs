//! What looking at packets costs that the kernel takes apart, a call.

use anyhow::{Context as _, Result, ensure};
use harness::cache::Cache;
use harness::kernels;
use harness::vm::Vm;
use serde_json::json;

use super::Figure;
use crate::node;

/// Traffic of each kind for so long (`tests/guest/src/roads.rs`).
const SENT_MS: u64 = 5_000;
/// Fewer calls are no hot traffic.
const LEAST: u64 = 1_000;

/// Time and runs of a program.
#[derive(Clone, Copy, Debug)]
struct Runs {
    ns: u64,
    runs: u64,
}

impl Runs {
    fn of(vm: &mut Vm, name: &str) -> Result<Self> {
        let all = vm.ask("bpf-runs")?;
        let of_it = |text: &str| -> Option<Self> {
            let (found, numbers) = text.split_once(':')?;
            let (ns, runs) = numbers.split_once(':').filter(|_| found == name)?;
            let (ns, runs) = (ns.parse().ok()?, runs.parse().ok()?);
            Some(Self { ns, runs })
        };
        let found = all.split(' ').find_map(of_it);
        found.with_context(|| format!("no program {name} in {all:?}"))
    }

    /// Nanoseconds a call since `before`.
    fn each_ns(self, before: Self) -> f64 {
        (self.ns - before.ns) as f64 / (self.runs - before.runs).max(1) as f64
    }
}

/// Measures in a lab machine of two CPUs, on the same calls as an empty program. Time is that
/// of an emulated processor: hold it against the empty one, not a clock.
pub fn run(kernel: &str, runs: usize) -> Result<Vec<Figure>> {
    let cache = Cache::open()?;
    let kernel = kernels::named(kernel)?.get(&cache)?;
    let mut machine = node::machine(&cache, &kernel, 2)?;
    machine.limit *= 1 + runs as u32;
    let mut vm = Vm::boot(&machine)?;
    node::start_agent(&mut vm, "--predict-cost-max 100")?;
    vm.ask("write /proc/sys/kernel/bpf_stats_enabled 1")?;
    vm.ask("empty-probe skb_segment")?;
    let mut figures = Vec::new();
    for (kind, traffic) in [
        ("tcp", "a TCP connection, forwarded"),
        ("udp", "datagrams in batches, forwarded"),
    ] {
        let (mut ours, mut empty, mut calls) = (Vec::new(), Vec::new(), 0);
        for _ in 0..runs {
            let programs = |vm: &mut Vm| -> Result<[Runs; 2]> {
                Ok([Runs::of(vm, "fe_skb_segment")?, Runs::of(vm, "empty")?])
            };
            let before = programs(&mut vm)?;
            vm.ask(&format!("between-pods {kind} {SENT_MS}"))?;
            let after = programs(&mut vm)?;
            calls = after[0].runs - before[0].runs;
            ensure!(
                calls > LEAST,
                "only {calls} packets of {kind} were taken apart"
            );
            ours.push(after[0].each_ns(before[0]));
            empty.push(after[1].each_ns(before[1]));
        }
        let yardstick = Figure {
            case: json!({}),
            metric: "cost",
            unit: "ns",
            values: empty,
            yardstick: json!({}),
        };
        figures.push(Figure {
            case: json!({
                "kernel": kernel.release, "processor": "emulated", "traffic": traffic, "calls": calls,
            }),
            metric: "cost",
            unit: "ns a call",
            values: ours,
            yardstick: json!({"empty_program": super::rounded(yardstick.median())}),
        });
    }
    Ok(figures)
}
