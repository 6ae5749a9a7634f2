//! The other end of a machine's network cable.
//!
//! QEMU hands every Ethernet frame to a socket, and here is the gateway: it
//! answers ARP and notes each UDP datagram with the moment it arrived, also
//! from machines restored from one snapshot, which all have the same address.
//! A datagram can also be passed on, to a real receiver on this host, whose
//! answers go back to the machine.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::SockRef;

use crate::priority;

/// Address of the machine.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Address of the gateway, where collectors are.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// An address in the machine's network at which nobody is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 66);

const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
/// Room for a whole death in the kernel's buffer, in bytes, as far as the
/// host's limits allow; a full one only slows the machine's sending.
const BUFFER: usize = 4 << 20;
const FRAME_MAX: usize = 65_536;

/// What is sent to this port is nobody's (RFC 863).
const DISCARD: u16 = 9;

/// Most datagrams that wait to be taken; more are counted as lost.
const WAITING_MAX: usize = 65_536;

/// Between two looks whether to go on waiting for answers.
const ANSWERS: Duration = Duration::from_millis(50);

/// One UDP datagram that left a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// When its frame was received.
    pub at: Instant,
    /// UDP port it was sent to.
    pub port: u16,
    /// UDP payload.
    pub payload: Vec<u8>,
}

/// The cable's end.
#[derive(Debug)]
pub struct Wire {
    guest_end: UnixDatagram,
    lost: Arc<AtomicU64>,
    deaf: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    answers: Vec<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

/// Where datagrams to one port go on to.
#[derive(Debug)]
struct Onward {
    port: u16,
    socket: UdpSocket,
    speaker: Arc<Mutex<Option<Speaker>>>,
}

/// Who spoke last: where an answer goes.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    mac: [u8; 6],
    from_port: u16,
    to_port: u16,
}

