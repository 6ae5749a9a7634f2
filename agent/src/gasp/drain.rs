//! The crash path in user space: threads that read the crash ring and send.
//!
//! Each thread is pinned to a CPU of its own and shares nothing with the other
//! but the ring, its acknowledgement and the counter of frames. From the moment
//! a death is declared nothing here allocates, locks, logs or formats.

use std::io;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent_common::{FLAG_CONTINUES, KIND_LINE, KIND_MARK};
use agent_core::model::{Context, HoldPoint, Notice};

use super::cause;
use super::link::{Link, MAX_WIRE};
use super::protocol::{Draft, Kind, LINE_CONTINUES, MAX_FRAME, Sealer, Stamp, WordParts};
use crate::kernel::attach::Bell;
use crate::kernel::packet::PacketSocket;
use crate::kernel::ring::{CrashRing, Entry, Read};
use crate::kernel::sched;

/// Most collectors that one agent speaks to.
pub const MAX_COLLECTORS: usize = 3;

/// Frames kept for UDP while the ones below UDP go first.
const UDP_QUEUE: usize = 32;

/// How long the first word waits for the line that says why: printk is a
/// few microseconds behind the hook that declared the death.
const WORD_GRACE_NS: u64 = 4_000_000;

/// Lines this long before the death was seen may be its cause.
const CAUSE_BEFORE_NS: u64 = 2_000_000_000;

/// A frame that is not full leaves when its oldest line is this old, or when
/// the kernel is held.
const LINGER_NS: u64 = 3_000_000;

/// An entry that stays unfinished this long was left so by a dead CPU.
const UNFINISHED_NS: u64 = 2_000_000;

/// A held kernel waits this much longer for the device to confirm that frames
/// have left its queue: the reset that follows would take them along. Not longer,
/// as the interrupt that confirms may be the dying CPU's.
const IN_FLIGHT_NS: u64 = 5_000_000;

/// A thread on the dying CPU leaves the work to the others this long.
const STAND_DOWN_NS: u64 = 20_000_000;

/// How the threads behave. All of it is configuration with safe ranges.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks for a death while nothing dies.
    pub rest: Duration,
    /// The same once a death is declared.
    pub dying: Duration,
    /// Lines sent from before the death.
    pub history: u64,
    /// An oops after which nothing happens for this long was survived.
    pub survived: Duration,
}

/// How soon to look at the ring again.
enum Pause {
    /// Something dies: at once.
    Dying,
    /// Nothing does, or all is told.
    Rest,
}

/// What happened on the way out. Shown by the agent's log and `doctor`.
#[derive(Debug, Default)]
pub struct Losses {
    /// Frames that AF_PACKET refused.
    pub packet_errors: AtomicU64,
    /// Frames that UDP refused.
    pub udp_errors: AtomicU64,
    /// Entries of the ring that were overwritten before they were read.
    pub overwritten: AtomicU64,
    /// Entries that a dead CPU left unfinished.
    pub unfinished: AtomicU64,
}

/// What the threads share with the rest of the agent.
pub struct Shared {
    /// The crash ring.
    pub ring: CrashRing,
    /// Who speaks, with which key.
    pub sealer: Sealer,
    /// Number of the next frame.
    pub next_seq: AtomicU64,
    /// The ways below UDP; `None` where none is known. The drain threads only
    /// ever try the lock.
    pub links: Mutex<[Option<Link>; MAX_COLLECTORS]>,
    /// Counts changes of `links`.
    pub links_version: AtomicU64,
    /// Connected sockets, one a collector.
    pub udp: Vec<UdpSocket>,
    /// How the threads behave.
    pub pace: Pace,
    /// What went wrong.
    pub losses: Losses,
    /// Oopses that were survived.
    pub survived: AtomicU64,
    /// Set to end the threads.
    pub stop: AtomicBool,
}

impl Shared {
    /// A stamp for the next frame.
    pub fn stamp(&self, below_udp: bool) -> Stamp {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        Stamp {
            below_udp,
            ..self.stamp_numbered(seq)
        }
    }

    /// A stamp with a number that was taken before.
    pub fn stamp_numbered(&self, seq: u64) -> Stamp {
        Stamp {
            seq,
            mono_ns: sched::monotonic_ns(),
            wall_ns: sched::wall_ns(),
            fragment: (0, 1),
            below_udp: false,
        }
    }
}

/// One drain thread.
pub struct Drain<'a> {
    shared: &'a Shared,
    bell: Bell,
    packet: Option<PacketSocket>,
    /// The CPU it is pinned to; `None` if there is only one, or pinning failed.
    cpu: Option<u32>,
    /// 0 or 1: the second lets the first go ahead where both could.
    index: usize,
    links: [Option<Link>; MAX_COLLECTORS],
    links_version: u64,
    death: Option<Progress>,
    entry: Box<Entry>,
    frame: Box<[u8; MAX_FRAME]>,
    wire: Box<[u8; MAX_WIRE]>,
    /// Frames that went below UDP and are yet to go by UDP.
    queue: Box<[[u8; MAX_FRAME]]>,
    queued: [usize; UDP_QUEUE],
    in_queue: usize,
}

