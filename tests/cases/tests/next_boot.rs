//! A kernel dies with its cable pulled, and the next boot says why.

use std::sync::{Mutex, PoisonError};

use agent_core::model::HoldPoint;
use anyhow::{Result, bail, ensure};
use cases::kube::unavailable;
use cases::lab::next_boot::{self, Keeper};
use cases::lab::ways;
use harness::cache::Cache;
use harness::controlplane::Unavailable;
use harness::{kernels, tool::Skip};

/// The kernel of the quick test; others by `LASTGASP_NEXT_BOOT=6.1,7`.
const KERNEL: &str = "6.12";

fn kernels_wanted() -> Vec<String> {
    let set = std::env::var("LASTGASP_NEXT_BOOT").unwrap_or_default();
    let names: Vec<String> = set.split(',').map(str::to_owned).collect();
    if set.is_empty() {
        vec![KERNEL.to_owned()]
    } else {
        names
    }
}

fn run(body: impl Fn(&Cache, &str) -> Result<()>) {
    // More machines than CPUs would only wait for each other.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for kernel in kernels_wanted() {
        let result = Cache::open().and_then(|cache| body(&cache, &kernel));
        match result {
            Err(error) if error.downcast_ref::<Skip>().is_some() => {
                unavailable(&Unavailable::Skip(format!("{error:#}")));
            }
            Err(error) => panic!("{kernel}: {error:?}"),
            Ok(()) => {}
        }
    }
}

fn pstore(keeper: Keeper, way: &str, delete: bool) {
    run(|cache, name| {
        let kernel = kernels::named(name)?.get(cache)?;
        let way = ways::named(way).ok_or_else(|| anyhow::anyhow!("no way {way}"))?;
        let told = next_boot::pstore(cache, &kernel, keeper, way, delete)?;
        println!(
            "{} {} {}: {} after {} ms",
            kernel.release,
            keeper.name(),
            way.name,
            told.line,
            told.ms
        );
        Ok(())
    });
}

#[test]
fn ram_that_outlives_a_reset_tells_why_and_is_let_go_of() {
    pstore(Keeper::Ramoops, "null-softirq", true);
}

#[test]
fn the_firmware_s_error_store_tells_why_and_keeps_its_record() {
    pstore(Keeper::Erst, "sysrq-c", false);
}

#[test]
fn variables_of_the_efi_firmware_tell_why() {
    pstore(Keeper::Efi, "sysrq-c", true);
}

fn kdump(way: &str, after_notifiers: bool, held: HoldPoint) {
    run(|cache, name| {
        let kernel = kernels::named(name)?.get(cache)?;
        let way = ways::named(way).ok_or_else(|| anyhow::anyhow!("no way {way}"))?;
        for _ in 0..3 {
            let told = next_boot::kdump(cache, &kernel, way, after_notifiers)?;
            println!(
                "{} kdump {} held at {:?}: {} after {} ms",
                kernel.release, way.name, told.held_at, told.line, told.ms
            );
            if told.held_at.contains(&held) {
                return Ok(());
            }
            // There is nothing to wait for if all was out before.
            ensure!(told.held_at.is_empty(), "held at {:?}", told.held_at);
        }
        bail!("never held at {held:?}")
    });
}

#[test]
fn a_crash_kernel_saves_the_log_and_the_gasp_goes_out_before_it_takes_over() {
    kdump("null-process", false, HoldPoint::CrashKexec);
}

#[test]
fn a_crash_kernel_that_comes_after_the_notifiers_changes_nothing_of_that() {
    kdump("sysrq-c", true, HoldPoint::CrashStop);
}
