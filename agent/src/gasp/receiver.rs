//! Taking datagrams in: parse, prove, tell new from seen, hand on.
//!
//! [`Handler`] is all of it without socket and clock; [`Receiver`] runs it on
//! a thread of its own, so that a burst from a thousand dying nodes waits in
//! the socket's buffer and not behind other work. The port has two sockets: the
//! kernel puts heartbeats into the second ([`inlet::sort_by_byte`]), so that
//! however many come, they take no place from the words of the dying.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use agent_core::model::{Gasp, Timestamp};

use super::counters::{Counters, Outcome, add};
use super::drops::kernel_drops;
use super::inlet::{self, Batch};
use super::limiter::{Limiter, Rate};
use super::protocol::{self, BodyError, Frame, KeyRing, Kind, MAX_FRAME, ParseError, VerifyError};
use super::queue::{Refused, Sender, Taker, queue};
use super::reassembly::{Reassembly, Step};
use super::receipt::Receipts;
use super::replay::{Seen, Sessions};

/// How long after a warning about a source the next one may come, in
/// milliseconds.
const WARN_SOURCE_MS: u64 = 60_000;
/// How many such warnings there may be from all sources.
const WARN_ALL: Rate = Rate {
    max: 10,
    within_ms: WARN_SOURCE_MS,
};
/// Heartbeats taken from their socket at once.
const BATCH: usize = 64;
/// Messages taken from the other; each may hold several datagrams of one node.
const MESSAGES: usize = 16;
/// Heartbeats taken beside them, while others come too.
const BESIDE: usize = 16;
/// How long the thread leaves datagrams in the sockets while the queue is full,
/// or a socket fails.
const PAUSE: Duration = Duration::from_millis(1);

/// One message of an agent, proven and new.
#[derive(Clone, Debug)]
pub struct Received {
    /// What it says.
    pub gasp: Gasp,
    /// The address it came from; of a hello in fragments, the last one.
    pub source: SocketAddr,
    /// When it was received.
    pub at: Timestamp,
    /// Whether it left the node below UDP, by AF_PACKET.
    pub below_udp: bool,
    /// Which key proved it.
    pub key_id: u32,
}

/// What a receiver may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Agent processes whose sequence numbers are remembered (0.5 KiB each).
    pub sessions: usize,
    /// Messages under way in fragments (at most 64 KiB each).
    pub messages: usize,
    /// Sources of wrong keys that are told apart.
    pub sources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 16_384,
            messages: 256,
            sources: 1_024,
        }
    }
}

/// Judges datagrams one by one. No socket, no clock.
#[derive(Debug)]
pub struct Handler {
    keys: Arc<KeyRing>,
    counters: Arc<Counters>,
    sessions: Sessions,
    partial: Reassembly,
    queue: Sender<Received>,
    /// Places in the queue that heartbeats leave free for what matters more.
    reserve: usize,
    warnings: Limiter,
}

impl Handler {
    /// Hands messages to `queue`, a quarter of which no heartbeat may fill.
    pub fn new(
        keys: Arc<KeyRing>,
        queue: Sender<Received>,
        counters: Arc<Counters>,
        limits: Limits,
    ) -> Self {
        Self {
            keys,
            counters,
            sessions: Sessions::new(limits.sessions),
            partial: Reassembly::new(limits.messages),
            reserve: queue.capacity() / 4,
            queue,
            warnings: Limiter::default(),
        }
    }

    /// Messages that the queue has a place for. Nobody takes any more: all, so
    /// that each is counted as such.
    fn room(&self) -> usize {
        if self.queue.is_closed() {
            usize::MAX
        } else {
            self.queue.room()
        }
    }

    /// Takes one datagram, and counts what became of it.
    pub fn handle(&mut self, datagram: &[u8], source: SocketAddr, now: Timestamp) -> Outcome {
        self.queue.look();
        let outcome = self.count(datagram, source, now);
        self.queue.flush();
        outcome
    }

    fn count(&mut self, datagram: &[u8], source: SocketAddr, now: Timestamp) -> Outcome {
        let outcome = self.judge(datagram, source, now);
        self.counters.count(outcome);
        outcome
    }

