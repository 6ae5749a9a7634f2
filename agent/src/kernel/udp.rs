//! Many datagrams by one system call, and a port that sorts them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for what the kernel says beside a message: the length of its datagrams. It is
/// aligned as `cmsghdr` has to be.
type Beside = [u64; 4];

/// Longest message: a datagram, or several of one source behind each other (`UDP_GRO`).
const MESSAGE_MAX: usize = 1 << 16;

/// Buffers that `recvmmsg(2)` fills; made once, so that receiving allocates
/// nothing.
///
/// A socket with `UDP_GRO` (udp(7)) gives datagrams of one source and length that came
/// together as one message: a node that dies sends such. They are taken apart here.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Bytes of each message.
    room: usize,
    /// Bytes of a datagram; what is longer is cut.
    size: usize,
    sources: Vec<libc::sockaddr_storage>,
    /// Each points at its part of `bytes`.
    parts: Vec<libc::iovec>,
    beside: Vec<Beside>,
    /// Each points at its source, its part and what is beside it.
    headers: Vec<libc::mmsghdr>,
    filled: usize,
    /// The message and the place in it that come next.
    next: (usize, usize),
}

// SAFETY: the pointers go to heap memory that the batch itself owns and never
// gives back before it is dropped; nothing is bound to a thread.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `count` datagrams of at most `size` bytes; what is longer is cut there.
    pub fn new(count: usize, size: usize) -> Self {
        Self::with_room(count, size, size.max(1))
    }

    /// Room for `count` messages of a socket with `UDP_GRO`, with datagrams of at most
    /// `size` bytes. Only what was ever filled is in memory.
    pub fn of_several(count: usize, size: usize) -> Self {
        Self::with_room(count, size, MESSAGE_MAX)
    }

    fn with_room(count: usize, size: usize, room: usize) -> Self {
        // SAFETY: all-zero is valid for the three, which are plain C structures.
        let (source, part, header) = unsafe {
            (
                std::mem::zeroed::<libc::sockaddr_storage>(),
                std::mem::zeroed::<libc::iovec>(),
                std::mem::zeroed::<libc::mmsghdr>(),
            )
        };
        let mut batch = Self {
            bytes: vec![0; count * room],
            room,
            size: size.max(1),
            sources: vec![source; count],
            parts: vec![part; count],
            beside: vec![Beside::default(); count],
            headers: vec![header; count],
            filled: 0,
            next: (0, 0),
        };
        let buffers = batch.bytes.chunks_exact_mut(room);
        for (part, buffer) in batch.parts.iter_mut().zip(buffers) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = room;
        }
        let places = batch.sources.iter_mut().zip(&mut batch.parts);
        let places = places.zip(&mut batch.beside);
        for (header, ((source, part), beside)) in batch.headers.iter_mut().zip(places) {
            header.msg_hdr.msg_name = std::ptr::from_mut(source).cast();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = std::ptr::from_mut(beside).cast();
        }
        batch
    }

    /// Takes what has arrived, `most` messages if there are more, and does not
    /// wait; gives how many those were. What [`Self::take`] has not given is lost.
    /// [`io::ErrorKind::WouldBlock`] if there was nothing.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        (self.filled, self.next) = (0, (0, 0));
        let most = most.min(self.headers.len());
        for header in &mut self.headers[..most] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = size_of::<Beside>() as _;
        }
        // SAFETY: each of the first `most` headers points at writable memory of the lengths it
        // names, owned by `self`; without a timeout the last pointer is null.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                most as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// The next datagram of what was received last, and where it came from.
    pub fn take(&mut self) -> Option<(&[u8], SocketAddr)> {
        let (at, start) = self.next;
        if at >= self.filled {
            return None;
        }
        let header = &self.headers[at];
        let end = (header.msg_len as usize).min(self.room);
        let length = length_of_each(&header.msg_hdr).unwrap_or(end).max(1);
        let stop = start.saturating_add(length).min(end);
        self.next = if stop < end { (at, stop) } else { (at + 1, 0) };
        let stop = stop.min(start + self.size);
        let message = &self.bytes[at * self.room..][..self.room];
        Some((&message[start..stop], address(&self.sources[at])))
    }

    /// Whether all that was received last was given.
    pub fn is_empty(&self) -> bool {
        self.next.0 >= self.filled
    }
}

