//! A node that says what a dying kernel says, datagram by datagram: sealed as
//! the agent seals them, sent over loopback.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use agent_core::model::{
    BootId, Context as CpuContext, HoldPoint, Inventory, NodeName, Notice, PreviousBoot,
};
use anyhow::{Context, Result};
use lastgasp::gasp::protocol::{Draft, Identity, Key, Kind, MAX_FRAME, Sealer, Stamp, WordParts};

use super::process::KEY;

/// A kernel that dies of a NULL pointer in a soft interrupt, as 6.1 prints it.
pub const NULL_POINTER: [&str; 9] = [
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "#PF: supervisor write access in kernel mode",
    "Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "CPU: 1 PID: 0 Comm: swapper/1 Tainted: G           OE      6.1.0-53-cloud-amd64 #1",
    "RIP: 0010:boom_timer+0x12/0x34 [boom]",
    "Call Trace:",
    " call_timer_fn+0x27/0x130",
    " __run_timers+0x223/0x2c0",
    "---[ end trace 0000000000000000 ]---",
];

/// What follows with `panic_on_oops`.
pub const PANIC: &str = "Kernel panic - not syncing: Fatal exception in interrupt";

/// One agent process of one boot.
#[derive(Debug)]
pub struct Speaker {
    sealer: Sealer,
    socket: UdpSocket,
    seq: u64,
    lines: u64,
}

impl Speaker {
    /// An agent on this node that sends to `collector`; `boot` tells the
    /// node's boots apart.
    pub fn new(node: &str, boot: u8, collector: SocketAddr) -> Result<Self> {
        // The receiver tells agents apart by boot and session, and the boots of
        // these nodes are all alike.
        let mut hasher = DefaultHasher::new();
        (node, boot).hash(&mut hasher);
        let identity = Identity {
            node: NodeName::new(node).context("not a node name")?,
            node_uid: None,
            boot: BootId([boot; 16]),
            session: hasher.finish(),
            key_id: 0,
        };
        let key = Key::new(KEY).context("a key of 32 bytes")?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(collector)?;
        Ok(Self {
            sealer: Sealer::new(&identity, &key),
            socket,
            seq: 0,
            lines: 0,
        })
    }

    /// The agent is up, and this is what it found of the boot before.
    pub fn hello(&mut self, mono_ms: u64, previous: Option<PreviousBoot>) -> Result<()> {
        self.introduce(
            mono_ms,
            &Inventory {
                previous,
                ..Inventory::default()
            },
        )
    }

    /// The agent is up, and this is what its boot is made of.
    pub fn introduce(&mut self, mono_ms: u64, inventory: &Inventory) -> Result<()> {
        let inventory = serde_json::to_vec(inventory)?;
        self.send(Kind::Hello, mono_ms, |draft| {
            draft.bytes(&inventory);
        })
    }

    /// The agent was told to stop.
    pub fn goodbye(&mut self, mono_ms: u64) -> Result<()> {
        self.send(Kind::Goodbye, mono_ms, |_| {})
    }

    /// The node lives, `mono_ms` after its boot.
    pub fn heartbeat(&mut self, mono_ms: u64) -> Result<()> {
        self.send(Kind::Heartbeat, mono_ms, |_| {})
    }

    /// The kernel lived on.
    pub fn survived(&mut self, mono_ms: u64) -> Result<()> {
        self.send(Kind::Survived, mono_ms, |_| {})
    }

    /// First words of what happens in a process.
    pub fn word(&mut self, notice: Notice, mono_ms: u64, line: &str) -> Result<()> {
        self.say(CpuContext::Process, 7, notice, mono_ms, line)
    }

    fn say(
        &mut self,
        context: CpuContext,
        pid: u32,
        notice: Notice,
        mono_ms: u64,
        line: &str,
    ) -> Result<()> {
        self.send(Kind::Word, mono_ms, |draft| {
            draft.word(&WordParts {
                notice,
                context,
                cpu: 1,
                pid,
                at_ns: mono_ms * 1_000_000,
                held_ns: 0,
                held_at: HoldPoint::None,
                holds_expired: 0,
                asked: None,
                packet: None,
                comm: b"swapper/1",
                line: line.as_bytes(),
            });
        })
    }

    /// Log lines, all in one frame.
    pub fn lines(&mut self, mono_ms: u64, lines: &[&str]) -> Result<()> {
        let first = self.lines;
        self.lines += lines.len() as u64;
        self.send(Kind::Lines, mono_ms, |draft| {
            for (seq, line) in (first..).zip(lines) {
                draft.line(seq, mono_ms * 1_000_000, 1, 0, 0, line.as_bytes());
            }
        })
    }

    /// All that a kernel says that dies of [`NULL_POINTER`] in an interrupt.
    pub fn die(&mut self, mono_ms: u64) -> Result<()> {
        let at = CpuContext::Softirq;
        self.say(at, 0, Notice::Oops, mono_ms, NULL_POINTER[0])?;
        self.lines(mono_ms, &NULL_POINTER)?;
        self.say(at, 0, Notice::Panic, mono_ms + 1, PANIC)?;
        self.lines(mono_ms + 1, &[PANIC])
    }

    fn send(&mut self, kind: Kind, mono_ms: u64, fill: impl FnOnce(&mut Draft<'_>)) -> Result<()> {
        self.seq += 1;
        let mut frame = [0; MAX_FRAME];
        let mut draft = self.sealer.begin(&mut frame, kind);
        fill(&mut draft);
        let len = draft.seal(Stamp {
            seq: self.seq,
            mono_ns: mono_ms * 1_000_000,
            wall_ns: lastgasp::annotate::now().0 * 1_000_000,
            fragment: (0, 1),
            below_udp: false,
        });
        self.socket.send(&frame[..len])?;
        Ok(())
    }
}
