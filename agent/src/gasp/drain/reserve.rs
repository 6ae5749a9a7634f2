//! Memory for frames on a machine that has none left.
//!
//! To send, the kernel allocates (`sock_alloc_send_pskb`, net/core/sock.c), and
//! with nothing left that waits: for a panicking OOM killer, who holds `oom_lock`,
//! it would wait for ever (`__alloc_pages_may_oom`, mm/page_alloc.c). So datagrams
//! as large as a frame lie ready in a socket of the drain thread's own. To receive
//! one frees just what the next frame takes, on the same CPU, from the same caches.

use std::io;
use std::net::UdpSocket;

use crate::gasp::protocol::MAX_FRAME;

/// Frames that can be sent out of it; what a device has sent can be used again.
/// Below what a socket may hold by default (`net.core.rmem_default`).
const FRAMES: usize = 48;

/// Memory set aside in the kernel by one thread, for its own sending.
#[derive(Debug)]
pub struct Reserve {
    /// Connected to itself, so that nobody else can fill it.
    socket: UdpSocket,
    /// Frames that are not there, or no more.
    missing: usize,
}

impl Reserve {
    /// Opens it; what it holds is allocated by [`Self::fill`].
    pub fn open() -> io::Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(socket.local_addr()?)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            missing: FRAMES,
        })
    }

    /// Sets aside what is missing. To be called by the thread that will
    /// send, while memory is plenty.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        while self.missing > 0 {
            self.socket.send(&[0; MAX_FRAME])?;
            self.missing -= 1;
        }
        Ok(())
    }

    /// Frees what one frame takes; nothing, if there is none left.
    pub(super) fn release(&mut self) {
        // The rest of the datagram is thrown away with it.
        if self.socket.recv(&mut [0; 1]).is_ok() {
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
