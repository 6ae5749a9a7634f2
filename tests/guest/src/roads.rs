//! Traffic of a node that is well, between network namespaces as pods have them.
//!
//! Each pod has one end of a veth pair, the node the other, and forwards. The node's devices
//! merge what comes in (GRO), and none takes anything apart, so that the kernel has to
//! (`skb_segment`): what a pod sends, and once more what was merged on the way.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::machine;
use crate::netlink::{Netlink, attribute};

const PORT: u16 = 5001;

/// Bytes that a pod hands to the kernel at once, and of one datagram of those.
const CHUNK: usize = 48_000;
const DATAGRAM: libc::c_int = 1_200;

/// What is still on its way arrives within this.
const LATE: Duration = Duration::from_millis(500);

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// A TCP connection.
    Tcp,
    /// The same through a tunnel between the pods.
    Vxlan,
    /// Datagrams, forty in one call (`UDP_SEGMENT`).
    Udp,
}

/// Has one pod send to another for so long; gives how many bytes arrived.
pub(crate) fn between_pods(kind: &str, time: Duration) -> Result<u64> {
    let kind = match kind {
        "tcp" => Kind::Tcp,
        "vxlan" => Kind::Vxlan,
        "udp" => Kind::Udp,
        _ => bail!("tcp, vxlan or udp, not {kind:?}"),
    };
    machine::load(machine::NETWORKS)?;
    let (node, sender, receiver) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let roads = [(&sender, 1), (&receiver, 2)];
    node.inside(|| {
        let netlink = Netlink::open()?;
        for (pod, number) in roads {
            let name = format!("pod{number}");
            pair(&netlink, &name, pod).with_context(|| format!("the veth {name}"))?;
            machine::up(&name, [10, 1, number, 1], [255, 255, 255, 0])?;
            offload::only_merge(&name)?;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding")
    })?;
    for (pod, number) in roads {
        pod.inside(|| {
            machine::up("eth0", [10, 1, number, 2], [255, 255, 255, 0])?;
            machine::default_route([10, 1, number, 1])?;
            offload::only_merge("eth0")?;
            if kind == Kind::Vxlan {
                tunnel(&Netlink::open()?, [10, 1, 3 - number, 2]).context("the tunnel")?;
                machine::up("vxlan0", [10, 2, 0, number], [255, 255, 255, 0])?;
                offload::only_merge("vxlan0")?;
            }
            Ok(())
        })?;
    }
    let to = if kind == Kind::Vxlan {
        Ipv4Addr::new(10, 2, 0, 2)
    } else {
        Ipv4Addr::new(10, 1, 2, 2)
    };
    let is_over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receive = receiver.inside(|| {
            Ok(match kind {
                Kind::Udp => Receive::Udp(UdpSocket::bind(("0.0.0.0", PORT))?),
                Kind::Tcp | Kind::Vxlan => Receive::Tcp(TcpListener::bind(("0.0.0.0", PORT))?),
            })
        })?;
        let counted = scope.spawn(move || receive.count(is_over));
        let sent = sender.inside(|| send(kind, to, time));
        is_over.store(true, Ordering::Relaxed);
        let counted = counted
            .join()
            .unwrap_or_else(|_| bail!("the receiver ended"));
        sent.context("sending").and(counted)
    })
}

fn send(kind: Kind, to: Ipv4Addr, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    let chunk = vec![0x5a; CHUNK];
    if kind == Kind::Udp {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((to, PORT))?;
        offload::datagrams_of(&socket, DATAGRAM)?;
        while Instant::now() < until {
            // Nobody waits for the receiver.
            let _ = socket.send(&chunk);
        }
    } else {
        let mut stream = TcpStream::connect_timeout(&(to, PORT).into(), time)?;
        stream.set_write_timeout(Some(time))?;
        while Instant::now() < until {
            stream.write_all(&chunk)?;
        }
    }
    Ok(())
}

/// Where it arrives.
enum Receive {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Receive {
    /// Bytes, until the sender is done.
    fn count(&self, is_over: &AtomicBool) -> Result<u64> {
        let mut buffer = vec![0; 1 << 16];
        let mut all = 0;
        match self {
            Self::Tcp(listener) => {
                // A sender that never comes is the sender's error.
                listener.set_nonblocking(true)?;
                let mut stream = loop {
                    match listener.accept() {
                        Ok((stream, _)) => break stream,
                        Err(_) if is_over.load(Ordering::Relaxed) => return Ok(0),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                };
                stream.set_nonblocking(false)?;
                while let len @ 1.. = stream.read(&mut buffer)? {
                    all += len as u64;
                }
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(LATE))?;
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(len) => all += len as u64,
                        Err(_) if is_over.load(Ordering::Relaxed) => break,
                        Err(_) => {}
                    }
                }
            }
        }
        Ok(all)
    }
}

/// A network namespace, for as long as this is kept.
struct Namespace(File);

impl Namespace {
    fn new() -> Result<Self> {
        on_a_thread(|| {
            // SAFETY: a number; of this thread alone.
            machine::check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
                .context("a network namespace")?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        })
    }

    /// Does something in it.
    fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            // SAFETY: a descriptor of a namespace, and which kind; of this thread alone.
            machine::check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
                .context("going to a network namespace")?;
            body()
        })
    }
}

/// On one of its own, whose namespace may be another one.
fn on_a_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(body);
        thread.join().unwrap_or_else(|_| bail!("a thread ended"))
    })
}

/// `IFLA_*` (include/uapi/linux/if_link.h).
const NAME: u16 = 3;
const MTU: u16 = 4;
const KIND_AND_DATA: u16 = 18;
const NAMESPACE: u16 = 28;