    fn judge(&mut self, datagram: &[u8], source: SocketAddr, now: Timestamp) -> Outcome {
        let frame = match Frame::parse(datagram) {
            Ok(frame) => frame,
            Err(error) => return unreadable(error),
        };
        if let Err(error) = frame.verify(&self.keys) {
            self.warn(source.ip(), error, now);
            return match error {
                VerifyError::UnknownKey(_) => Outcome::UnknownKey,
                VerifyError::WrongKey(_) => Outcome::WrongKey,
            };
        }
        let (boot, session, seq) = (frame.boot(), frame.session(), frame.seq());
        let (place, seen) = self.sessions.look(boot, session, seq, now);
        match seen {
            Seen::New => {}
            Seen::Copy => return Outcome::Duplicate,
            Seen::Replay => return Outcome::Replay,
        }
        let outcome = self.hand_on(&frame, source, now);
        // What the queue had no place for is not remembered: its copy by
        // another way may find one.
        let is_kept = matches!(outcome, Outcome::Accepted | Outcome::Fragment);
        if is_kept && self.sessions.mark(place, boot, session, seq, now) {
            add(&self.counters.sessions_evicted);
        }
        outcome
    }

    fn hand_on(&mut self, frame: &Frame<'_>, source: SocketAddr, now: Timestamp) -> Outcome {
        if frame.kind() == Kind::Heartbeat && self.queue.room() <= self.reserve {
            return Outcome::HeartbeatDropped;
        }
        // Long, and sent again until a receipt comes.
        let is_busy = self.queue.room() <= self.queue.capacity() / 8 * 7;
        if frame.kind() == Kind::Record && is_busy {
            return Outcome::QueueFull;
        }
        let body = if frame.fragment().1 == 1 {
            frame.body()
        } else {
            let (step, evicted) = self.partial.take(frame);
            if evicted {
                add(&self.counters.reassembly_evicted);
            }
            match step {
                Step::Kept => return Outcome::Fragment,
                Step::Refused => return Outcome::Malformed,
                Step::Whole(bytes) => frame.whole(&bytes),
            }
        };
        let gasp = match body.and_then(|body| frame.gasp(body)) {
            Ok(gasp) => gasp,
            Err(BodyError::Malformed(_)) => return Outcome::Malformed,
            Err(BodyError::UnknownNotice(_)) => return Outcome::UnknownKind,
        };
        let received = Received {
            gasp,
            source,
            at: now,
            below_udp: frame.below_udp(),
            key_id: frame.key_id(),
        };
        match self.queue.put(received) {
            Ok(()) => Outcome::Accepted,
            Err(Refused::Full) => Outcome::QueueFull,
            Err(Refused::Closed) => Outcome::Closed,
        }
    }

    fn warn(&mut self, source: IpAddr, error: VerifyError, now: Timestamp) {
        let Some(frames) = self.counters.wrong_key(source, now, WARN_SOURCE_MS) else {
            return;
        };
        if !self.warnings.allows(WARN_ALL, now) {
            add(&self.counters.warnings_suppressed);
            return;
        }
        tracing::warn!(
            %source,
            frames,
            %error,
            "frames that no key proves; does this node have the annotator's key?"
        );
    }
}

fn unreadable(error: ParseError) -> Outcome {
    match error {
        ParseError::Short(_) => Outcome::Short,
        ParseError::BadMagic => Outcome::BadMagic,
        ParseError::UnknownVersion(_) => Outcome::UnknownVersion,
        ParseError::Malformed(_) => Outcome::Malformed,
        ParseError::UnknownKind(_) => Outcome::UnknownKind,
    }
}

/// How a receiver is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Bytes of socket buffer to ask for; the kernel may give less.
    pub socket_buffer: usize,
    /// Messages that may wait to be taken.
    pub queue: usize,
    /// What may be held besides.
    pub limits: Limits,
}

impl Settings {
    /// Defaults for this address: 64 MiB hold a burst of 100,000 datagrams
    /// (measured: 8 MiB lose a third of it), 4,096 messages a storm of words.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            socket_buffer: 64 << 20,
            queue: 4_096,
            limits: Limits::default(),
        }
    }
}

/// Why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be had.
    #[error("cannot listen for gasps on UDP {listen}; choose another address or stop who has it")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The thread cannot be had.
    #[error("cannot start the thread that receives gasps; is the limit of processes reached?")]
    Thread {
        /// Why not.
        source: io::Error,
    },
}

/// A thread that receives. Dropping it stops the thread.
#[derive(Debug)]
pub struct Receiver {
    sockets: Arc<Sockets>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Opens the socket and starts the thread. `clock` gives the time that
    /// messages are stamped with.
    pub fn spawn(
        settings: &Settings,
        keys: Arc<KeyRing>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> Result<(Self, Taker<Received>), Error> {
        let sockets = open(settings).map_err(|source| Error::Listen {
            listen: settings.listen,
            source,
        })?;
        let (queue, taker) = queue(settings.queue);
        let counters = Arc::new(Counters::new(settings.limits.sources));
        let handler = Handler::new(keys, queue, Arc::clone(&counters), settings.limits);
        let sockets = Arc::new(sockets);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (sockets, stop) = (Arc::clone(&sockets), Arc::clone(&stop));
            thread::Builder::new()
                .name("gasp-receiver".to_owned())
                .spawn(move || receive(&sockets, handler, &stop, &clock))
                .map_err(|source| Error::Thread { source })?
        };
        let receiver = Self {
            sockets,
            counters,
            stop,
            thread: Some(thread),
        };
        Ok((receiver, taker))
    }

