//! Capabilities: which this thread has, and giving them up.

use std::io;

/// A capability that the agent can use, with its number
/// (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Capability {
    /// Raw sockets: frames below UDP.
    NetRaw = 13,
    /// Large receive buffers; features of network devices.
    NetAdmin = 12,
    /// Locked memory.
    IpcLock = 14,
    /// Real-time priority.
    SysNice = 23,
    /// Everything that the others were split from.
    SysAdmin = 21,
    /// Kernel addresses.
    Syslog = 34,
    /// Tracing programs.
    Perfmon = 38,
    /// Loading programs.
    Bpf = 39,
}

impl Capability {
    /// The name that manifests use: `BPF`, `NET_RAW`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetRaw => "NET_RAW",
            Self::NetAdmin => "NET_ADMIN",
            Self::IpcLock => "IPC_LOCK",
            Self::SysNice => "SYS_NICE",
            Self::SysAdmin => "SYS_ADMIN",
            Self::Syslog => "SYSLOG",
            Self::Perfmon => "PERFMON",
            Self::Bpf => "BPF",
        }
    }
}

/// Version 3 of the capability structures: two words of each set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether the calling thread has it in effect.
pub fn have(capability: Capability) -> bool {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both structures are as capget(2) wants them for version 3.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    let bit = capability as u32;
    result == 0 && data[(bit / 32) as usize].effective & (1 << (bit % 32)) != 0
}

/// Gives up all capabilities of the calling thread, and of every thread it
/// starts later, for good.
pub fn drop_all() -> io::Result<()> {
    keep(&[])
}

/// Gives up all but one, likewise.
pub fn keep_only(capability: Capability) -> io::Result<()> {
    keep(&[capability])
}

fn keep(kept: &[Capability]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    for capability in kept {
        let bit = *capability as u32;
        let word = &mut data[(bit / 32) as usize];
        word.effective |= 1 << (bit % 32);
        word.permitted |= 1 << (bit % 32);
    }
    // SAFETY: as above; prctl takes numbers only.
    unsafe {
        // Without this an exec as root would bring them back.
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_the_one_that_it_names_and_others_keep_theirs() {
        let all = [Capability::NetAdmin, Capability::SysNice, Capability::Bpf];
        let before = all.map(have);
        if before.contains(&false) {
            println!("SKIPPED: not root, or with less than all capabilities");
            return;
        }
        let thread = std::thread::spawn(move || {
            keep_only(Capability::NetAdmin).expect("fewer than before");
            let kept = all.map(have);
            drop_all().expect("fewer than before");
            assert!(keep_only(Capability::NetAdmin).is_err(), "for good");
            (kept, all.map(have))
        });
        let (kept, left) = thread.join().expect("no panic");
        assert_eq!((kept, left), ([true, false, false], [false; 3]));
        assert_eq!(all.map(have), before);
    }
}
