//! The ways out of the machine: below UDP at once, by UDP when there is time.

use std::io;
use std::sync::atomic::Ordering;

use super::{MAX_COLLECTORS, Reserve, Shared};
use crate::gasp::link::{Link, MAX_WIRE};
use crate::gasp::protocol::MAX_FRAME;
use crate::kernel::packet::PacketSocket;
use crate::kernel::sched;

/// Frames kept for UDP while the ones below UDP go first.
const UDP_QUEUE: usize = 32;

/// How one drain thread sends.
pub(super) struct Outlet<'a> {
    shared: &'a Shared,
    /// Number of the thread that sends by it.
    thread: usize,
    packet: Option<PacketSocket>,
    reserve: Option<Reserve>,
    links: [Option<Link>; MAX_COLLECTORS],
    links_version: u64,
    wire: Box<[u8; MAX_WIRE]>,
    /// Frames that went below UDP and are yet to go by UDP: a ring, of which this many
    /// from the first one are in use.
    queue: Box<[[u8; MAX_FRAME]]>,
    queued: [usize; UDP_QUEUE],
    first: usize,
    in_queue: usize,
}

impl<'a> Outlet<'a> {
    /// `packet` is the socket below UDP, where there is one.
    pub(super) fn new(
        shared: &'a Shared,
        thread: usize,
        packet: Option<PacketSocket>,
        reserve: Option<Reserve>,
    ) -> Self {
        Self {
            shared,
            thread,
            packet,
            reserve,
            links: [None; MAX_COLLECTORS],
            links_version: 0,
            wire: Box::new([0; MAX_WIRE]),
            queue: vec![[0; MAX_FRAME]; UDP_QUEUE].into_boxed_slice(),
            queued: [0; UDP_QUEUE],
            first: 0,
            in_queue: 0,
        }
    }

    /// Goes through the motions with this frame, so that what sending touches,
    /// code and buffers, is in memory. Nothing is sent.
    pub(super) fn rehearse(&mut self, frame: &[u8]) {
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let nowhere = Link {
            interface: 0,
            source_mac: [0; 6],
            next_hop_mac: [0; 6],
            vlan: None,
            from: to,
            to,
        };
        // Every page of it: a page that was only ever zero is not there yet.
        self.wire.fill(0xff);
        nowhere.wrap(0, frame, &mut self.wire);
        for place in &mut self.queue {
            place.fill(0xff);
        }
        std::hint::black_box((&self.wire, &self.queue));
    }

    /// Whether frames go below UDP.
    pub(super) fn below_udp(&self) -> bool {
        self.packet.is_some() && self.links.iter().any(Option::is_some)
    }

    /// Sends a frame: below UDP at once, by UDP when there is time, or at once
    /// where there is no other way. False: it was not sent, as the CPUs are about to
    /// be stopped; it is to be sent again if they are not yet.
    #[must_use]
    pub(super) fn send(&mut self, frame: &[u8]) -> bool {
        if let Some(packet) = &self.packet {
            for link in self.links.iter().flatten() {
                let id = self.shared.next_seq.load(Ordering::Relaxed) as u16;
                let wire = link.wrap(id, frame, &mut self.wire);
                let Some(_sending) = self.shared.ring.begin_sending(self.thread) else {
                    return false;
                };
                release(&mut self.reserve);
                if send_packet(packet, link.interface, &self.wire[..wire]).is_err() {
                    let errors = &self.shared.losses.packet_errors;
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.leads();
        self.keep_for_udp(frame);
        let is_out = self.below_udp() || self.flush_udp(|| false);
        if !is_out {
            self.in_queue -= 1;
        }
        is_out
    }

    /// Where there is no place left, the oldest one goes now.
    pub(super) fn keep_for_udp(&mut self, frame: &[u8]) {
        if self.in_queue == UDP_QUEUE && !self.send_oldest() {
            self.drop_oldest();
        }
        let place = (self.first + self.in_queue) % UDP_QUEUE;
        self.queue[place][..frame.len()].copy_from_slice(frame);
        self.queued[place] = frame.len();
        self.in_queue += 1;
    }

    /// Sends by UDP what has gone below it: a frame at least, and the rest unless something
    /// else is `urgent`. False: not all of it.
    pub(super) fn flush_udp(&mut self, urgent: impl Fn() -> bool) -> bool {
        while self.in_queue > 0 {
            if !self.send_oldest() || (self.in_queue > 0 && urgent()) {
                return false;
            }
        }
        true
    }

    /// Sends the frame by UDP that waits for it longest. False: it may not be sent now.
    fn send_oldest(&mut self) -> bool {
        let (frame, len) = (&self.queue[self.first], self.queued[self.first]);
        for socket in &self.shared.udp {
            let Some(_sending) = self.shared.ring.begin_sending(self.thread) else {
                return false;
            };
            release(&mut self.reserve);
            if socket.send(&frame[..len]).is_err() {
                let errors = &self.shared.losses.udp_errors;
                errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.leads();
        self.drop_oldest();
        true
    }

    /// Says that the first thread sends, if this is it.
    fn leads(&self) {
        if self.thread == 0 {
            let now = sched::monotonic_ns();
            self.shared.leads_ns.store(now, Ordering::Relaxed);
        }
    }

    fn drop_oldest(&mut self) {
        self.first = (self.first + 1) % UDP_QUEUE;
        self.in_queue -= 1;
    }

    /// Whether a device still holds frames that were sent below UDP.
    pub(super) fn is_in_flight(&self) -> bool {
        self.packet.as_ref().is_some_and(PacketSocket::is_in_flight)
    }

    /// Sets memory aside again, at rest. What cannot be had now is tried again
    /// at the next rest.
    pub(super) fn refill(&mut self) {
        if let Some(reserve) = &mut self.reserve {
            let _ = reserve.fill();
        }
    }

    /// Takes over new ways, at rest and when a death begins; never waits for them.
    pub(super) fn refresh_links(&mut self) {
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

/// Makes room in the kernel for one frame.
fn release(reserve: &mut Option<Reserve>) {
    if let Some(reserve) = reserve {
        reserve.release();
    }
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
