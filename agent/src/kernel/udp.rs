//! Many datagrams by one system call, and a port that sorts them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Buffers that `recvmmsg(2)` fills; made once, so that receiving allocates
/// nothing.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    size: usize,
    sources: Vec<libc::sockaddr_storage>,
    /// Each points at its part of `bytes`.
    parts: Vec<libc::iovec>,
    /// Each points at its source and its part.
    headers: Vec<libc::mmsghdr>,
    filled: usize,
}

// SAFETY: the pointers go to heap memory that the batch itself owns and never
// gives back before it is dropped; nothing is bound to a thread.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `count` datagrams of at most `size` bytes; what is longer is
    /// cut there.
    pub fn new(count: usize, size: usize) -> Self {
        // SAFETY: all-zero is valid for the three, which are plain C structures.
        let (source, part, header) = unsafe {
            (
                std::mem::zeroed::<libc::sockaddr_storage>(),
                std::mem::zeroed::<libc::iovec>(),
                std::mem::zeroed::<libc::mmsghdr>(),
            )
        };
        let size = size.max(1);
        let mut batch = Self {
            bytes: vec![0; count * size],
            size,
            sources: vec![source; count],
            parts: vec![part; count],
            headers: vec![header; count],
            filled: 0,
        };
        let buffers = batch.bytes.chunks_exact_mut(size);
        for (part, buffer) in batch.parts.iter_mut().zip(buffers) {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = size;
        }
        let places = batch.sources.iter_mut().zip(&mut batch.parts);
        for (header, (source, part)) in batch.headers.iter_mut().zip(places) {
            header.msg_hdr.msg_name = std::ptr::from_mut(source).cast();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        batch
    }

    /// Takes what has arrived, `most` datagrams if there are more, and does not
    /// wait; gives how many those were. [`io::ErrorKind::WouldBlock`] if there
    /// was nothing.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.filled = 0;
        let most = most.min(self.headers.len());
        for header in &mut self.headers[..most] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
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

    /// What was received last, and from where.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let places = self.bytes.chunks_exact(self.size).zip(&self.sources);
        self.headers[..self.filled]
            .iter()
            .zip(places)
            .map(|(header, (bytes, source))| {
                let len = (header.msg_len as usize).min(self.size);
                (&bytes[..len], address(source))
            })
    }
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
            let texts: Vec<_> = batch.iter().map(|(bytes, _)| bytes).collect();
            assert_eq!(texts, [&b"one"[..], b"", b"nine byt", b"four"]);
            assert!(batch.iter().all(|(_, source)| source == from));
            assert_eq!(batch.receive(socket.as_fd(), 1).expect("one"), 1);
            assert_eq!(batch.iter().next(), Some((&b"five"[..], from)));
        }
    }
}
