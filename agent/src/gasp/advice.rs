//! What a collector advises an agent: an earlier boot of its node, on the same kernel, died
//! of what looks like a known bug, and something can be done against that.
//!
//! It answers a hello that says that the agent may do it, and has no reason yet. It may be
//! lost: the next hello brings it again, until one has a reason.

use std::io;

use agent_core::model::{GSO_OFF, MitigationCause};
use serde::{Deserialize, Serialize};

use super::protocol::{Identity, KeyRing, Kind};
use super::receipt::{Receipts, Sender, answered};
use super::receiver::Received;

/// Longest payload: with the longest node name it fits a frame.
const LEN_MAX: usize = 512;
/// Longest id of a bug and longest name of a death, in bytes.
const BUG_MAX: usize = 64;
const DEATH_MAX: usize = 253;

/// The advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// What can be done: [`GSO_OFF`].
    pub action: String,
    /// The known bug that the death looks like.
    pub bug: String,
    /// The death.
    pub death: String,
}

impl Advice {
    /// It, if it can be sent and an agent will take it.
    pub fn new(bug: &str, death: &str) -> Option<Self> {
        let advice = Self {
            action: GSO_OFF.to_owned(),
            bug: bug.to_owned(),
            death: death.to_owned(),
        };
        advice.is_plain().then_some(advice)
    }

    fn is_plain(&self) -> bool {
        let name = |text: &str, max: usize| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
            (1..=max).contains(&text.len()) && text.bytes().all(plain)
        };
        self.action == GSO_OFF && name(&self.bug, BUG_MAX) && name(&self.death, DEATH_MAX)
    }

    /// The reason that it is.
    pub fn cause(self) -> MitigationCause {
        MitigationCause {
            death: Some(self.death),
            bug: Some(self.bug),
            ..MitigationCause::default()
        }
    }
}

impl Receipts {
    /// Advises the agent that sent this.
    pub fn advise(&self, hello: &Received, advice: &Advice) -> io::Result<()> {
        let json = serde_json::to_vec(advice)?;
        if json.len() > LEN_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.answer(&Sender::of(hello), Kind::Advice, &json)
    }
}

/// What a datagram advises, if it is for this agent process and of something that it knows.
pub fn read(datagram: &[u8], own: &Identity, keys: &KeyRing) -> Option<Advice> {
    let payload = answered(datagram, Kind::Advice, own, keys)?;
    let payload = Some(payload).filter(|payload| payload.len() <= LEN_MAX)?;
    let advice: Advice = serde_json::from_slice(payload).ok()?;
    advice.is_plain().then_some(advice)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    use agent_core::model::{Body, BootId, Gasp, NodeName, Timestamp};

    use super::super::protocol::{Frame, Key, MAX_FRAME};
    use super::super::receipt;
    use super::*;

    fn keys(byte: u8) -> KeyRing {
        KeyRing::pre_shared(Key::new(&[byte; 32]).expect("32 bytes"))
    }

    fn own(node: &str, session: u64) -> Identity {
        Identity {
            node: NodeName::new(node).expect("a node name"),
            node_uid: None,
            boot: BootId([2; 16]),
            session,
            key_id: 0,
        }
    }

    /// What an agent receives that said hello, and to which this is sent.
    fn received(node: &str, send: impl FnOnce(&Receipts, &Received) -> io::Result<()>) -> Vec<u8> {
        let agent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let patience = Some(Duration::from_secs(10));
        agent.set_read_timeout(patience).expect("a timeout");
        let hello = Received {
            gasp: Gasp {
                node: own(node, 5).node,
                node_uid: None,
                boot: own(node, 5).boot,
                session: 5,
                mono_ns: 0,
                wall_ns: 0,
                body: Body::Heartbeat,
            },
            source: agent.local_addr().expect("an address"),
            at: Timestamp(0),
            below_udp: false,
            key_id: 0,
        };
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        send(&Receipts::new(socket, Arc::new(keys(1))), &hello).expect("sent");
        let mut buffer = [0; MAX_FRAME];
        let len = agent.recv(&mut buffer).expect("an answer");
        buffer[..len].to_vec()
    }

    fn sent(node: &str, advice: &Advice) -> Vec<u8> {
        received(node, |receipts, hello| receipts.advise(hello, advice))
    }

    /// A frame of this kind, sealed with the right key.
    fn sealed(kind: Kind, payload: &[u8]) -> Vec<u8> {
        received("w01", |receipts, hello| {
            receipts.answer(&Sender::of(hello), kind, payload)
        })
    }

    #[test]
    fn advice_is_for_one_agent_process() {
        let advice = Advice::new("cve-2024-42281", "w01-02020202").expect("plain");
        let datagram = sent("w01", &advice);
        let read = |datagram: &[u8], own| read(datagram, &own, &keys(1));
        assert_eq!(read(&datagram, own("w01", 5)), Some(advice));
        // Played again to the agent that started since, sent to another, or forged.
        assert_eq!(read(&datagram, own("w01", 6)), None);
        assert_eq!(read(&datagram, own("w02", 5)), None);
        assert_eq!(super::read(&datagram, &own("w01", 5), &keys(2)), None);
        for at in 0..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged, own("w01", 5)), None, "byte {at}");
        }
        // It is no receipt, and no collector takes it for something that an agent says.
        assert_eq!(receipt::read(&datagram, &own("w01", 5), &keys(1)), None);
        assert!(Frame::parse(&datagram).expect("a frame").body().is_err());
    }

    #[test]
    fn the_longest_names_fit() {
        let node = format!(
            "{}.x",
            [
                "a".repeat(62),
                "b".repeat(62),
                "c".repeat(62),
                "d".repeat(60)
            ]
            .join(".")
        );
        let advice = Advice::new(&"b".repeat(BUG_MAX), &"d".repeat(DEATH_MAX)).expect("plain");
        let read = read(&sent(&node, &advice), &own(&node, 5), &keys(1));
        assert_eq!(read, Some(advice));
    }

    #[test]
    fn what_an_agent_does_not_know_it_does_not_take() {
        for payload in [
            &b""[..],
            b"{}",
            b"\xff",
            br#"{"action":"reboot","bug":"x","death":"w01-1"}"#,
            br#"{"action":"gso-off","bug":"","death":"w01-1"}"#,
            br#"{"action":"gso-off","bug":"x y","death":"w01-1"}"#,
            br#"{"action":"gso-off","bug":"x","death":"w01\u001b[2J"}"#,
        ] {
            let datagram = sealed(Kind::Advice, payload);
            assert_eq!(
                read(&datagram, &own("w01", 5), &keys(1)),
                None,
                "{payload:?}"
            );
        }
        let more = br#"{"action":"gso-off","bug":"x","death":"w01-1","more":[1]}"#;
        let good = |kind| read(&sealed(kind, more), &own("w01", 5), &keys(1)).is_some();
        assert!(good(Kind::Advice));
        assert!(!good(Kind::Receipt));
        assert!(Advice::new("X", "w01-1").is_none());
    }
}
