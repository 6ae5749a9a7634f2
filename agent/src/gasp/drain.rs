//! The crash path in user space: threads that read the crash ring and send.
//!
//! Each thread is pinned to a CPU of its own and shares nothing with the other
//! but the ring, its acknowledgement and the counter of frames. From the moment
//! a death is declared nothing here allocates, locks, logs or formats.

mod losses;
mod outlet;
mod progress;
mod reserve;

use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent_common::{FLAG_CONTINUES, KIND_LINE, KIND_MARK, RING_SLOTS};
use agent_core::model::{Context, HoldPoint, Notice};

pub use self::losses::Losses;
use self::outlet::Outlet;
use self::progress::Progress;
pub use self::reserve::Reserve;
use super::cause;
use super::link::Link;
use super::protocol::{Draft, Kind, LINE_CONTINUES, MAX_FRAME, Sealer, Stamp, WordParts};
use crate::kernel::attach::Bell;
use crate::kernel::packet::PacketSocket;
use crate::kernel::ring::{CrashRing, Entry, Read};
use crate::kernel::sched;

/// Most collectors that one agent speaks to.
pub const MAX_COLLECTORS: usize = 3;

/// How long the first word waits for the line that says why: printk is a
/// few microseconds behind the hook that declared the death.
const WORD_GRACE_NS: u64 = 4_000_000;

/// Lines this long before the death was seen may belong to it: some reports
/// are printed before the hook that declares it fires.
const REPORT_BEFORE_NS: u64 = 2_000_000_000;

/// Most entries before a death that are looked at for the start of its report:
/// half the ring, so that the rest of the report has room.
const REPORT_BEFORE: u64 = RING_SLOTS as u64 / 2;

/// A frame that is not full leaves when its oldest line is this old, or when
/// the kernel is held.
const LINGER_NS: u64 = 3_000_000;

/// A held kernel waits this much longer for the device to confirm that frames
/// have left its queue: the reset that follows would take them along. Not longer,
/// as the interrupt that confirms may be the dying CPU's.
const IN_FLIGHT_NS: u64 = 5_000_000;

/// The first thread has sent or looked within this long: the second one leaves all but the
/// first word to it. Both at once take the device's lock from each other, and where a
/// hypervisor takes the CPU from one that has it, the other one gets nothing done either.
const LEADS_NS: u64 = 20_000_000;

/// The first one begins within this long, or the second does, which keeps its CPU meanwhile.
const BEGINS_NS: u64 = 1_000_000;

/// More stack than the dying path uses, in bytes.
const STACK: usize = 16 * 1024;

/// A thread that waits for the next line keeps its CPU this long, so that nobody
/// else runs there: who unmaps memory, say, waits for all CPUs that used it, also
/// for the dying one, and cannot be preempted meanwhile (`smp_call_function_many`).
const KEEP_CPU_NS: u64 = 20_000_000;

/// It does not keep it longer than this for one death, unless the kernel is held.
const KEEP_CPU_MAX_NS: u64 = 500_000_000;

/// Looks for news between two that look at the clock as well. Where the clock is a device,
/// or an emulated one, a look at it stops who serves the device that sends.
const LOOKS: u32 = 256;

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
    /// The dying kernel waits this long at most, for one death.
    pub hold_max: Duration,
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
    /// When the first thread last sent, or looked while something died
    /// (`CLOCK_MONOTONIC`); zero: never.
    pub leads_ns: AtomicU64,
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
    outlet: Outlet<'a>,
    /// The CPU it is pinned to; `None` if there is only one, or pinning failed.
    cpu: Option<u32>,
    /// 0 or 1: both say the first word, and the second lets the first go ahead then, unless
    /// that stands still.
    index: usize,
    death: Option<Progress>,
    /// Everything below belongs to deaths that are over.
    told: u64,
    /// The entry looked at.
    entry: Box<Entry>,
    /// The line that says most of why, so far.
    cause: Box<Entry>,
    frame: Box<[u8; MAX_FRAME]>,
}

