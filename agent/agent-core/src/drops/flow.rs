//! From whom to whom a packet was, out of its first bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Behind these of IPv6's headers comes another one, and its length in 8 bytes less one.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;

/// Where in the packet a fragment of IPv4 belongs, beside its flags.
const OFFSET: u16 = 0x1fff;

/// Ports by which tunnels are known (IANA); the second of VXLAN is Linux's own default.
const VXLAN: [u16; 2] = [4789, 8472];
const GENEVE: u16 = 6081;

/// From whom to whom.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Flow {
    /// Its source.
    pub source: IpAddr,
    /// The port there, where the protocol has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Its destination.
    pub destination: IpAddr,
    /// The port there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Protocol of IP.
    pub transport: u8,
    /// Flags of TCP: `S`, `SA`, `R`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// What it carries, if it is a tunnel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner: Option<Box<Flow>>,
}

/// Reads it from the network header on; `None` if that is not IP, or too short for addresses.
pub fn flow(bytes: &[u8]) -> Option<Flow> {
    read(bytes, true)
}

fn read(bytes: &[u8], outer: bool) -> Option<Flow> {
    let (source, destination, transport, rest, is_first) = match bytes.first()? >> 4 {
        4 => {
            let len = usize::from(bytes[0] & 0xf) * 4;
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            };
            let is_first = short(bytes, 6)? & OFFSET == 0;
            let rest = bytes.get(len.max(20)..).unwrap_or_default();
            (address(12)?, address(16)?, *bytes.get(9)?, rest, is_first)
        }
        6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            };
            let (source, destination) = (address(8)?, address(24)?);
            let mut next = *bytes.get(6)?;
            let mut rest = bytes.get(40..).unwrap_or_default();
            let mut is_first = true;
            while EXTENSIONS.contains(&next) || next == FRAGMENT {
                let (Some(&behind), Some(&len)) = (rest.first(), rest.get(1)) else {
                    break;
                };
                let len = if next == FRAGMENT {
                    is_first &= short(rest, 2).is_some_and(|at| at >> 3 == 0);
                    8
                } else {
                    usize::from(len) * 8 + 8
                };
                next = behind;
                rest = rest.get(len..).unwrap_or_default();
            }
            (source, destination, next, rest, is_first)
        }
        _ => return None,
    };
    let mut flow = Flow {
        source,
        source_port: None,
        destination,
        destination_port: None,
        transport,
        flags: None,
        inner: None,
    };
    // Only the first fragment has ports.
    if is_first && matches!(transport, TCP | UDP | 33 | 132 | 136) {
        flow.source_port = short(rest, 0);
        flow.destination_port = short(rest, 2);
    }
    if is_first && transport == TCP {
        flow.flags = rest.get(13).map(|flags| tcp_flags(*flags));
    }
    if outer && is_first && transport == UDP {
        let inner = match flow.destination_port {
            Some(port) if VXLAN.contains(&port) => ethernet(rest.get(16..)),
            Some(GENEVE) => {
                let options = rest.get(8).map_or(0, |first| usize::from(first & 0x3f) * 4);
                ethernet(rest.get(16 + options..))
            }
            _ => None,
        };
        flow.inner = inner.map(Box::new);
    }
    Some(flow)
}

/// The flow in an Ethernet frame.
fn ethernet(frame: Option<&[u8]>) -> Option<Flow> {
    let frame = frame?;
    match short(frame, 12)? {
        0x8100 | 0x88a8 => read(frame.get(18..)?, false),
        _ => read(frame.get(14..)?, false),
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let two: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(two))
}

fn tcp_flags(flags: u8) -> String {
    let names = ['F', 'S', 'R', 'P', 'A', 'U'];
    let set = (0..6).filter(|bit| flags >> bit & 1 == 1);
    set.map(|bit| names[bit]).collect()
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |f: &mut fmt::Formatter<'_>, address: &IpAddr, port: Option<u16>| match port {
            Some(port) => write!(f, "{}", std::net::SocketAddr::new(*address, port)),
            None => write!(f, "{address}"),
        };
        end(f, &self.source, self.source_port)?;
        f.write_str(" > ")?;
        end(f, &self.destination, self.destination_port)?;
        if let Some(flags) = self.flags.as_deref().filter(|flags| !flags.is_empty()) {
            write!(f, " {flags}")?;
        }
        if let Some(inner) = &self.inner {
            write!(f, " ({inner})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(transport: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, transport, 0, 0];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(payload);
        bytes
    }

    fn v6(transport: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, transport, 64];
        bytes.extend([[0; 15].as_slice(), &[1], &[0; 15], &[2]].concat());
        bytes.extend(payload);
        bytes
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x30, 0x39];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn flows_are_told_from_their_first_bytes() {
        let syn = [0, 80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2];
        let frame = [&[0; 12][..], &[8, 0], &v4(TCP, &syn)].concat();
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame].concat();
        let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 1, 0, 9, 9, 9, 9][..], &frame].concat();
        let mut later = v4(UDP, &udp(53, b""));
        later[7] = 4;
        let hop = [&[UDP, 0, 0, 0, 0, 0, 0, 0][..], &udp(53, b"")].concat();
        for (bytes, shown) in [
            (v4(UDP, &udp(53, b"")), "10.0.0.1:12345 > 10.0.0.2:53"),
            (v4(TCP, &syn), "10.0.0.1:80 > 10.0.0.2:256 S"),
            (v4(1, &[8, 0]), "10.0.0.1 > 10.0.0.2"),
            (later, "10.0.0.1 > 10.0.0.2"),
            (v6(UDP, &udp(53, b"")), "[::1]:12345 > [::2]:53"),
            (v6(0, &hop), "[::1]:12345 > [::2]:53"),
            (
                v4(UDP, &udp(8472, &vxlan)),
                "10.0.0.1:12345 > 10.0.0.2:8472 (10.0.0.1:80 > 10.0.0.2:256 S)",
            ),
            (
                v4(UDP, &udp(GENEVE, &geneve)),
                "10.0.0.1:12345 > 10.0.0.2:6081 (10.0.0.1:80 > 10.0.0.2:256 S)",
            ),
        ] {
            assert_eq!(flow(&bytes).expect("is IP").to_string(), shown);
        }
        assert_eq!(flow(&[]), None);
        assert_eq!(flow(&[0; 64]), None);
        assert_eq!(flow(&v4(UDP, b"")[..19]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_flow_or_none(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..130)) {
            let _ = flow(&bytes).map(|flow| flow.to_string());
        }

        #[test]
        fn what_is_cut_short_has_the_same_addresses(cut in 20_usize..90) {
            let frame = [&[0; 12][..], &[8, 0], &v4(UDP, &udp(53, b""))].concat();
            let whole = v4(UDP, &udp(4789, &[&[0; 8][..], &frame].concat()));
            let short = flow(&whole[..cut.min(whole.len())]).expect("has addresses");
            let whole = flow(&whole).expect("has addresses");
            proptest::prop_assert_eq!(short.source, whole.source);
            proptest::prop_assert_eq!(short.destination, whole.destination);
        }
    }
}
