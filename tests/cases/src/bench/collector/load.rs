//! Datagrams made beforehand, and sent at a rate.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use agent_core::model::{BootId, NodeName};
use anyhow::{Context as _, Result};
use lastgasp::gasp::protocol::{Identity, Key, Kind, MAX_FRAME, Sealer, Stamp};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

/// The key of all nodes here.
pub(super) const KEY: &[u8] = b"the key of the collector's bench";

/// Datagrams of one host that leave together: one system call for all of them,
/// which the kernel cuts apart (`UDP_SEGMENT`). Else the sender is the limit.
const TURN: usize = 16;
/// Most bytes of one such call: what fits a datagram.
const TURN_BYTES: usize = 65_000;
/// Lines of a log in a full frame, and in one of a storm.
pub(super) const LINES_A_FRAME: usize = 10;
/// What a kernel says while it dies, as long as such lines are on average.
const TEXT: &str =
    " asm_exc_page_fault+0x26/0x30 RIP: 0010:boom_timer+0x12/0x34 [boom] Code: 48 89 e5 0f";

/// What a kernel says while it lives.
const PLAIN: &str =
    "eth0: renamed from veth5c9e7a1, carrier up, queueing discipline noqueue, group default";

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// A node lives.
    Heartbeats,
    /// A node dies: frames of ten lines.
    Gasps,
    /// The same with a line a frame.
    ShortGasps,
    /// A line of a kernel's log by netconsole, in extended format.
    Netconsole,
    /// A line of text, as syslog has it.
    Syslog,
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Heartbeats => "heartbeats",
            Self::Gasps => "gasps",
            Self::ShortGasps => "short gasps",
            Self::Netconsole => "netconsole",
            Self::Syslog => "syslog",
        }
    }
}

/// Datagrams of one length, host after host.
pub(super) struct Load {
    pub(super) what: What,
    pub(super) hosts: usize,
    /// Number of the first host: two loads beside each other have others.
    first: usize,
    pub(super) size: usize,
    bytes: Vec<u8>,
}

impl Load {
    /// Makes `count` datagrams of `hosts` nodes, the numbers of each node in order.
    pub(super) fn new(what: What, hosts: usize, count: usize) -> Result<Self> {
        Self::from(0, what, hosts, count)
    }

    /// The same, of other nodes.
    pub(super) fn from(first: usize, what: What, hosts: usize, count: usize) -> Result<Self> {
        let key = Key::new(KEY).context("the key is too short")?;
        let mut sealers = Vec::new();
        for host in first..first + hosts {
            let mut boot = [7; 16];
            boot[..8].copy_from_slice(&(host as u64).to_le_bytes());
            let identity = Identity {
                node: NodeName::new(&name(host)).context("no node name")?,
                node_uid: None,
                boot: BootId(boot),
                session: host as u64 + 1,
                key_id: 0,
            };
            sealers.push(Sealer::new(&identity, &key));
        }
        let mut load = Self {
            what,
            hosts,
            first,
            size: 0,
            bytes: Vec::new(),
        };
        for at in 0..count {
            load.push(at, &sealers[at % hosts]);
        }
        Ok(load)
    }

    fn push(&mut self, at: usize, sealer: &Sealer) {
        let of_host = (at / self.hosts) as u64;
        let mut buf = [0; MAX_FRAME];
        let (kind, lines) = match self.what {
            What::Heartbeats => (Kind::Heartbeat, 0),
            What::Gasps => (Kind::Lines, LINES_A_FRAME as u64),
            What::ShortGasps => (Kind::Lines, 1),
            What::Netconsole => {
                // Who speaks is known by the source, which is that of a turn.
                let turn = at / TURN;
                let seq = turn / self.hosts * TURN + at % TURN;
                let line = format!("6,{seq:08},{:012},-;{PLAIN}\n", 1_000 * seq);
                self.size = line.len();
                self.bytes.extend_from_slice(line.as_bytes());
                return;
            }
            What::Syslog => {
                let node = name(self.first + at % self.hosts);
                let line = format!("<4>Nov 21 20:00:00 {node} kernel: {of_host:08} {TEXT}");
                self.size = line.len();
                self.bytes.extend_from_slice(line.as_bytes());
                return;
            }
        };
        let mut draft = sealer.begin(&mut buf, kind);
        for line in 0..lines {
            let seq = of_host * lines + line;
            draft.line(seq, 1_000 * seq, 1, 4, 0, TEXT.as_bytes());
        }
        self.size = draft.seal(Stamp {
            seq: of_host + 1,
            mono_ns: 1_000_000 * (of_host + 1),
            wall_ns: 0,
            fragment: (0, 1),
            below_udp: false,
        });
        self.bytes.extend_from_slice(&buf[..self.size]);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// All of them.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.size)
    }

    /// One system call each.
    fn turns(&self) -> impl Iterator<Item = &[u8]> {
        let turn = TURN.min(TURN_BYTES / self.size);
        self.bytes.chunks(turn * self.size)
    }
}

/// The address that the turns of a host come from.
pub(super) fn source(host: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + host as u32)
}

pub(super) fn name(host: usize) -> String {
    format!("node-{host:05}")
}

/// How a load was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) count: usize,
    pub(super) began: Instant,
    pub(super) took: Duration,
}

impl Sent {
    /// Datagrams a second.
    pub(super) fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// Sends from any address of 127.0.0.0/8.
pub(super) struct Sender {
    socket: UdpSocket,
    to: SockaddrIn,
}

impl Sender {
    pub(super) fn new(port: u16) -> Result<Self> {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Ok(Self {
            socket: UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?,
            to: to.into(),
        })
    }

    /// Sends the first `count` datagrams at `rate` a second; `None`: as fast
    /// as can be.
    pub(super) fn send(&self, load: &Load, count: usize, rate: Option<f64>) -> Result<Sent> {
        let began = Instant::now();
        let mut sent = 0;
        for (at, turn) in load.turns().enumerate() {
            if sent >= count {
                break;
            }
            if let Some(rate) = rate {
                let due = began + Duration::from_secs_f64(sent as f64 / rate);
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
            }
            self.turn(turn, load, at)?;
            sent += turn.len() / load.size;
        }
        Ok(Sent {
            count: sent,
            began,
            took: began.elapsed(),
        })
    }

    /// Sends beside each other: one turn of `few` after `every` turns of `many`.
    pub(super) fn mix(&self, many: &Load, few: &Load, every: usize) -> Result<(usize, usize)> {
        let mut rare = few.turns();
        let (mut of_many, mut of_few) = (0, 0);
        for (at, turn) in many.turns().enumerate() {
            self.turn(turn, many, at)?;
            of_many += turn.len() / many.size;
            if at % every == 0
                && let Some(turn) = rare.next()
            {
                self.turn(turn, few, at)?;
                of_few += turn.len() / few.size;
            }
        }
        Ok((of_many, of_few))
    }

    fn turn(&self, bytes: &[u8], load: &Load, at: usize) -> Result<()> {
        let (size, host) = (load.size as u16, load.first + at % load.hosts);
        let from = nix::libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: nix::libc::in_addr {
                s_addr: u32::from(source(host)).to_be(),
            },
            ipi_addr: nix::libc::in_addr { s_addr: 0 },
        };
        let control = [
            ControlMessage::Ipv4PacketInfo(&from),
            ControlMessage::UdpGsoSegments(&size),
        ];
        sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &control,
            MsgFlags::empty(),
            Some(&self.to),
        )
        .context("cannot send over loopback")?;
        Ok(())
    }
}
