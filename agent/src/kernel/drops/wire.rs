//! Bytes of maps, of the ring and of the kernel's answers, as values.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use agent_common::drops as wire;
use agent_core::drops::Key;

use super::Cost;

/// A key, as the map has it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct WireKey(pub(super) wire::Key);

// SAFETY: `repr(C)`, integers only, and its size, asserted there, is the sum of theirs: no
// padding. Any bytes are one.
unsafe impl aya::Pod for WireKey {}

impl From<WireKey> for Key {
    fn from(WireKey(key): WireKey) -> Self {
        Self {
            reason: key.reason,
            location: key.location,
            netns: key.netns,
            device: key.device,
            protocol: key.protocol,
            transport: key.transport,
        }
    }
}

/// A count, as the map has it for each CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(super) struct WireCount(pub(super) wire::Count);

// SAFETY: as above.
unsafe impl aya::Pod for WireCount {}

/// One packet in detail.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is counted under.
    pub key: Key,
    /// Nanoseconds since boot, without suspend.
    pub mono_ns: u64,
    /// Bytes of it.
    pub len: u32,
    /// `mark`.
    pub mark: u32,
    /// CPU.
    pub cpu: u32,
    /// The queue of the device.
    pub queue: u16,
    /// The VLAN tag beside the packet; zero: none.
    pub vlan: u16,
    /// The size that it is to be cut to; zero: it is one packet.
    pub gso_size: u16,
    /// The device's name, if it still had one.
    pub device: Option<String>,
    /// Its first bytes, from the network header on.
    pub header: Vec<u8>,
    /// Where it was dropped, the innermost first.
    pub stack: Vec<u64>,
}

impl Sample {
    /// Out of the ring; `None` if its size is another.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<wire::Sample>() {
            return None;
        }
        // SAFETY: as many bytes as the structure has, which is `repr(C)` and of integers
        // only, so that any bytes are one; read without alignment.
        let raw = unsafe { bytes.as_ptr().cast::<wire::Sample>().read_unaligned() };
        let device = raw.device.split(|b| *b == 0).next().unwrap_or_default();
        let device = String::from_utf8_lossy(device).into_owned();
        Some(Self {
            key: WireKey(raw.key).into(),
            mono_ns: raw.mono_ns,
            len: raw.len,
            mark: raw.mark,
            cpu: raw.cpu,
            queue: raw.queue,
            vlan: raw.vlan,
            gso_size: raw.gso_size,
            device: (!device.is_empty()).then_some(device),
            header: raw
                .header
                .iter()
                .take(raw.header_len.into())
                .copied()
                .collect(),
            stack: raw
                .stack
                .iter()
                .take(raw.stack_len as usize)
                .copied()
                .collect(),
        })
    }
}

/// What the kernel says of a program.
pub(super) struct Info {
    pub(super) cost: Cost,
    /// Calls that it left out, as the program was at work on that CPU.
    pub(super) missed: u64,
}

/// `BPF_OBJ_GET_INFO_BY_FD` (include/uapi/linux/bpf.h).
const GET_INFO: libc::c_int = 15;

/// Where in `struct bpf_prog_info` is `run_time_ns`, in words; `run_cnt` and
/// `recursion_misses` (5.12) follow. What a kernel does not know stays zero.
const RUN_TIME: usize = 24;

/// Asks for it.
pub(super) fn info(program: &OwnedFd) -> io::Result<Info> {
    #[repr(C)]
    struct Attribute {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0_u64; RUN_TIME + 3];
    let mut attribute = Attribute {
        fd: program.as_raw_fd() as u32,
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attribute is as bpf(2) wants it for this command. It writes at most `len`
    // bytes to `info`, which is that long; the addresses and lengths in it that the kernel
    // would follow are zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_INFO,
            &raw mut attribute,
            size_of::<Attribute>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Info {
        cost: Cost {
            ns: info[RUN_TIME],
            calls: info[RUN_TIME + 1],
        },
        missed: info[RUN_TIME + 2],
    })
}
