//! The crash kernel: loading one, and being PID 1 of it.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::machine;

/// kexec_file_load(2); libc does not have its number everywhere.
#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: libc::c_long = 320;
#[cfg(target_arch = "aarch64")]
const SYS_KEXEC_FILE_LOAD: libc::c_long = 294;

/// The kernel, what it boots into, and its command line; made with the initramfs.
const KERNEL: &str = "/crash/kernel";
const INITRAMFS: &str = "/crash/initramfs";
const COMMAND_LINE: &str = "/crash/command-line";

/// The memory of the kernel that died.
const MEMORY: &str = "/proc/vmcore";

/// `KEXEC_FILE_ON_CRASH` (include/uapi/linux/kexec.h).
const ON_CRASH: libc::c_ulong = 2;

/// Loads the crash kernel, which takes over when this one dies.
pub(crate) fn load() -> Result<()> {
    let kernel = File::open(KERNEL).context("this machine has no crash kernel")?;
    let initramfs = File::open(INITRAMFS)?;
    let command_line = CString::new(fs::read_to_string(COMMAND_LINE)?)?;
    // SAFETY: both descriptors are open, the command line ends in NUL and its
    // length counts that.
    let result = unsafe {
        libc::syscall(
            SYS_KEXEC_FILE_LOAD,
            kernel.as_raw_fd(),
            initramfs.as_raw_fd(),
            command_line.as_bytes_with_nul().len(),
            command_line.as_ptr(),
            ON_CRASH,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("kexec_file_load");
    }
    Ok(())
}

/// Whether this is the crash kernel.
pub(crate) fn is_here() -> bool {
    Path::new(MEMORY).exists()
}

/// Saves the log of the kernel that died, as kdump-utils does, and reboots.
pub(crate) fn save() -> Result<()> {
    let dir = Path::new(machine::STATE).join("crash/127.0.0.1-now");
    fs::create_dir_all(&dir)?;
    let unfinished = dir.join("vmcore-dmesg-incomplete.txt");
    let log = File::create(&unfinished)?;
    let status = Command::new("/sbin/vmcore-dmesg")
        .arg(MEMORY)
        .stdout(log.try_clone()?)
        .status()
        .context("cannot run vmcore-dmesg")?;
    if !status.success() {
        bail!("vmcore-dmesg: {status}");
    }
    log.sync_all()?;
    fs::rename(unfinished, dir.join("vmcore-dmesg.txt"))?;
    File::open(&dir)?.sync_all()?;
    machine::reboot(libc::LINUX_REBOOT_CMD_RESTART)?;
    Ok(())
}