impl<'a> Drain<'a> {
    /// Makes everything that the dying path needs, and touches it.
    pub fn new(
        shared: &'a Shared,
        packet: Option<PacketSocket>,
        reserve: Option<Reserve>,
        cpu: Option<u32>,
        index: usize,
    ) -> Self {
        if let Some(cpu) = cpu {
            shared.ring.set_sender(index, cpu);
        }
        let mut drain = Self {
            shared,
            outlet: Outlet::new(shared, index, packet, reserve),
            cpu,
            index,
            death: None,
            told: 0,
            entry: Box::default(),
            cause: Box::default(),
            frame: Box::new([0; MAX_FRAME]),
        };
        drain.rehearse();
        drain
    }

    /// Goes through the motions once, so that what the dying path touches, code
    /// and buffers, is in memory: a kernel that dies for want of memory has none
    /// for a page fault. Nothing is sent.
    fn rehearse(&mut self) {
        std::hint::black_box([0xff_u8; STACK]);
        self.shared.ring.read(0, &mut self.entry);
        self.shared.ring.read(0, &mut self.cause);
        let stamp = self.shared.stamp_numbered(0);
        let mut draft = self.shared.sealer.begin(&mut self.frame, Kind::Lines);
        draft.line(0, 0, 0, 0, 0, &[b'x'; MAX_FRAME / 2]);
        let len = draft.seal(stamp);
        self.outlet.rehearse(&self.frame[..len]);
    }