/// How far the present death has been told.
struct Progress {
    declared: u64,
    seen_ns: u64,
    /// Everything below was sent or given up.
    cursor: u64,
    /// How far the search for the cause has come.
    searched: u64,
    /// The best line so far.
    cause: Box<Entry>,
    weight: u8,
    /// What the last word said.
    told: Option<(u16, u8)>,
    /// When the last entry came.
    active_ns: u64,
    /// Since when the entry at `cursor` is unfinished.
    stuck_ns: u64,
    /// How far all was with the device when the last word was said, and when.
    closing: Option<(u64, u64)>,
}

impl<'a> Drain<'a> {
    /// Makes everything that the dying path needs.
    pub fn new(
        shared: &'a Shared,
        bell: Bell,
        packet: Option<PacketSocket>,
        cpu: Option<u32>,
        index: usize,
    ) -> Self {
        Self {
            shared,
            bell,
            packet,
            cpu,
            index,
            links: [None; MAX_COLLECTORS],
            links_version: 0,
            death: None,
            entry: Box::default(),
            frame: Box::new([0; MAX_FRAME]),
            wire: Box::new([0; MAX_WIRE]),
            queue: vec![[0; MAX_FRAME]; UDP_QUEUE].into_boxed_slice(),
            queued: [0; UDP_QUEUE],
            in_queue: 0,
        }
    }

    /// Goes through the motions once, so that what the dying path touches, code
    /// and buffers, is in memory. Nothing is sent.
    pub fn rehearse(&mut self) {
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let nowhere = Link {
            interface: 0,
            source_mac: [0; 6],
            next_hop_mac: [0; 6],
            vlan: None,
            from: to,
            to,
        };
        let stamp = Stamp {
            seq: 0,
            mono_ns: 0,
            wall_ns: 0,
            fragment: (0, 1),
            below_udp: false,
        };
        let mut draft = self.shared.sealer.begin(&mut self.frame, Kind::Lines);
        draft.line(0, 0, 0, 0, 0, &[b'x'; MAX_FRAME / 2]);
        let len = draft.seal(stamp);
        nowhere.wrap(0, &self.frame[..len], &mut self.wire);
        for frame in &mut self.queue {
            frame.copy_from_slice(&self.frame[..]);
        }
        std::hint::black_box((&self.wire, &self.queue));
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        // A death needs a second entry for its cause; made now, used then.
        let mut spare: Option<Box<Entry>> = Some(Box::default());
        while !self.shared.stop.load(Ordering::Relaxed) {
            let pause = match self.step(&mut spare) {
                Pause::Dying => self.shared.pace.dying,
                Pause::Rest => self.shared.pace.rest,
            };
            sched::wait_readable(self.bell.fd(), pause);
            self.bell.silence();
        }
    }

    /// One look at the ring; says how long to pause.
    fn step(&mut self, spare: &mut Option<Box<Entry>>) -> Pause {
        let ring = &self.shared.ring;
        let Some(declared) = ring.declared() else {
            if let Some(over) = self.death.take() {
                *spare = Some(over.cause);
            }
            self.refresh_links();
            return Pause::Rest;
        };
        let now = sched::monotonic_ns();
        if self.death.as_ref().is_none_or(|d| d.declared != declared) {
            // What became known since the last rest, which may be long ago.
            self.refresh_links();
            let cause = self.death.take().map(|d| d.cause).or_else(|| spare.take());
            let Some(cause) = cause else {
                return Pause::Rest;
            };
            self.death = Some(Progress::new(
                declared,
                now,
                self.shared.pace.history,
                cause,
            ));
        }
        let Some(mut death) = self.death.take() else {
            return Pause::Rest;
        };
        let pause = self.tell(&mut death, now);
        self.death = Some(death);
        pause
    }

    fn tell(&mut self, death: &mut Progress, now: u64) -> Pause {
        let ring = &self.shared.ring;
        let on_dying_cpu = self
            .cpu
            .is_some_and(|cpu| u64::from(cpu) == ring.dying_cpu());
        if on_dying_cpu && now.saturating_sub(death.seen_ns) < STAND_DOWN_NS {
            return Pause::Dying;
        }
        self.search(death);
        self.word(death, now);
        // What the other thread has sent is sent.
        death.cursor = death.cursor.max(ring.acked());
        self.lines(death, now);
        self.flush_udp();
        if death.cursor >= ring.head() && !self.is_closing(death) {
            ring.ack(death.cursor);
        }
        self.rest_if_over(death, now)
    }