/// A device that is not there yet (`struct ifinfomsg`).
const NEW: [u8; 16] = [0; 16];

/// `IFLA_INFO_KIND`, `IFLA_INFO_DATA`.
fn kind_and_data(kind: &[u8], data: &[u8]) -> Vec<u8> {
    attribute(
        KIND_AND_DATA,
        &[attribute(1, kind), attribute(2, data)].concat(),
    )
}

/// A veth pair; its other end is `eth0` in the pod.
fn pair(netlink: &Netlink, name: &str, pod: &Namespace) -> Result<()> {
    /// `VETH_INFO_PEER` (include/uapi/linux/veth.h).
    const PEER: u16 = 1;
    let fd = (pod.0.as_raw_fd() as u32).to_ne_bytes();
    let peer = [
        &NEW[..],
        &attribute(NAME, b"eth0\0"),
        &attribute(NAMESPACE, &fd),
    ]
    .concat();
    let name = [name.as_bytes(), b"\0"].concat();
    let body = [
        NEW.to_vec(),
        attribute(NAME, &name),
        kind_and_data(b"veth", &attribute(PEER, &peer)),
    ];
    netlink.create(libc::RTM_NEWLINK, &body.concat())
}

/// `vxlan0`, whose other end is at an address.
fn tunnel(netlink: &Netlink, to: [u8; 4]) -> Result<()> {
    /// `IFLA_VXLAN_ID`, `_GROUP` (also of one address), `_PORT`.
    const ID: u16 = 1;
    const GROUP: u16 = 2;
    const TO_PORT: u16 = 15;
    let data = [
        attribute(ID, &1_u32.to_ne_bytes()),
        attribute(GROUP, &to),
        attribute(TO_PORT, &4789_u16.to_be_bytes()),
    ];
    let body = [
        NEW.to_vec(),
        attribute(NAME, b"vxlan0\0"),
        attribute(MTU, &1450_u32.to_ne_bytes()),
        kind_and_data(b"vxlan", &data.concat()),
    ];
    netlink.create(libc::RTM_NEWLINK, &body.concat())
}

/// What devices do to packets by themselves (include/uapi/linux/ethtool.h).
mod offload {
    use std::mem::zeroed;

    use super::*;

    const GET_STRINGS: u32 = 0x1b;
    const GET_COUNTS: u32 = 0x37;
    const SET_FEATURES: u32 = 0x3b;
    /// `ETH_SS_FEATURES`.
    const FEATURES: u32 = 4;
    /// `ETH_GSTRING_LEN`, and more of them than a kernel has.
    const NAME_LEN: usize = 32;
    const NAMES: usize = 256;

    /// `struct ethtool_sset_info`, asked for one set.
    #[repr(C)]
    struct Counts {
        command: u32,
        reserved: u32,
        sets: u64,
        count: u32,
    }

    /// `struct ethtool_gstrings`.
    #[repr(C)]
    struct Strings {
        command: u32,
        set: u32,
        len: u32,
        names: [[u8; NAME_LEN]; NAMES],
    }

    /// `struct ethtool_sfeatures`: which are to change, and to what, by the word.
    #[repr(C)]
    struct Features {
        command: u32,
        words: u32,
        of: [[u32; 2]; NAMES / 32],
    }

    /// A device takes nothing apart any more, and merges all that it can.
    pub(super) fn only_merge(device: &str) -> Result<()> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        let mut counts = Counts {
            command: GET_COUNTS,
            reserved: 0,
            sets: 1 << FEATURES,
            count: 0,
        };
        ethtool(&socket, device, (&raw mut counts).cast()).context("number of features")?;
        ensure!(counts.count as usize <= NAMES, "too many features");
        // As many as there are, or the kernel gives none.
        let mut strings = Box::new(Strings {
            command: GET_STRINGS,
            set: FEATURES,
            len: counts.count,
            names: [[0; NAME_LEN]; NAMES],
        });
        ethtool(&socket, device, (&raw mut *strings).cast()).context("features of a device")?;
        let len = strings.len.min(counts.count) as usize;
        let mut features = Features {
            command: SET_FEATURES,
            words: len.div_ceil(32) as u32,
            of: [[0; 2]; NAMES / 32],
        };
        for (i, name) in strings.names[..len].iter().enumerate() {
            let name = String::from_utf8_lossy(name);
            let name = name.trim_end_matches('\0');
            let takes_apart = name.starts_with("tx-")
                && (name.ends_with("-segmentation") || name.starts_with("tx-gso-"))
                && name != "tx-generic-segmentation";
            let merges = matches!(name, "rx-gro" | "rx-udp-gro-forwarding");
            if takes_apart || merges {
                let [which, to] = &mut features.of[i / 32];
                *which |= 1 << (i % 32);
                *to |= u32::from(merges) << (i % 32);
            }
        }
        // What cannot be changed is kept, without an error.
        ethtool(&socket, device, (&raw mut features).cast())
            .context("changing features of a device")
    }

    fn ethtool(socket: &UdpSocket, device: &str, what: *mut libc::c_void) -> Result<()> {
        // SAFETY: an all-zero ifreq is valid; `what` is a command with the room that it says
        // it has.
        unsafe {
            let mut request: libc::ifreq = zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = what.cast();
            machine::check(libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                &raw mut request,
            ))?;
        }
        Ok(())
    }

    /// What is sent at once is cut into datagrams of so many bytes.
    pub(super) fn datagrams_of(socket: &UdpSocket, bytes: libc::c_int) -> Result<()> {
        // SAFETY: the option is one int.
        machine::check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })
        .context("UDP_SEGMENT")
    }
}