    /// Runs until told to stop; `bell` wakes it where that is possible.
    pub fn run(mut self, mut bell: Bell) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.step() {
                Duration::ZERO => self.until_news(),
                pause => bell.wait(pause),
            }
        }
    }

    /// Waits a moment, or until something has happened.
    fn until_news(&self) {
        let ring = &self.shared.ring;
        let seen = ring.news();
        for _ in 0..LOOKS {
            if ring.news() != seen {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// One look at the ring; says how long to pause. Zero: keep the CPU.
    fn step(&mut self) -> Duration {
        let Shared { ring, pace, .. } = self.shared;
        let Some(declared) = ring.declared() else {
            if self.death.take().is_some() {
                // What this thread said, and left the rest to the first.
                self.outlet.flush_udp(|| false);
            }
            self.told = ring.acked();
            self.outlet.refresh_links();
            self.outlet.refill();
            return pace.rest;
        };
        let now = sched::monotonic_ns();
        let mut death = match self.death.take() {
            Some(death) if death.declared == declared => death,
            _ => {
                // What became known since the last rest.
                self.outlet.refresh_links();
                let marked_ns = match ring.read(declared, &mut self.entry) {
                    Read::Entry => self.entry.slot().mono_ns,
                    Read::Unfinished | Read::Overwritten => now,
                };
                let start = self.start_of(declared, marked_ns);
                Progress::new(declared, start, marked_ns, now)
            }
        };
        let pause = self.tell(&mut death, now);
        self.death = Some(death);
        pause
    }

    /// Where the telling of a death begins: with the history before its mark, or
    /// with its report where that is longer.
    fn start_of(&mut self, declared: u64, marked_ns: u64) -> u64 {
        let ring = &self.shared.ring;
        let mut start = declared.saturating_sub(self.shared.pace.history);
        let earliest = declared.saturating_sub(REPORT_BEFORE).max(self.told);
        for seq in (earliest..declared).rev() {
            match ring.read(seq, &mut self.entry) {
                Read::Entry if !is_recent(&self.entry, marked_ns) => break,
                Read::Entry if cause::begins_report(self.entry.text()) => start = start.min(seq),
                Read::Entry | Read::Unfinished => {}
                Read::Overwritten => break,
            }
        }
        start.max(self.told)
    }

    fn tell(&mut self, death: &mut Progress, now: u64) -> Duration {
        let ring = &self.shared.ring;
        if self.is_on_dying_cpu() && now.saturating_sub(death.seen_ns) < STAND_DOWN_NS {
            return self.shared.pace.dying;
        }
        if ring.is_closed() {
            // What is printed now waits for the next hold, which opens it again.
            return self.pause(death, now);
        }
        let leads = self.first_leads(now);
        self.search(death);
        if !leads || death.told.is_none() {
            self.word(death, now);
        }
        // What the other thread has sent is sent.
        death.cursor = death.cursor.max(ring.acked());
        let may_begin = self.index > 0 && now.saturating_sub(death.seen_ns) < BEGINS_NS;
        if death.told.is_none() || (may_begin && !leads) {
            // Nothing goes before the first word; it waits for its line, not for long.
            return self.pause(death, now);
        }
        if leads {
            return self.shared.pace.dying;
        }
        self.lines(death, now);
        self.close(death);
        // By UDP as well; what comes meanwhile, or waits to fill a frame, goes below it before
        // the rest of that.
        let is_out = self.outlet.flush_udp(|| death.cursor < ring.head());
        // What is acknowledged is not waited for by a hold, also by one that begins later: so
        // not before there was a word of it, and a last one if it has begun meanwhile.
        if is_out
            && death.cursor >= ring.head()
            && self.is_said(death)
            && !self.close(death)
            && !self.is_in_flight(death)
        {
            ring.ack(death.cursor);
        }
        self.rest_if_over(death, now)
    }

    /// Whether this is not the first thread, and that one goes on. Says so, if it is.
    fn first_leads(&self, now: u64) -> bool {
        let leads_ns = &self.shared.leads_ns;
        if self.index == 0 {
            leads_ns.store(now, Ordering::Relaxed);
            return false;
        }
        now.saturating_sub(leads_ns.load(Ordering::Relaxed)) < LEADS_NS
    }

    /// Whether there was a word of the newest mark that counts.
    fn is_said(&mut self, death: &Progress) -> bool {
        let ring = &self.shared.ring;
        let mark = ring.fatal().unwrap_or(death.declared);
        ring.read(mark, &mut self.entry) != Read::Entry
            || death
                .told
                .is_some_and(|(notice, _)| notice == self.entry.slot().notice)
    }

    /// To a held kernel's death there is a last word: everything is out, and this is what
    /// it cost. Whether it was said now.
    fn close(&mut self, death: &mut Progress) -> bool {
        let now = sched::monotonic_ns();
        let (held, holding) = self.shared.ring.held(now);
        let is_said = death.closing.is_some_and(|(at, _)| at == death.cursor);
        if !holding || is_said || death.cursor < self.shared.ring.head() {
            return false;
        }
        // What was sent since the search may hold the cause.
        self.search(death);
        self.say(death, held);
        death.closing = Some((death.cursor, now));
        true
    }

    /// A held kernel waits, a little, for the device to let go of the frames.
    fn is_in_flight(&self, death: &Progress) -> bool {
        let now = sched::monotonic_ns();
        let since = death.closing.map_or(now, |(_, since)| since);
        self.shared.ring.held(now).1
            && now.saturating_sub(since) < IN_FLIGHT_NS
            && self.outlet.is_in_flight()
    }

    /// Decides whether the kernel lived on, and how soon to look again.
    fn rest_if_over(&mut self, death: &Progress, now: u64) -> Duration {
        let (ring, pace) = (&self.shared.ring, &self.shared.pace);
        let idle = now.saturating_sub(death.active_ns);
        let window = pace.survived.as_nanos() as u64;
        // The second thread waits longer, so that one of them says so.
        let patience = window + self.index as u64 * window / 4;
        if idle < patience {
            return self.pause(death, now);
        }
        if ring.fatal().is_none() {
            let stamp = self.shared.stamp(self.outlet.below_udp());
            let len = self
                .shared
                .sealer
                .begin(&mut self.frame, Kind::Survived)
                .seal(stamp);
            let _ = self.outlet.send(&self.frame[..len]);
            self.outlet.flush_udp(|| false);
            let unfinished = death.holes.len() as u64;
            let losses = &self.shared.losses;
            losses.unfinished.fetch_add(unfinished, Ordering::Relaxed);
            ring.clear(death.declared);
            self.shared.survived.fetch_add(1, Ordering::Relaxed);
        }
        pace.rest
    }

    fn is_on_dying_cpu(&self) -> bool {
        let dying = self.shared.ring.dying_cpu();
        self.cpu.is_some_and(|cpu| u64::from(cpu) == dying)
    }

    /// How soon to look again while something dies. Zero, unless the CPU is the
    /// dying one's own, which needs it, or nothing has come for a while.
    fn pause(&self, death: &Progress, now: u64) -> Duration {
        let (ring, pace) = (&self.shared.ring, &self.shared.pace);
        let is_another = self.cpu.is_some() && !self.is_on_dying_cpu();
        let since = |at: u64| now.saturating_sub(at);
        let expects =
            since(death.active_ns) < KEEP_CPU_NS && since(death.seen_ns) < KEEP_CPU_MAX_NS;
        if is_another && (expects || ring.held(now).1) || self.keeps_the_only_cpu(death, now) {
            Duration::ZERO
        } else {
            pace.dying
        }
    }

    /// Where there is one CPU nobody holds the kernel, but who runs there: until the device
    /// has let go of the frames, as `device_shutdown` would take them along.
    fn keeps_the_only_cpu(&self, death: &Progress, now: u64) -> bool {
        let limit = self.shared.pace.hold_max.as_nanos() as u64;
        self.cpu.is_none()
            && now.saturating_sub(death.seen_ns) < limit
            && self.shared.ring.fatal().is_some()
            && self.outlet.is_in_flight()
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
            if read != Read::Entry
                || slot.kind != KIND_LINE
                || !is_recent(&self.entry, death.marked_ns)
            {
                continue;
            }
            let weight = cause::weight(self.entry.text());
            if weight > death.weight {
                death.weight = weight;
                std::mem::swap(&mut self.entry, &mut self.cause);
            }
        }
    }

    /// Says the first word, and again when more is known.
    fn word(&mut self, death: &mut Progress, now: u64) {
        let ring = &self.shared.ring;
        let mark = ring.fatal().unwrap_or(death.declared);
        if ring.read(mark, &mut self.entry) != Read::Entry {
            // Overwritten by what followed: there is no word to wait for.
            death.told.get_or_insert((0, 0));
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
        if news && ready && self.say(death, ring.held(now).0) {
            death.told = Some((notice, death.weight));
        }
    }

    /// Sends a word as things stand. False: it may not be sent now.
    fn say(&mut self, death: &Progress, held_ns: u64) -> bool {
        let ring = &self.shared.ring;
        let mark = ring.fatal().unwrap_or(death.declared);
        if ring.read(mark, &mut self.entry) != Read::Entry || self.entry.slot().kind != KIND_MARK {
            return true;
        }
        let slot = self.entry.slot();
        let Some(notice) = Notice::from_wire(slot.notice) else {
            return true;
        };
        let stamp = self.shared.stamp(self.outlet.below_udp());
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
            asked: self.entry.asked(),
            packet: self.entry.packet(),
            line: if death.weight > 0 {
                self.cause.text()
            } else {
                b""
            },
        });
        let len = draft.seal(stamp);
        self.outlet.send(&self.frame[..len])
    }

    /// Sends the lines that are there, in full frames where that costs no time.
    fn lines(&mut self, death: &mut Progress, now: u64) {
        let shared = self.shared;
        let (ring, sealer) = (&shared.ring, &shared.sealer);
        let below_udp = self.outlet.below_udp();
        loop {
            // `next` runs ahead of the cursor by what is in the frame.
            let mut next = death.cursor;
            let mut oldest = u64::MAX;
            let mut full = false;
            let mut draft = sealer.begin(&mut self.frame, Kind::Lines);
            death.holes.retain(|hole| {
                match ring.read(hole, &mut self.entry) {
                    Read::Unfinished => return true,
                    Read::Entry if self.entry.slot().kind == KIND_LINE => {
                        oldest = 0;
                        return !put(&mut draft, hole, &self.entry);
                    }
                    Read::Entry | Read::Overwritten => {}
                }
                false
            });
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
                        if !death.pass(next, now) {
                            break;
                        }
                    }
                }
                next += 1;
            }
            if draft.is_empty() {
                // Only marks and holes, or nothing: they count as sent.
                if next > death.cursor {
                    death.advance(next, now);
                }
                return;
            }
            // As things are now: the kernel may have been held since this look began.
            let now = sched::monotonic_ns();
            let may_wait = !full && now.saturating_sub(oldest) < LINGER_NS;
            if may_wait && !ring.held(now).1 {
                return;
            }
            let len = draft.seal(shared.stamp(below_udp));
            if !self.outlet.send(&self.frame[..len]) {
                return;
            }
            death.advance(next, now);
            if !full {
                return;
            }
        }
    }
}

/// Whether an entry is young enough to belong to what was marked at `marked_ns`: it
/// may be seen much later, where the mark's CPU kept all others waiting.
fn is_recent(entry: &Entry, marked_ns: u64) -> bool {
    entry.slot().mono_ns >= marked_ns.saturating_sub(REPORT_BEFORE_NS)
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

#[cfg(test)]
mod tests;