    /// Everything is with the device. Of a held kernel that is said once, and
    /// then the device is waited for, a little.
    fn is_closing(&mut self, death: &mut Progress) -> bool {
        let now = sched::monotonic_ns();
        let (held, holding) = self.shared.ring.held(now);
        if !holding {
            return false;
        }
        if death.closing.is_none_or(|(at, _)| at != death.cursor) {
            // The last word: everything is out, and this is what it cost. What was
            // sent since the search may hold the cause.
            self.search(death);
            self.say(death, held);
            self.flush_udp();
            death.closing = Some((death.cursor, now));
        }
        let since = death.closing.map_or(now, |(_, since)| since);
        let in_flight = self.packet.as_ref().is_some_and(PacketSocket::is_in_flight);
        in_flight && now.saturating_sub(since) < IN_FLIGHT_NS
    }

    /// Decides whether the kernel lived on, and how soon to look again.
    fn rest_if_over(&mut self, death: &Progress, now: u64) -> Pause {
        let (ring, pace) = (&self.shared.ring, &self.shared.pace);
        let idle = now.saturating_sub(death.active_ns);
        let window = pace.survived.as_nanos() as u64;
        // The second thread waits longer, so that one of them says so.
        let patience = window + self.index as u64 * window / 4;
        if idle < patience {
            return Pause::Dying;
        }
        if ring.fatal().is_none() {
            let stamp = self.shared.stamp(self.below_udp());
            let len = self
                .shared
                .sealer
                .begin(&mut self.frame, Kind::Survived)
                .seal(stamp);
            self.send(len);
            self.flush_udp();
            ring.clear(death.declared);
            self.shared.survived.fetch_add(1, Ordering::Relaxed);
        }
        Pause::Rest
    }

    /// Looks for the line that says why among those not looked at yet.
    fn search(&mut self, death: &mut Progress) {
        let ring = &self.shared.ring;
        let head = ring.head();
        while death.searched < head {
            let read = ring.read(death.searched, &mut self.entry);
            if read == Read::Unfinished && death.searched >= death.cursor {
                break;
            }
            death.searched += 1;
            let slot = self.entry.slot();
            let recent = slot.mono_ns >= death.seen_ns.saturating_sub(CAUSE_BEFORE_NS);
            if read != Read::Entry || slot.kind != KIND_LINE || !recent {
                continue;
            }
            let weight = cause::weight(self.entry.text());
            if weight > death.weight {
                death.weight = weight;
                std::mem::swap(&mut self.entry, &mut death.cause);
            }
        }
    }

    /// Says the first word, and again when more is known.
    fn word(&mut self, death: &mut Progress, now: u64) {
        let ring = &self.shared.ring;
        let mark = ring.fatal().unwrap_or(death.declared);
        if ring.read(mark, &mut self.entry) != Read::Entry {
            return;
        }
        let notice = self.entry.slot().notice;
        let waited = now.saturating_sub(self.entry.slot().mono_ns);
        let (_, holding) = ring.held(now);
        let (told_notice, told_weight) = death.told.unwrap_or((0, 0));
        let news = death.told.is_none() || told_notice != notice || death.weight > told_weight;
        // A restart has no line to wait for; a held kernel prints no more.
        let expects_line = Notice::from_wire(notice).is_some_and(|n| !n.is_order());
        let ready = death.weight > 1 || !expects_line || holding || waited > WORD_GRACE_NS;
        if news && ready {
            self.say(death, ring.held(now).0);
            death.told = Some((notice, death.weight));
        }
    }

    /// Sends a word as things stand.
    fn say(&mut self, death: &Progress, held_ns: u64) {
        let ring = &self.shared.ring;
        let mark = ring.fatal().unwrap_or(death.declared);
        if ring.read(mark, &mut self.entry) != Read::Entry || self.entry.slot().kind != KIND_MARK {
            return;
        }
        let slot = self.entry.slot();
        let Some(notice) = Notice::from_wire(slot.notice) else {
            return;
        };
        let stamp = self.shared.stamp(self.below_udp());
        let mut draft = self.shared.sealer.begin(&mut self.frame, Kind::Word);
        draft.word(&WordParts {
            notice,
            context: Context::from_wire(slot.context),
            cpu: slot.cpu.into(),
            pid: slot.pid,
            at_ns: slot.mono_ns,
            held_ns,
            held_at: HoldPoint::from_wire(ring.hold_point()),
            holds_expired: ring.holds_expired().min(u8::MAX.into()) as u8,
            comm: self.entry.comm(),
            line: if death.weight > 0 {
                death.cause.text()
            } else {
                b""
            },
        });
        let len = draft.seal(stamp);
        self.send(len);
    }

