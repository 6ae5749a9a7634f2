//! The other end of a lab machine's network cable, inside this process.
//!
//! Answers ARP for the gateway, and keeps every UDP datagram that leaves the
//! machine with the time at which it did: nothing between the virtual NIC and
//! the test can lose or delay one.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// Datagrams that wait for the test: far more than a machine sends in its life.
const QUEUE: usize = 1 << 16;
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

/// A datagram that left a machine.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// When.
    pub at: Instant,
    /// UDP port it was sent to.
    pub port: u16,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// The cable's end.
#[derive(Debug)]
pub struct Wire {
    lost: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens on `here`, answers to `there`. Datagrams also go on to
    /// `forward`, if given, as a gateway would send them.
    pub fn listen(
        here: &Path,
        there: &Path,
        forward: Option<std::net::SocketAddr>,
    ) -> Result<(Self, Receiver<Datagram>)> {
        let socket = UnixDatagram::bind(here)
            .with_context(|| format!("cannot make the socket {}", here.display()))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let forward = match forward {
            Some(to) => {
                let out = UdpSocket::bind("127.0.0.1:0")?;
                out.connect(to)?;
                Some(out)
            }
            None => None,
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, told, there) = (Arc::clone(&lost), Arc::clone(&stop), there.to_owned());
        let thread = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || {
                while !told.load(Ordering::Relaxed) {
                    serve(&socket, &there, forward.as_ref(), &sender, &count);
                }
            })?;
        Ok((
            Self {
                lost,
                stop,
                thread: Some(thread),
            },
            receiver,
        ))
    }
}

impl Wire {
    /// Datagrams that the test did not take in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes one frame, if one comes.
fn serve(
    socket: &UnixDatagram,
    there: &Path,
    forward: Option<&UdpSocket>,
    sender: &SyncSender<Datagram>,
    lost: &AtomicU64,
) {
    let mut frame = [0; 2048];
    let Ok(len) = socket.recv(&mut frame) else {
        return;
    };
    let (at, frame) = (Instant::now(), &frame[..len]);
    if let Some(answer) = arp(frame) {
        let _ = socket.send_to(&answer, there);
    } else if let Some((port, payload)) = udp(frame) {
        if let Some(out) = forward {
            let _ = out.send(payload);
        }
        let datagram = Datagram {
            at,
            port,
            payload: payload.to_vec(),
        };
        if matches!(sender.try_send(datagram), Err(TrySendError::Full(_))) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The answer to an ARP request for the gateway.
fn arp(frame: &[u8]) -> Option<[u8; 42]> {
    let request = frame.get(..42)?;
    let for_gateway =
        request[12..14] == [8, 6] && request[20..22] == [0, 1] && request[38..42] == GATEWAY;
    if !for_gateway {
        return None;
    }
    let mut answer = [0; 42];
    answer.copy_from_slice(request);
    answer[0..6].copy_from_slice(&request[6..12]);
    answer[6..12].copy_from_slice(&GATEWAY_MAC);
    answer[21] = 2;
    answer[22..28].copy_from_slice(&GATEWAY_MAC);
    answer[28..32].copy_from_slice(&GATEWAY);
    answer[32..42].copy_from_slice(&request[22..32]);
    Some(answer)
}

/// Port and payload of an IPv4 UDP frame to the gateway.
fn udp(frame: &[u8]) -> Option<(u16, &[u8])> {
    let ip = frame.get(14..)?;
    let is_udp = frame[12..14] == [8, 0] && *ip.first()? == 0x45 && *ip.get(9)? == 17;
    if !is_udp || ip.get(16..20)? != GATEWAY {
        return None;
    }
    let udp = ip.get(20..)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let len = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    Some((port, udp.get(8..len)?))
}