impl Wire {
    /// The cable's end, the datagrams that arrive there, and the socket for
    /// QEMU. Datagrams to a port of `forward` also go on to its address.
    ///
    /// The two sockets are a pair: between sockets that have a name, only
    /// `net.unix.max_dgram_qlen` frames (often 10) fit, and QEMU would throw
    /// the others away when a machine resets.
    pub fn new(forward: &[(u16, SocketAddr)]) -> Result<(Self, Receiver<Datagram>, UnixDatagram)> {
        let (host_end, guest_end) = UnixDatagram::pair().context("no socket for the network")?;
        for end in [&host_end, &guest_end] {
            SockRef::from(end)
                .set_send_buffer_size(BUFFER)
                .context("no buffer for the network")?;
        }
        let closing = Arc::new(AtomicBool::new(false));
        let mut passed_on = Vec::new();
        let mut answers = Vec::new();
        for (port, to) in forward {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|socket| socket.connect(to).map(|()| socket))
                .with_context(|| format!("cannot pass datagrams on to {to}"))?;
            let speaker = Arc::new(Mutex::new(None));
            let back = socket.try_clone().context("no socket for answers")?;
            back.set_read_timeout(Some(ANSWERS))?;
            let cable = host_end.try_clone().context("no socket for answers")?;
            let (closing, to) = (Arc::clone(&closing), Arc::clone(&speaker));
            let thread = thread::Builder::new().name("answers".into());
            answers.push(thread.spawn(move || answer(&back, &cable, &to, &closing))?);
            passed_on.push(Onward {
                port: *port,
                socket,
                speaker,
            });
        }
        let for_qemu = guest_end.try_clone().context("no socket for the network")?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let deaf = Arc::new(AtomicBool::new(false));
        let is_deaf = Arc::clone(&deaf);
        let thread = thread::Builder::new()
            .name("wire".into())
            .spawn(move || {
                priority::self_like_hardware();
                serve(&host_end, &passed_on, &sender, &counter, &is_deaf);
            })
            .context("no thread for the network")?;
        let wire = Self {
            guest_end,
            lost,
            deaf,
            thread: Some(thread),
            answers,
            closing,
        };
        Ok((wire, receiver, for_qemu))
    }

    /// Takes what is still in the socket, then ends. To be called when the
    /// machine is gone.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.closing.store(true, Ordering::Relaxed);
        for thread in self.answers.drain(..) {
            let _ = thread.join();
        }
        // An empty frame behind all others is the end; no machine sends one.
        if self.guest_end.send(&[]).is_ok() {
            // The thread only fails by a panic, which has been printed.
            let _ = thread.join();
        }
    }

    /// From now on nobody answers ARP.
    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Datagrams that nobody took in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(
    cable: &UnixDatagram,
    forward: &[Onward],
    sender: &SyncSender<Datagram>,
    lost: &AtomicU64,
    deaf: &AtomicBool,
) {
    let mut frame = vec![0; FRAME_MAX];
    // An error can only be that the other end is gone.
    while let Ok(length) = cable.recv(&mut frame) {
        let at = Instant::now();
        if length == 0 {
            return;
        }
        let (tag, frame) = untagged(&frame[..length]);
        if let Some(reply) = arp_reply(&frame) {
            if !deaf.load(Ordering::Relaxed) {
                // A machine that is gone or slow asks again.
                let _ = cable.send(&tagged(tag, reply));
            }
        } else if let Some((port, payload)) = udp(&frame).filter(|(port, _)| *port != DISCARD) {
            for onward in forward.iter().filter(|onward| onward.port == port) {
                if let Ok(mut speaker) = onward.speaker.lock() {
                    *speaker = speaker_of(&frame);
                }
                // UDP: a receiver that is not there is the receiver's matter.
                let _ = onward.socket.send(payload);
            }
            let payload = payload.to_vec();
            if sender.try_send(Datagram { at, port, payload }).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Takes what the receiver answers back to the machine.
fn answer(
    socket: &UdpSocket,
    cable: &UnixDatagram,
    speaker: &Mutex<Option<Speaker>>,
    closing: &AtomicBool,
) {
    let mut payload = vec![0; FRAME_MAX];
    while !closing.load(Ordering::Relaxed) {
        // An error is that nothing came, or that nobody listens there yet.
        let Ok(length) = socket.recv(&mut payload) else {
            continue;
        };
        let to = speaker.lock().ok().and_then(|speaker| *speaker);
        if let Some(to) = to {
            // A machine that is gone needs no answer.
            let _ = cable.send(&to.frame(&payload[..length]));
        }
    }
}

/// Who sent a frame that [`udp`] has read.
fn speaker_of(frame: &[u8]) -> Option<Speaker> {
    let segment = frame.get(14 + usize::from(frame.get(14)? & 15) * 4..)?;
    Some(Speaker {
        mac: array(frame, 6)?,
        from_port: u16::from_be_bytes(array(segment, 0)?),
        to_port: u16::from_be_bytes(array(segment, 2)?),
    })
}

impl Speaker {
    /// A datagram from where this one spoke to, in a frame (RFC 791, RFC 768; UDP
    /// without a checksum).
    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let length = |head: usize| ((head + payload.len()) as u16).to_be_bytes();
        let mut ip = vec![0x45, 0];
        ip.extend(length(28));
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(GATEWAY.octets());
        ip.extend(GUEST.octets());
        let words = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let sum: u32 = words.sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [&self.mac[..], &GATEWAY_MAC, &[8, 0], &ip].concat();
        frame.extend(self.to_port.to_be_bytes());
        frame.extend(self.from_port.to_be_bytes());
        frame.extend(length(8));
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A frame without its VLAN tag, and the tag (IEEE 802.1Q).
fn untagged(frame: &[u8]) -> (Option<[u8; 4]>, Cow<'_, [u8]>) {
    match array::<4>(frame, 12) {
        Some(tag) if tag[..2] == [0x81, 0x00] => {
            let rest = [&frame[..12], &frame[16..]].concat();
            (Some(tag), rest.into())
        }
        _ => (None, frame.into()),
    }
}

fn tagged(tag: Option<[u8; 4]>, mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(tag) = tag {
        frame.splice(12..12, tag);
    }
    frame
}

/// The answer to an ARP request for any address but the asker's own, and but one
/// where nobody is (RFC 826).
fn arp_reply(frame: &[u8]) -> Option<Vec<u8>> {
    // Ethernet, IPv4, 6 and 4 bytes, request.
    const REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    if array::<10>(frame, 12)? != REQUEST {
        return None;
    }
    let asker_mac: [u8; 6] = array(frame, 22)?;
    let asker_ip: [u8; 4] = array(frame, 28)?;
    let wanted: [u8; 4] = array(frame, 38)?;
    if wanted == asker_ip || wanted == GUEST.octets() || wanted == NOBODY.octets() {
        return None;
    }
    let mut reply = Vec::with_capacity(60);
    reply.extend_from_slice(&asker_mac);
    reply.extend_from_slice(&GATEWAY_MAC);
    reply.extend_from_slice(&REQUEST[..9]);
    reply.push(2);
    reply.extend_from_slice(&GATEWAY_MAC);
    reply.extend_from_slice(&wanted);
    reply.extend_from_slice(&asker_mac);
    reply.extend_from_slice(&asker_ip);
    reply.resize(60, 0);
    Some(reply)
}

/// Port and payload of an unfragmented IPv4 UDP datagram to the gateway.
fn udp(frame: &[u8]) -> Option<(u16, &[u8])> {
    const UDP: u8 = 17;
    let ip = frame.get(14..)?;
    let version_and_words = *ip.first()?;
    let fragment = u16::from_be_bytes(array(ip, 6)?) & 0x3fff;
    if array::<2>(frame, 12)? != [0x08, 0x00]
        || version_and_words >> 4 != 4
        || *ip.get(9)? != UDP
        || fragment != 0
        || array::<4>(ip, 16)? != GATEWAY.octets()
    {
        return None;
    }
    let segment = ip.get(usize::from(version_and_words & 15) * 4..)?;
    let length = usize::from(u16::from_be_bytes(array(segment, 4)?));
    let port = u16::from_be_bytes(array(segment, 2)?);
    Some((port, segment.get(8..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend_from_slice(&GUEST.octets());
        frame.extend_from_slice(&GATEWAY.octets());
        frame.extend_from_slice(&1234u16.to_be_bytes());
        frame.extend_from_slice(&6666u16.to_be_bytes());
        frame.extend_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn a_datagram_is_noted_passed_on_and_nothing_is_lost_at_the_end() -> Result<()> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (mut wire, datagrams, qemu) = Wire::new(&[(6666, receiver.local_addr()?)])?;
        qemu.send(&udp_frame(b"first"))?;
        for _ in 0..50 {
            qemu.send(&udp_frame(b"more"))?;
        }
        wire.close();
        let all: Vec<Datagram> = datagrams.try_iter().collect();
        assert_eq!(wire.lost(), 0);
        assert_eq!(all.len(), 51);
        assert_eq!(all[0].payload, b"first");
        assert_eq!(all[0].port, 6666);
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer)?;
        assert_eq!(&buffer[..length], b"first");
        Ok(())
    }

    #[test]
    fn an_answer_goes_back_to_who_spoke() -> Result<()> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (_wire, _datagrams, qemu) = Wire::new(&[(6666, receiver.local_addr()?)])?;
        qemu.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut spoken = udp_frame(b"hello");
        spoken[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        qemu.send(&spoken)?;
        let mut buffer = [0; 64];
        let (_, from) = receiver.recv_from(&mut buffer)?;
        receiver.send_to(b"answer", from)?;
        let mut frame = [0; 128];
        let length = qemu.recv(&mut frame)?;
        assert_eq!(length, 14 + 20 + 8 + 6);
        assert_eq!(&frame[..6], &[2, 0, 0, 0, 0, 1]);
        // From port 6666 to 1234, with the header's sum as RFC 791 has it.
        assert_eq!(&frame[34..38], &[0x1a, 0x0a, 0x04, 0xd2]);
        assert_eq!(&frame[42..48], b"answer");
        let words = frame[14..34].chunks(2);
        let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        Ok(())
    }

    #[test]
    fn arp_is_answered_but_not_for_the_asker_itself() {
        let mut request = vec![0xff; 6];
        request.extend_from_slice(&[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        request.extend_from_slice(&GUEST.octets());
        request.extend_from_slice(&[0; 6]);
        let mut announcement = request.clone();
        request.extend_from_slice(&GATEWAY.octets());
        announcement.extend_from_slice(&GUEST.octets());
        let reply = arp_reply(&request).expect("an answer");
        assert_eq!(&reply[..6], &[2, 0, 0, 0, 0, 1]);
        assert_eq!(&reply[20..28], &[0, 2, 0x52, 0x55, 10, 0, 2, 2]);
        assert_eq!(&reply[28..32], &GATEWAY.octets());
        assert_eq!(arp_reply(&announcement), None);
        for cut in 0..request.len() {
            assert_eq!(arp_reply(&request[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_cut_or_foreign_frame_is_no_datagram() {
        let frame = udp_frame(b"payload");
        assert!(udp(&frame).is_some());
        for cut in 0..frame.len() {
            assert_eq!(udp(&frame[..cut]), None, "{cut}");
        }
        let mut fragment = frame.clone();
        fragment[20] = 0x20;
        assert_eq!(udp(&fragment), None);
        let mut elsewhere = frame.clone();
        elsewhere[33] = 77;
        assert_eq!(udp(&elsewhere), None);
        let mut short = frame;
        short[38..40].copy_from_slice(&3u16.to_be_bytes());
        assert_eq!(udp(&short), None);
    }
}
