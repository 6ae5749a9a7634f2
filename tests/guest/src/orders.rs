//! Orders to stop the machine, by somebody who can be named: a process in a cgroup
//! as a pod's container has, and PID 1 that is told to by one.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use ways::{By, End, POD_CGROUPS};

use crate::machine;

/// Where cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// reboot(2) for this end.
pub(crate) fn order(end: End) -> io::Result<()> {
    machine::reboot(match end {
        End::Restart => libc::LINUX_REBOOT_CMD_RESTART,
        End::PowerOff => libc::LINUX_REBOOT_CMD_POWER_OFF,
        End::Halt => libc::LINUX_REBOOT_CMD_HALT,
        End::Kexec => libc::LINUX_REBOOT_CMD_KEXEC,
    })
}

/// Has somebody in the pod do so.
pub(crate) fn by_pod(by: By) -> Result<()> {
    match by {
        By::Process(end) => as_process(c"reboot", move || order(end)),
        By::Signal(signal) => {
            machine::on_signal(signal)?;
            as_process(c"kured", move || machine::signal(1, signal))
        }
        By::Command(command) => run_by_pod(command),
    }
}

/// Makes the cgroup, if it is not there, and gives the file that takes processes in.
fn pod_cgroup() -> Result<String> {
    if !Path::new(CGROUPS).join("cgroup.procs").exists() {
        machine::mount("cgroup2", "cgroup2", CGROUPS)?;
    }
    let path = format!("{CGROUPS}/{}", POD_CGROUPS.join("/"));
    fs::create_dir_all(&path).with_context(|| format!("cannot make {path}"))?;
    Ok(format!("{path}/cgroup.procs"))
}

/// Does it in a process of its own, of this name, in the pod's cgroup.
fn as_process(name: &CStr, body: impl FnOnce() -> io::Result<()>) -> Result<()> {
    let cgroup = pod_cgroup()?;
    machine::in_child(|| {
        machine::name(name);
        // Who cannot do this says nothing of itself; the verdict will.
        let _ = fs::write(&cgroup, "0").and_then(|()| body());
    })?;
    Ok(())
}

/// Runs a command of this name, which does nothing, to its end, in the pod.
pub(crate) fn run_by_pod(command: &str) -> Result<()> {
    let procs = pod_cgroup()?;
    let (name, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let program = format!("/run/{name}");
    if !Path::new(&program).exists() {
        symlink("/init", &program)?;
    }
    let mut command = Command::new(&program);
    command.args(arguments.split(' ')).arg0(name);
    // SAFETY: the child writes a file before it becomes the command.
    unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    let status = command.output()?.status;
    if status.success() {
        bail!("{name} is not meant to do anything here");
    }
    Ok(())
}
