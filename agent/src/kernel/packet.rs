//! Frames below UDP: `AF_PACKET` with `PACKET_QDISC_BYPASS`.
//!
//! The bypass goes to the driver's queue directly (`__dev_direct_xmit`,
//! net/core/dev.c): it passes a queueing discipline that a dead CPU owns, and
//! the byte queue limit that nobody lifts any more.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `PACKET_QDISC_BYPASS` (include/uapi/linux/if_packet.h).
const PACKET_QDISC_BYPASS: libc::c_int = 20;

/// A socket that sends whole Ethernet frames on any device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens it; it receives nothing. Needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // SAFETY: numbers only; the descriptor is owned from here on.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // Protocol 0: no packet is ever delivered here.
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int of this size.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fd))
    }

    /// Sends one frame, Ethernet header included, on the device with this
    /// index. Never waits, never allocates in user space.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: an all-zero address is valid; `frame` is readable for its
        // length and the kernel copies it before the call returns.
        let sent = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = interface as i32;
            address.sll_halen = 6;
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Whether a device still holds frames of this socket (`SIOCOUTQ`): handed
    /// over, but for all that is known not yet sent. False where that cannot be
    /// asked, or where the driver lets go of a frame as soon as it has it.
    pub fn is_in_flight(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the request writes one int.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ as _, &raw mut bytes) };
        result == 0 && bytes > 0
    }
}
