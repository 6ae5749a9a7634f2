//! Memory for frames on a machine that has none left.
//!
//! To send, the kernel allocates (`sock_alloc_send_pskb`, net/core/sock.c), and
//! with nothing left that waits: for a panicking OOM killer, who holds `oom_lock`,
//! it would wait for ever (`__alloc_pages_may_oom`, mm/page_alloc.c). So datagrams
//! as large as a frame lie ready in sockets of the drain thread's own. To receive
//! one frees just what the next frame takes, on the same CPU, to the same caches:
//! the buffer (`kmalloc_reserve`, net/core/skbuff.c) and its `sk_buff`.
//!
//! It takes two kinds of sockets. What UDP has received leaves its `sk_buff`, in
//! Linux 6.18, to what devices receive (`skb_attempt_defer_free`), where no sender
//! looks. The buffers of a Unix socket belong to its control group, which has
//! caches of its own (`GFP_KERNEL_ACCOUNT`, `unix_create1`, net/unix/af_unix.c).

use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use crate::gasp::link::MAX_WIRE;

/// Frames that can be sent out of it; what a device has sent can be used again.
/// Below what a socket may hold by default (`net.core.rmem_default`, `wmem_default`).
const FRAMES: usize = 48;

/// Memory set aside in the kernel by one thread, for its own sending.
#[derive(Debug)]
pub struct Reserve {
    /// Connected to itself, so that nobody else can fill it: frees buffers.
    udp: UdpSocket,
    /// A pair, which has no limit but bytes: what is sent to the one lies in the
    /// other, and frees each its `sk_buff`.
    unix: (UnixDatagram, UnixDatagram),
    /// Frames that are not there, or no more.
    missing: usize,
}

impl Reserve {
    /// Opens it; what it holds is allocated by [`Self::fill`].
    pub fn open() -> io::Result<Self> {
        let udp = UdpSocket::bind(("127.0.0.1", 0))?;
        udp.connect(udp.local_addr()?)?;
        udp.set_nonblocking(true)?;
        let unix = UnixDatagram::pair()?;
        unix.0.set_nonblocking(true)?;
        unix.1.set_nonblocking(true)?;
        Ok(Self {
            udp,
            unix,
            missing: FRAMES,
        })
    }

    /// Sets aside what is missing. To be called by the thread that will
    /// send, while memory is plenty.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        while self.missing > 0 {
            self.udp.send(&[0; MAX_WIRE])?;
            self.unix.0.send(&[0; MAX_WIRE])?;
            self.missing -= 1;
        }
        Ok(())
    }

    /// Frees what one frame takes; nothing, if there is none left.
    pub(super) fn release(&mut self) {
        // The rest of the datagram is thrown away with it.
        let buffer = self.udp.recv(&mut [0; 1]);
        let sk_buff = self.unix.1.recv(&mut [0; 1]);
        if buffer.is_ok() || sk_buff.is_ok() {
            self.missing += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_can_be_released_and_set_aside_again() -> io::Result<()> {
        let mut reserve = Reserve::open()?;
        for _ in 0..2 {
            reserve.fill()?;
            for taken in 1..=FRAMES {
                reserve.release();
                assert_eq!(reserve.missing, taken);
            }
            reserve.release();
            assert_eq!(reserve.missing, FRAMES);
        }
        Ok(())
    }
}