    /// Sends the lines that are there, in full frames where that costs no time.
    fn lines(&mut self, death: &mut Progress, now: u64) {
        let shared = self.shared;
        let (ring, sealer) = (&shared.ring, &shared.sealer);
        let below_udp = self.below_udp();
        let hurry = ring.held(now).1;
        loop {
            // `next` runs ahead of the cursor by what is in the frame.
            let mut next = death.cursor;
            let mut oldest = u64::MAX;
            let mut full = false;
            let mut draft = sealer.begin(&mut self.frame, Kind::Lines);
            while next < ring.head() {
                match ring.read(next, &mut self.entry) {
                    Read::Entry if self.entry.slot().kind == KIND_LINE => {
                        if !put(&mut draft, next, &self.entry) {
                            full = true;
                            break;
                        }
                        oldest = oldest.min(self.entry.slot().mono_ns);
                    }
                    Read::Entry => {}
                    Read::Overwritten => {
                        shared.losses.overwritten.fetch_add(1, Ordering::Relaxed);
                    }
                    Read::Unfinished => {
                        if !death.give_up(next, now) {
                            break;
                        }
                        shared.losses.unfinished.fetch_add(1, Ordering::Relaxed);
                    }
                }
                next += 1;
            }
            if draft.is_empty() {
                // Only marks, or nothing: they count as sent.
                if next > death.cursor {
                    death.advance(next, now);
                }
                return;
            }
            if !full && !hurry && now.saturating_sub(oldest) < LINGER_NS {
                return;
            }
            let len = draft.seal(shared.stamp(below_udp));
            self.send(len);
            death.advance(next, now);
            if !full {
                return;
            }
        }
    }

    fn below_udp(&self) -> bool {
        self.packet.is_some() && self.links.iter().any(Option::is_some)
    }

    /// Sends the frame in `self.frame`: below UDP at once, by UDP when there is
    /// time, or at once where there is no other way.
    fn send(&mut self, len: usize) {
        if let Some(packet) = &self.packet {
            for link in self.links.iter().flatten() {
                let id = self.shared.next_seq.load(Ordering::Relaxed) as u16;
                let wire = link.wrap(id, &self.frame[..len], &mut self.wire);
                if send_packet(packet, link.interface, &self.wire[..wire]).is_err() {
                    self.shared
                        .losses
                        .packet_errors
                        .fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if self.in_queue == UDP_QUEUE {
            self.flush_udp();
        }
        self.queue[self.in_queue][..len].copy_from_slice(&self.frame[..len]);
        self.queued[self.in_queue] = len;
        self.in_queue += 1;
        if !self.below_udp() {
            self.flush_udp();
        }
    }

    fn flush_udp(&mut self) {
        for (frame, len) in self.queue.iter().zip(self.queued).take(self.in_queue) {
            for socket in &self.shared.udp {
                if socket.send(&frame[..len]).is_err() {
                    self.shared
                        .losses
                        .udp_errors
                        .fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.in_queue = 0;
    }

    /// Takes over new ways, at rest and when a death begins; never waits for them.
    fn refresh_links(&mut self) {
        let version = self.shared.links_version.load(Ordering::Acquire);
        if version == self.links_version {
            return;
        }
        if let Ok(links) = self.shared.links.try_lock() {
            self.links = *links;
            self.links_version = version;
        }
    }
}

impl Progress {
    fn new(declared: u64, now: u64, history: u64, mut cause: Box<Entry>) -> Self {
        *cause = Entry::default();
        let start = declared.saturating_sub(history);
        Self {
            declared,
            seen_ns: now,
            cursor: start,
            searched: start,
            cause,
            weight: 0,
            told: None,
            active_ns: now,
            stuck_ns: 0,
            closing: None,
        }
    }

    fn advance(&mut self, to: u64, now: u64) {
        self.cursor = to;
        self.active_ns = now;
        self.stuck_ns = 0;
    }

    /// Whether the unfinished entry at `seq` has been so for too long.
    fn give_up(&mut self, seq: u64, now: u64) -> bool {
        if seq != self.cursor {
            // Send what is before it first.
            return false;
        }
        if self.stuck_ns == 0 {
            self.stuck_ns = now;
        }
        now.saturating_sub(self.stuck_ns) > UNFINISHED_NS
    }
}

fn put(draft: &mut Draft<'_>, seq: u64, entry: &Entry) -> bool {
    let slot = entry.slot();
    let flags = if slot.flags & FLAG_CONTINUES != 0 {
        LINE_CONTINUES
    } else {
        0
    };
    draft.line(seq, slot.mono_ns, slot.cpu, slot.level, flags, entry.text())
}

/// A full queue is tried again a few times: the driver may be about to free it.
fn send_packet(packet: &PacketSocket, interface: u32, wire: &[u8]) -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..3 {
        result = packet.send(interface, wire);
        if result.is_ok() {
            break;
        }
    }
    result
}
