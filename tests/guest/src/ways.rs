//! Takes the steps of a way to die (`tests/ways`).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ways::{Step, Way};

use crate::{machine, orders, traffic};

/// The thread that begins grace periods, as kernels with and without preemption call it.
const RCU: [&str; 2] = ["rcu_preempt", "rcu_sched"];

/// Why this machine cannot die so.
pub(crate) fn missing(way: &Way) -> Option<String> {
    if way.is_of_x86() && !cfg!(target_arch = "x86_64") {
        return Some("this is no x86 processor".to_owned());
    }
    let one_cpu = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
    if way.is_of_several_cpus() && one_cpu {
        return Some("this machine has one CPU".to_owned());
    }
    if let Some(file) = way.files().find(|file| !Path::new(file).exists()) {
        return Some(format!("this kernel has no {file}"));
    }
    way.steps.iter().find_map(|step| match *step {
        Step::Need(file, wanted) => {
            let text = fs::read_to_string(file).unwrap_or_default();
            let text = text.trim();
            (text != wanted).then(|| format!("{file} is {text} here"))
        }
        Step::NeedPart(file, part) => {
            let text = fs::read_to_string(file).unwrap_or_default();
            (!text.contains(part)).then(|| format!("{file} has no {part:?} here"))
        }
        _ => None,
    })
}

/// Dies; returns only if that did not work, or if it is survived.
pub(crate) fn die(way: &Way) -> Result<()> {
    for step in way.steps {
        take(step).with_context(|| format!("{step:?}"))?;
    }
    Ok(())
}

fn take(step: &Step) -> Result<()> {
    match *step {
        Step::Write(path, text) => fs::write(path, text)?,
        Step::Module { kind, how } => boom(kind, how)?,
        Step::ModuleInChild { kind, how } => machine::in_child(|| {
            let _ = boom(kind, how);
        })?,
        Step::Order(end) => orders::order(end)?,
        Step::ByPod(by) => orders::by_pod(by)?,
        Step::LoadKernel => machine::load_kernel()?,
        Step::Traffic => traffic::mangled()?,
        Step::Exit => return Err(machine::exit()),
        Step::Down(name) => machine::down(name)?,
        // The host's, and what was looked at before.
        Step::Monitor(_) | Step::Need(..) | Step::NeedPart(..) => {}
        Step::EatMemory => machine::in_child(machine::eat_memory)?,
        Step::RcuElsewhere => machine::keep_off(&RCU)?,
    }
    Ok(())
}

/// Has the crash module do something.
pub(crate) fn boom(kind: &str, how: &str) -> Result<()> {
    machine::insert(Path::new(::ways::MODULE), &format!("kind={kind} how={how}"))
}
