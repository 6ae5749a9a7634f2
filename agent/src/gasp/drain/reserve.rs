//! Memory for frames on a machine that has none left.
//!
//! To send, the kernel allocates (`sock_alloc_send_pskb`, net/core/sock.c), and
//! with nothing left that waits: for a panicking OOM killer, who holds `oom_lock`,
//! it would wait for ever (`__alloc_pages_may_oom`, mm/page_alloc.c). So datagrams
//! as large as a frame lie ready in a socket of the drain thread's own. To receive
//! one frees just what the next frame takes, on the same CPU, to the same caches.
//!
//! Not UDP: what it has received, Linux 6.18 keeps for what devices receive
//! (`skb_attempt_defer_free`, net/core/skbuff.c), and a sender does not look there.

use std::io;
use std::os::unix::net::UnixDatagram;

use crate::gasp::link::MAX_WIRE;

/// Frames that can be sent out of it; what a device has sent can be used again.
/// Below what a socket may send unread by default (`net.core.wmem_default`).
const FRAMES: usize = 48;

/// Memory set aside in the kernel by one thread, for its own sending.
#[derive(Debug)]
pub struct Reserve {
    /// What is sent here lies in the other one: two of a pair have no other limit
    /// (`unix_dgram_sendmsg`, net/unix/af_unix.c).
    fill: UnixDatagram,
    release: UnixDatagram,
    /// Frames that are not there, or no more.
    missing: usize,
}

impl Reserve {
    /// Opens it; what it holds is allocated by [`Self::fill`].
    pub fn open() -> io::Result<Self> {
        let (fill, release) = UnixDatagram::pair()?;
        fill.set_nonblocking(true)?;
        release.set_nonblocking(true)?;
        Ok(Self {
            fill,
            release,
            missing: FRAMES,
        })
    }

    /// Sets aside what is missing. To be called by the thread that will
    /// send, while memory is plenty.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        while self.missing > 0 {
            self.fill.send(&[0; MAX_WIRE])?;
            self.missing -= 1;
        }
        Ok(())
    }

    /// Frees what one frame takes; nothing, if there is none left.
    pub(super) fn release(&mut self) {
        // The rest of the datagram is thrown away with it.
        if self.release.recv(&mut [0; 1]).is_ok() {
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