    /// The address it listens on, with the port that the kernel chose.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sockets.words.local_addr()
    }

    /// What sends receipts from this address, sealed with `keys`.
    pub fn receipts(&self, keys: Arc<KeyRing>) -> Receipts {
        Receipts::new(Arc::clone(&self.sockets.words), keys)
    }

    /// What became of the datagrams.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Datagrams that the kernel dropped because a socket's buffer was full;
    /// `None` if that cannot be read.
    pub fn kernel_drops(&self) -> Option<u64> {
        self.sockets.all().map(kernel_drops).sum()
    }

    /// Stops the thread and waits for its end, a fifth of a second at most.
    /// What it handed on before can still be taken.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that receives gasps had panicked");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end();
    }
}

/// What listens on the port.
#[derive(Debug)]
struct Sockets {
    /// For all but heartbeats; for them too where the kernel cannot sort.
    words: Arc<UdpSocket>,
    beats: Option<UdpSocket>,
}

impl Sockets {
    /// In the order in which they are read.
    fn all(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&*self.words).chain(&self.beats)
    }
}

fn open(settings: &Settings) -> io::Result<Sockets> {
    // Only the second may share the port: a port that somebody has is refused.
    let words = inlet::bind(settings.listen, settings.socket_buffer, false)?;
    // Lines have numbers of their own, so that none is lost unseen. Heartbeats are counted
    // by the kernel alone, and come one by one anyway.
    inlet::several_at_once(&words);
    let beats = second(settings, &words)
        .inspect_err(|error| {
            // Nor with anybody else then.
            let _ = socket2::SockRef::from(&words).set_reuse_port(false);
            tracing::warn!(
                %error,
                "the kernel does not sort heartbeats out: when there are too many of them, words may be lost too"
            );
        })
        .ok();
    Ok(Sockets {
        words: Arc::new(words),
        beats,
    })
}

/// The socket that shares the port of `words` and gets the heartbeats.
fn second(settings: &Settings, words: &UdpSocket) -> io::Result<UdpSocket> {
    socket2::SockRef::from(words).set_reuse_port(true)?;
    let beats = inlet::bind(words.local_addr()?, settings.socket_buffer, true)?;
    inlet::sort_by_byte(words, protocol::KIND_AT, Kind::Heartbeat as u8)?;
    Ok(beats)
}

fn receive(
    sockets: &Sockets,
    mut handler: Handler,
    stop: &AtomicBool,
    clock: &impl Fn() -> Timestamp,
) {
    // One byte more than a frame: what fills it was too long.
    let mut batches = [
        Batch::of_several(MESSAGES, MAX_FRAME + 1),
        Batch::new(BATCH, MAX_FRAME + 1),
    ];
    while !stop.load(Ordering::Acquire) {
        let mut taken = 0;
        handler.queue.look();
        let places = sockets.all().zip(&mut batches);
        for ((socket, batch), reserve) in places.zip([0, handler.reserve]) {
            // What does not fit yet is kept better by the kernel, which has
            // room for many more.
            let room = handler.room().saturating_sub(reserve);
            let most = if taken == 0 { BATCH } else { BESIDE }.min(room);
            if batch.is_empty() && inlet::receive(batch, socket, most).is_err() {
                add(&handler.counters.receive_errors);
                // An error that stays must not become a busy loop.
                thread::sleep(PAUSE);
                continue;
            }
            let now = clock();
            // Nor is more taken out of a message than there is room for.
            while handler.room() > reserve
                && let Some((datagram, source)) = batch.take()
            {
                handler.count(datagram, source, now);
                taken += 1;
            }
            handler.queue.flush();
        }
        if taken == 0 {
            wait(sockets, handler.room() > handler.reserve);
        }
    }
}

/// Waits for datagrams, or a moment for room in the queue.
fn wait(sockets: &Sockets, has_room: bool) {
    let beats = sockets.beats.as_ref().unwrap_or(&sockets.words);
    if !has_room || inlet::wait([&*sockets.words, beats]).is_err() {
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests;
