//! The socket and its thread.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use agent_core::model::Timestamp;
use tokio::sync::mpsc;

use super::{Addresses, Collector, Counters, DATAGRAM_MAX, Heard};
use crate::gasp::drops::kernel_drops;
use crate::gasp::inlet::{self, Batch};

/// Bytes of socket buffer to ask for; the kernel may give less. A report of a
/// hundred lines takes about 80 KiB of it.
const BUFFER: usize = 8 << 20;
/// Crashes, and batches of lines around them, that may wait to be taken.
const QUEUE: usize = 256;
/// Messages taken from the socket at once; each may hold several datagrams of one node.
const BATCH: usize = 16;

/// Why nothing can be heard.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket cannot be had.
    #[error(
        "cannot listen for netconsole on UDP {listen}; choose another address with --netconsole-listen, or `off`"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The thread cannot be had.
    #[error("cannot start the thread that hears netconsole; is the limit of processes reached?")]
    Thread {
        /// Why not.
        source: io::Error,
    },
}

/// A thread that hears. Dropping it stops the thread.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<UdpSocket>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Opens the socket and starts the thread. `clock` gives the time that
    /// crashes are stamped with.
    pub fn spawn(
        listen: SocketAddr,
        addresses: Arc<Addresses>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Heard>), Error> {
        let socket = inlet::bind(listen, BUFFER, false)
            .map_err(|source| Error::Listen { listen, source })?;
        // Records have numbers: none is lost unseen.
        inlet::several_at_once(&socket);
        let socket = Arc::new(socket);
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, taker) = mpsc::channel(QUEUE);
        let thread = {
            let (socket, stop, counters) = (
                Arc::clone(&socket),
                Arc::clone(&stop),
                Arc::clone(&counters),
            );
            thread::Builder::new()
                .name("netconsole".to_owned())
                .spawn(move || hear(&socket, addresses, &counters, &queue, &stop, &clock))
                .map_err(|source| Error::Thread { source })?
        };
        let listener = Self {
            socket,
            counters,
            stop,
            thread: Some(thread),
        };
        Ok((listener, taker))
    }

    /// The address it listens on, with the port that the kernel chose.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What became of the datagrams.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Datagrams that the kernel dropped because the socket's buffer was full;
    /// `None` if that cannot be read.
    pub fn kernel_drops(&self) -> Option<u64> {
        kernel_drops(&self.socket)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that hears netconsole had panicked");
        }
    }
}

fn hear(
    socket: &UdpSocket,
    addresses: Arc<Addresses>,
    counters: &Arc<Counters>,
    queue: &mpsc::Sender<Heard>,
    stop: &AtomicBool,
    clock: &impl Fn() -> Timestamp,
) {
    let mut collector = Collector::new(addresses, Arc::clone(counters));
    // One byte more than a datagram: what fills it was too long.
    let mut batch = Batch::of_several(BATCH, DATAGRAM_MAX + 1);
    while !stop.load(Ordering::Acquire) {
        let received = match inlet::receive(&mut batch, socket, BATCH) {
            Ok(0) => inlet::wait([socket]),
            received => received.map(drop),
        };
        if received.is_err() {
            Counters::add(&counters.receive_errors, 1);
            // An error that stays must not become a busy loop.
            thread::sleep(Duration::from_millis(10));
        }
        let now = clock();
        while let Some((datagram, source)) = batch.take() {
            let crash = collector.take(datagram, source.ip(), now).map(Heard::Crash);
            if crash.is_some_and(|crash| queue.try_send(crash).is_err()) {
                Counters::add(&counters.queue_full, 1);
            }
        }
        for heard in collector.lines(now) {
            let count = heard.lines.len() as u64;
            if queue.try_send(Heard::Lines(heard)).is_err() {
                Counters::add(&counters.lines_cut, count);
            }
        }
    }
}
