//! Packets that are lost on purpose, on the loopback device.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use crate::machine;

/// Longer than a packet takes to a socket of the same machine.
const ARRIVED: Duration = Duration::from_millis(500);

/// Sends this many packets to a port.
pub(crate) fn send(port: u16, packets: u64) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for _ in 0..packets {
        socket.send_to(b"lost", (Ipv4Addr::LOCALHOST, port))?;
    }
    Ok(())
}

/// Sends this many to a socket that has room for a few; how many it had room for.
pub(crate) fn overfill(port: u16, packets: u64) -> io::Result<u64> {
    let full = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let room: libc::c_int = 4096;
    // SAFETY: the option is one int, which is read.
    machine::check(unsafe {
        libc::setsockopt(
            full.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const room).cast(),
            size_of_val(&room) as libc::socklen_t,
        )
    })?;
    full.set_read_timeout(Some(ARRIVED))?;
    send(port, packets)?;
    let mut waited = 0;
    loop {
        match full.recv(&mut [0; 16]) {
            Ok(_) => waited += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(waited),
            Err(error) => return Err(error),
        }
    }
}