/// How long each datagram of a message is, but for the last, which may be shorter; `None`
/// if it is one datagram.
fn length_of_each(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `recvmmsg` has filled the header, whose control buffer and the length that it
    // wrote there are those of a `Beside`, which lives as long as the header.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or a whole `cmsghdr` within the control buffer.
    let beside = unsafe { first.as_ref() }?;
    if (beside.cmsg_level, beside.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: behind the header of this type stands an `int` (net/ipv4/udp.c,
    // `udp_cmsg_recv`), for which the control buffer has room.
    let length = unsafe {
        libc::CMSG_DATA(first)
            .cast::<libc::c_int>()
            .read_unaligned()
    };
    usize::try_from(length).ok().filter(|length| *length > 0)
}

fn address(source: &libc::sockaddr_storage) -> SocketAddr {
    let pointer = std::ptr::from_ref(source);
    if libc::c_int::from(source.ss_family) == libc::AF_INET6 {
        // SAFETY: the storage is larger than and aligned for both kinds of
        // address, and the family says which one it is.
        let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        return SocketAddr::new(IpAddr::V6(ip), u16::from_be(v6.sin6_port));
    }
    // An internet socket has no others.
    // SAFETY: as above; all-zero is an address too.
    let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
    let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
    SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    /// All that is left.
    fn all(batch: &mut Batch) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut all = Vec::new();
        while let Some((bytes, source)) = batch.take() {
            all.push((bytes.to_vec(), source));
        }
        all
    }

    #[test]
    fn many_come_at_once_and_what_is_too_long_is_cut() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(local).expect("a socket");
            let sender = UdpSocket::bind(local).expect("a socket");
            let (to, from) = (socket.local_addr(), sender.local_addr());
            let (to, from) = (to.expect("an address"), from.expect("an address"));
            let mut batch = Batch::new(4, 8);
            let nothing = batch.receive(socket.as_fd(), 4).expect_err("nothing came");
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            for text in ["one", "", "nine bytes", "four", "five"] {
                sender.send_to(text.as_bytes(), to).expect("sent");
            }
            assert_eq!(batch.receive(socket.as_fd(), 9).expect("four"), 4);
            let got = all(&mut batch);
            let texts: Vec<_> = got.iter().map(|(bytes, _)| &bytes[..]).collect();
            assert_eq!(texts, [&b"one"[..], b"", b"nine byt", b"four"]);
            assert!(got.iter().all(|(_, source)| *source == from));
            assert!(batch.is_empty());
            assert_eq!(batch.receive(socket.as_fd(), 1).expect("one"), 1);
            assert!(!batch.is_empty());
            assert_eq!(batch.take(), Some((&b"five"[..], from)));
        }
    }

    #[test]
    fn what_came_as_one_message_is_taken_apart() {
        use nix::sys::socket::{setsockopt, sockopt};
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        setsockopt(&socket, sockopt::UdpGroSegment, &true).expect("a kernel since 5.0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        setsockopt(&sender, sockopt::UdpGsoSegment, &5).expect("a kernel since 4.18");
        let to = socket.local_addr().expect("an address");
        sender.send_to(b"firstotherlast", to).expect("sent");
        sender.send_to(b"alone", to).expect("sent");
        let mut batch = Batch::of_several(4, 8);
        assert_eq!(batch.receive(socket.as_fd(), 4).expect("two messages"), 2);
        let texts: Vec<_> = all(&mut batch)
            .into_iter()
            .map(|(bytes, _)| bytes)
            .collect();
        assert_eq!(texts, [&b"first"[..], b"other", b"last", b"alone"]);
    }
}
