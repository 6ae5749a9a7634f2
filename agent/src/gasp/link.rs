//! Frames below UDP: Ethernet, VLAN, IP and UDP headers around a payload.
//!
//! Everything that can be known beforehand is in a [`Link`]; on the dying path
//! it is only copied.

use std::net::{IpAddr, SocketAddr};

use super::protocol::MAX_FRAME;

/// Longest frame on the wire: Ethernet 14, VLAN 4, IPv6 40, UDP 8, payload.
pub const MAX_WIRE: usize = 66 + MAX_FRAME;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const UDP: u8 = 17;
const TTL: u8 = 64;

/// The way to one collector, as it stood when it was last looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Index of the device to send on: the lowest one, not a bridge or VLAN.
    pub interface: u32,
    /// That device's address.
    pub source_mac: [u8; 6],
    /// The next hop's.
    pub next_hop_mac: [u8; 6],
    /// VLAN id to tag with.
    pub vlan: Option<u16>,
    /// Our address and port.
    pub from: SocketAddr,
    /// The collector's.
    pub to: SocketAddr,
}

impl Link {
    /// Writes headers and payload into `out`; gives the length. `id` tells IPv4
    /// packets apart. A payload over [`MAX_FRAME`], or addresses of two
    /// families, give 0.
    pub fn wrap(&self, id: u16, payload: &[u8], out: &mut [u8; MAX_WIRE]) -> usize {
        if payload.len() > MAX_FRAME {
            return 0;
        }
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.next_hop_mac);
        put(&self.source_mac);
        if let Some(vlan) = self.vlan {
            put(&ETHERTYPE_VLAN);
            put(&(vlan & 0xfff).to_be_bytes());
        }
        let udp_len = (8 + payload.len()) as u16;
        let mut udp = [0u8; 8];
        udp[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        udp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = [0u8; 20];
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
                ip[4..6].copy_from_slice(&id.to_be_bytes());
                ip[6] = 0x40; // do not fragment
                ip[8] = TTL;
                ip[9] = UDP;
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
                let checksum = !fold(sum(0, &ip));
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                let checksum = udp_checksum(&from.octets(), &to.octets(), udp, payload);
                udp[6..8].copy_from_slice(&checksum.to_be_bytes());
                put(&ETHERTYPE_IPV4);
                put(&ip);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = [0u8; 40];
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
                ip[6] = UDP;
                ip[7] = TTL;
                ip[8..24].copy_from_slice(&from.octets());
                ip[24..40].copy_from_slice(&to.octets());
                let checksum = udp_checksum(&from.octets(), &to.octets(), udp, payload);
                udp[6..8].copy_from_slice(&checksum.to_be_bytes());
                put(&ETHERTYPE_IPV6);
                put(&ip);
            }
            _ => return 0,
        }
        put(&udp);
        put(payload);
        at
    }
}

/// RFC 768: over the pseudo header, the header and the payload; never 0.
fn udp_checksum(from: &[u8], to: &[u8], udp: [u8; 8], payload: &[u8]) -> u16 {
    let mut total = sum(0, from);
    total = sum(total, to);
    total += u32::from(UDP) + (8 + payload.len()) as u32;
    total = sum(total, &udp);
    match !fold(sum(total, payload)) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Adds 16-bit words (RFC 1071). A frame is far too short to overflow 32 bits.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |total, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        total + u32::from(u16::from_be_bytes([pair[0], low]))
    })
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: &str, to: &str, vlan: Option<u16>) -> Link {
        Link {
            interface: 2,
            source_mac: [2, 0, 0, 0, 0, 1],
            next_hop_mac: [2, 0, 0, 0, 0, 2],
            vlan,
            from: from.parse().expect("address"),
            to: to.parse().expect("address"),
        }
    }

    /// The sum over what a checksum covers, the checksum included, is all ones.
    fn verifies(parts: &[&[u8]], extra: u32) -> bool {
        fold(parts.iter().fold(extra, |total, part| sum(total, part))) == 0xffff
    }

    #[test]
    fn ipv4_headers_add_up() {
        let mut out = [0; MAX_WIRE];
        for payload in [&b""[..], b"x", b"hello", &[0xff; MAX_FRAME]] {
            let len = link("10.0.2.15:4000", "10.0.2.2:9618", None).wrap(7, payload, &mut out);
            assert_eq!(len, 14 + 20 + 8 + payload.len());
            assert_eq!(out[12..14], [8, 0]);
            let (ip, udp) = (&out[14..34], &out[34..len]);
            assert!(verifies(&[ip], 0));
            assert!(verifies(&[&ip[12..20], udp], 17 + udp.len() as u32));
            assert_eq!(&out[42..len], payload);
        }
    }

    #[test]
    fn ipv6_headers_add_up_and_a_vlan_is_tagged() {
        let mut out = [0; MAX_WIRE];
        let len = link("[fd00::1]:4000", "[fd00::2]:9618", Some(42)).wrap(7, b"hello", &mut out);
        assert_eq!(len, 18 + 40 + 8 + 5);
        assert_eq!(out[12..18], [0x81, 0, 0, 42, 0x86, 0xdd]);
        let (ip, udp) = (&out[18..58], &out[58..len]);
        assert!(verifies(&[&ip[8..40], udp], 17 + udp.len() as u32));
    }

    #[test]
    fn what_cannot_be_wrapped_is_not() {
        let mut out = [0; MAX_WIRE];
        assert_eq!(
            link("10.0.2.15:1", "[fd00::2]:1", None).wrap(0, b"", &mut out),
            0
        );
        let long = [0; MAX_FRAME + 1];
        assert_eq!(
            link("10.0.2.15:1", "10.0.2.2:1", None).wrap(0, &long, &mut out),
            0
        );
    }
}
