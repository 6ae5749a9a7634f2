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
        tracing::warn!(
            %address,
            given,
            wanted = buffer,
            "small receive buffer: a storm of deaths may overflow it; set net.core.rmem_max to the size wanted on this node, or give CAP_NET_ADMIN"
        );
    }
    socket.set_reuse_port(shared)?;
    // Who answers by it must not wait for its send buffer.
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Has datagrams that one node sent at once come as one message ([`Batch::of_several`]);
/// a kernel before 5.0 goes on giving them one by one. What has no room then is counted by
/// the kernel as one, too: how many were lost only their own numbers tell.
pub(crate) fn several_at_once(socket: &UdpSocket) {
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
}

/// Lets a port that two sockets share give datagrams with this byte at this
/// place to the second, and all others to the first, in the order in which they
/// were bound (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)).
pub(super) fn sort_by_byte(socket: &UdpSocket, at: u32, byte: u8) -> io::Result<()> {
    let step = |parts: [u32; 3], jf, k| libc::sock_filter {
        code: parts.iter().sum::<u32>() as u16,
        jt: 0,
        jf,
        k,
    };
    // A datagram that is shorter ends the program, with 0 as its answer.
    let mut program = [
        step([libc::BPF_LD, libc::BPF_B, libc::BPF_ABS], 0, at),
        step([libc::BPF_JMP, libc::BPF_JEQ, libc::BPF_K], 1, byte.into()),
        step([libc::BPF_RET, libc::BPF_K, 0], 0, 1),
        step([libc::BPF_RET, libc::BPF_K, 0], 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
}

/// Takes what has arrived, `most` messages if there are more, and does not
/// wait; gives how many those were.
pub(crate) fn receive(batch: &mut Batch, socket: &UdpSocket, most: usize) -> io::Result<usize> {
    use io::ErrorKind::{Interrupted, WouldBlock};
    match batch.receive(socket.as_fd(), most) {
        Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Ok(0),
        result => result,
    }
}

/// Waits a while for datagrams.
pub(crate) fn wait<'a>(sockets: impl IntoIterator<Item = &'a UdpSocket>) -> io::Result<()> {
    let of = |socket: &'a UdpSocket| PollFd::new(socket.as_fd(), PollFlags::POLLIN);
    let mut waited: Vec<_> = sockets.into_iter().map(of).collect();
    poll(&mut waited, PollTimeout::from(POLL_MS))?;
    Ok(())
}
