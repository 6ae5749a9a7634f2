//! Packets by hand: what no socket would send.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// `IPPROTO_RAW`: the header is in the data.
const RAW: i32 = 255;

/// A UDP datagram over IPv4.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Where from.
    pub source: Ipv4Addr,
    /// Where to.
    pub destination: Ipv4Addr,
    /// The port there.
    pub port: u16,
    /// How many hops it may make.
    pub ttl: u8,
    /// Whether routers may not cut it.
    pub is_whole: bool,
    /// Whether its checksum is wrong.
    pub is_damaged: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// An ordinary one.
    pub fn to(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Self {
        Self {
            source,
            destination,
            port,
            ttl: 64,
            is_whole: false,
            is_damaged: false,
            payload: b"lost".to_vec(),
        }
    }

    /// Sends it so many times, in the namespace of the calling thread.
    pub fn send(&self, times: u64) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        let to = SockAddr::from(SocketAddrV4::new(self.destination, 0));
        let bytes = self.bytes();
        for _ in 0..times {
            socket.send_to(&bytes, &to).context("cannot send")?;
        }
        Ok(())
    }

    /// From the IP header on; the kernel fills in that one's length and checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let udp = 8 + self.payload.len() as u16;
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + udp).to_be_bytes());
        bytes.extend([
            0,
            0,
            if self.is_whole { 0x40 } else { 0 },
            0,
            self.ttl,
            17,
            0,
            0,
        ]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(udp.to_be_bytes());
        // Zero: there is none.
        let checksum: u16 = if self.is_damaged { 0x1234 } else { 0 };
        bytes.extend(checksum.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}
