//! The ways to die. A new one is one entry here, and one in the lab's
//! expectations (`tests/cases/src/lab/ways.rs`).

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::machine;

/// One way to die.
pub(crate) struct Way {
    /// What the host calls it.
    pub name: &'static str,
    /// Does it; returns only if it did not work, or if it is survived.
    pub die: fn() -> Result<()>,
}

/// Every way.
const ALL: &[Way] = &[
    Way {
        name: "sysrq-c",
        die: || sysrq("c"),
    },
    Way {
        name: "null-process",
        die: || fatal_oops("null", "process"),
    },
    Way {
        name: "null-softirq",
        die: || fatal_oops("null", "softirq"),
    },
    Way {
        name: "bug-softirq",
        die: || boom("bug", "softirq"),
    },
    Way {
        name: "panic-hardirq",
        die: || boom("panic", "hardirq"),
    },
    Way {
        name: "reboot-f",
        die: || machine::reboot(libc::LINUX_REBOOT_CMD_RESTART),
    },
    Way {
        name: "oops-survived",
        die: survived_oops,
    },
    Way {
        name: "panic-all-cpus",
        die: || boom("panic", "all"),
    },
    Way {
        name: "oops-nested",
        die: || fatal_oops("nested", "process"),
    },
    Way {
        name: "ring-full",
        die: || boom("flood", "process"),
    },
    Way {
        name: "agent-thread",
        die: || survived("drain"),
    },
    Way {
        name: "uplink-dead",
        die: uplink_dead,
    },
];

/// The way of this name.
pub(crate) fn named(name: &str) -> Result<&'static Way> {
    let Some(way) = ALL.iter().find(|way| way.name == name) else {
        let names: Vec<&str> = ALL.iter().map(|way| way.name).collect();
        bail!("no way {name}; there are {}", names.join(", "));
    };
    Ok(way)
}

fn sysrq(key: &str) -> Result<()> {
    Ok(fs::write("/proc/sysrq-trigger", key)?)
}

fn boom(kind: &str, how: &str) -> Result<()> {
    machine::insert(
        Path::new("/modules/boom.ko"),
        &format!("kind={kind} how={how}"),
    )
}

fn fatal_oops(kind: &str, how: &str) -> Result<()> {
    fs::write("/proc/sys/kernel/panic_on_oops", "1")?;
    boom(kind, how)
}

/// The words have nowhere to go, and the machine must not wait for that.
fn uplink_dead() -> Result<()> {
    machine::down("eth0")?;
    sysrq("c")
}

fn survived_oops() -> Result<()> {
    survived("process")
}

/// An oops kills the task that it happens in, and a dead PID 1 is a panic: so
/// another process has it.
fn survived(how: &str) -> Result<()> {
    fs::write("/proc/sys/kernel/panic_on_oops", "0")?;
    // SAFETY: the child calls nothing but system calls and its own code, and
    // ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = boom("null", how);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(1) };
    }
    Ok(())
}
