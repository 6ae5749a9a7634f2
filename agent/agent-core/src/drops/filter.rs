//! Which packets are wanted, and what protocols are called.

/// Protocols of Ethernet (include/uapi/linux/if_ether.h).
const IP: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ETHERNET: &[(&str, u16)] = &[("ip", IP), ("arp", 0x0806), ("ip6", IPV6), ("lldp", 0x88cc)];

/// Protocols of IP (include/uapi/linux/in.h), and the same of IPv6 where it has another.
const TRANSPORTS: &[(&str, u16, u16)] = &[
    ("icmp", 1, 58),
    ("igmp", 2, 2),
    ("tcp", 6, 6),
    ("udp", 17, 17),
    ("gre", 47, 47),
    ("esp", 50, 50),
    ("sctp", 132, 132),
];

/// A protocol that somebody asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Of Ethernet.
    Ethernet(u16),
    /// Of IP, and what it is over IPv6.
    Transport(u16, u16),
}

/// A word that is no protocol.
#[derive(Debug, thiserror::Error)]
#[error("no such protocol; known are {}", names())]
pub struct UnknownProtocol;

fn names() -> String {
    let transports = TRANSPORTS.iter().map(|(name, ..)| *name);
    let all: Vec<&str> = transports
        .chain(ETHERNET.iter().map(|(name, _)| *name))
        .collect();
    all.join(", ")
}

impl std::str::FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(word: &str) -> Result<Self, UnknownProtocol> {
        let word = word.to_ascii_lowercase();
        let transport = TRANSPORTS.iter().find(|(name, ..)| *name == word);
        if let Some((_, number, over_6)) = transport {
            return Ok(Self::Transport(*number, *over_6));
        }
        let ethernet = ETHERNET.iter().find(|(name, _)| *name == word);
        ethernet
            .map(|(_, number)| Self::Ethernet(*number))
            .ok_or(UnknownProtocol)
    }
}

/// What a packet of these protocols is called.
pub(super) fn name(protocol: u16, transport: u16) -> String {
    match protocol {
        0 => "-".to_owned(),
        IP | IPV6 => {
            let matches = |number: u16, over_6: u16| {
                transport == if protocol == IPV6 { over_6 } else { number }
            };
            let known = TRANSPORTS.iter().find(|(_, a, b)| matches(*a, *b));
            known.map_or_else(
                || format!("ip-{transport}"),
                |(name, ..)| (*name).to_owned(),
            )
        }
        _ => {
            let known = ETHERNET.iter().find(|(_, number)| *number == protocol);
            known.map_or_else(
                || format!("ether-{protocol:04x}"),
                |(name, _)| (*name).to_owned(),
            )
        }
    }
}

/// Which packets are counted: those for which all of this holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// One of these reasons; empty: any.
    pub reasons: Vec<u32>,
    /// In this network namespace.
    pub netns: Option<u32>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// With this port at either end.
    pub port: Option<u16>,
    /// At a device of this name.
    pub device: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_found_by_the_name_that_it_is_shown_by() {
        for (protocol, transport, word) in [
            (IP, 6, "tcp"),
            (IPV6, 6, "tcp"),
            (IP, 1, "icmp"),
            (IPV6, 58, "icmp"),
            (0x0806, 0, "arp"),
        ] {
            assert_eq!(name(protocol, transport), word);
            match word.parse::<Protocol>().expect("known") {
                Protocol::Ethernet(number) => assert_eq!(number, protocol),
                Protocol::Transport(a, b) => assert!(transport == a || transport == b),
            }
        }
        assert_eq!(name(IP, 253), "ip-253");
        // Not IPv6's, and no name of IPv4's.
        assert_eq!(name(IPV6, 1), "ip-1");
        assert_eq!(name(0x88a8, 0), "ether-88a8");
        let error = "tpc".parse::<Protocol>().expect_err("no protocol");
        assert!(error.to_string().contains("tcp, udp"), "{error}");
    }
}
