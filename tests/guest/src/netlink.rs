//! rtnetlink (include/uapi/linux/rtnetlink.h), as much of it as the cases need.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::FromRawFd as _;

use anyhow::{Context as _, Result};

use crate::machine;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// A socket to the kernel's network, of the namespace that the calling thread is in.
pub(crate) struct Netlink(File);

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: gives a new descriptor.
        unsafe {
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
            machine::check(fd)?;
            Ok(Self(File::from_raw_fd(fd)))
        }
    }

    /// Asks for something new, and waits for the answer.
    pub(crate) fn create(&self, kind: u16, body: &[u8]) -> Result<()> {
        let mut socket = &self.0;
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags as u16).to_ne_bytes());
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(body);
        socket.write_all(&bytes)?;
        let mut answer = [0; 1024];
        let len = socket.read(&mut answer)?;
        let error = answer[..len].get(HEADER..HEADER + 4);
        let error = error.and_then(|bytes| bytes.try_into().ok());
        match i32::from_ne_bytes(error.context("an answer that is too short")?) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error).into()),
        }
    }
}

/// `struct nlattr` and what it holds.
pub(crate) fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = (4 + content.len()) as u16;
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
