//! Sockets that are read by the batch: what the receiver of gasps and the
//! channels beside it have in common.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use crate::kernel::udp::Batch;

/// How long [`wait`] waits for datagrams, in milliseconds: so often a thread
/// looks whether to stop.
const POLL_MS: u16 = 200;

/// Opens a socket with room for `buffer` bytes; the kernel may give less, which
/// is said. `shared`: with others of this user that say so too.
pub(crate) fn bind(address: SocketAddr, buffer: usize, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // Forced where we may (CAP_NET_ADMIN), else up to net.core.rmem_max.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    // The kernel reports twice what was asked for: it counts its own overhead.
    let given = socket.recv_buffer_size()? / 2;
    if given < buffer && !shared {
        tracing::info!(
            %address,
            given,
            wanted = buffer,
            "small receive buffer: a storm of deaths may overflow it; raise net.core.rmem_max or give CAP_NET_ADMIN"
        );
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Takes what has arrived, `most` datagrams if there are more, and does not
/// wait; gives how many those were.
pub(crate) fn receive(batch: &mut Batch, socket: &UdpSocket, most: usize) -> io::Result<usize> {
    use io::ErrorKind::{Interrupted, WouldBlock};
    match batch.receive(socket.as_fd(), most) {
        Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Ok(0),
        result => result,
    }
}

/// Waits a while for datagrams.
pub(crate) fn wait(sockets: [&UdpSocket; 2]) -> io::Result<()> {
    let mut waited = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    poll(&mut waited, PollTimeout::from(POLL_MS))?;
    Ok(())
}
