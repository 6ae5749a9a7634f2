//! What a collector says to an agent: that it has a record on its disk, so that
//! the agent need not send it again, and may let go of it. Advice
//! ([`super::advice`]) goes the same way.
//!
//! An answer is for one agent process: it carries that one's boot and session,
//! so that an older one, played again, means nothing to the next.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use agent_core::model::{Body, BootId, NodeName, Record};
use sha2::{Digest as _, Sha256};

use super::protocol::{Frame, Identity, KeyRing, Kind, MAX_FRAME, Sealer, Stamp};
use super::receiver::Received;

/// Names a record by what it says: the SHA-256 of its text.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RecordId(pub [u8; 32]);

impl RecordId {
    /// The name of this record.
    pub fn of(record: &Record) -> Self {
        Self(Sha256::digest(record.text.as_bytes()).into())
    }

    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The agent process that a message came from.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    to: SocketAddr,
    key_id: u32,
    node: NodeName,
    boot: BootId,
    session: u64,
}

impl Sender {
    pub(super) fn of(received: &Received) -> Self {
        Self {
            to: received.source,
            key_id: received.key_id,
            node: received.gasp.node.clone(),
            boot: received.gasp.boot,
            session: received.gasp.session,
        }
    }
}

/// That one record arrived, for who sent it.
#[derive(Clone, Debug)]
pub struct Receipt {
    to: Sender,
    id: RecordId,
}

impl Receipt {
    /// The receipt for this message, if it is a record.
    pub fn of(received: &Received) -> Option<Self> {
        let Body::Record(record) = &received.gasp.body else {
            return None;
        };
        Some(Self {
            to: Sender::of(received),
            id: RecordId::of(record),
        })
    }
}

/// Sends receipts by the socket that records come in by. Agents hear the address
/// that they send to and no other: on a machine with several, the annotator has to
/// listen on that one.
#[derive(Clone, Debug)]
pub struct Receipts {
    socket: Arc<UdpSocket>,
    keys: Arc<KeyRing>,
}

impl Receipts {
    /// From this socket, sealed with these keys.
    pub fn new(socket: Arc<UdpSocket>, keys: Arc<KeyRing>) -> Self {
        Self { socket, keys }
    }

    /// Sends one. It may be lost: the record then comes again.
    pub fn send(&self, receipt: &Receipt) -> io::Result<()> {
        self.answer(&receipt.to, Kind::Receipt, &receipt.id.0)
    }

    /// Sends one frame with this payload, which fits.
    pub(super) fn answer(&self, to: &Sender, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let Some(key) = self.keys.get(to.key_id) else {
            return Ok(());
        };
        let identity = Identity {
            node: to.node.clone(),
            node_uid: None,
            boot: to.boot,
            session: to.session,
            key_id: to.key_id,
        };
        let mut frame = [0; MAX_FRAME];
        let sealer = Sealer::new(&identity, key);
        let mut draft = sealer.begin(&mut frame, kind);
        draft.bytes(payload);
        let len = draft.seal(Stamp {
            seq: 1,
            mono_ns: 0,
            wall_ns: 0,
            fragment: (0, 1),
            below_udp: false,
        });
        self.socket.send_to(&frame[..len], to.to).map(drop)
    }
}

/// The payload of a datagram, if it is an answer of this kind to this agent process.
pub(super) fn answered<'a>(
    datagram: &'a [u8],
    kind: Kind,
    own: &Identity,
    keys: &KeyRing,
) -> Option<&'a [u8]> {
    let frame = Frame::parse(datagram).ok()?;
    let is_ours = frame.kind() == kind
        && frame.session() == own.session
        && frame.boot() == own.boot
        && frame.node() == own.node.as_str()
        && frame.verify(keys).is_ok();
    is_ours.then(|| frame.payload())
}

/// The record that a datagram says has arrived, if it is a receipt for this
/// agent process.
pub fn read(datagram: &[u8], own: &Identity, keys: &KeyRing) -> Option<RecordId> {
    let payload = answered(datagram, Kind::Receipt, own, keys)?;
    payload.try_into().ok().map(RecordId)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_core::model::{Channel, Gasp, RecordKind, Timestamp};

    use super::super::protocol::Key;
    use super::*;

    fn keys(byte: u8) -> KeyRing {
        KeyRing::pre_shared(Key::new(&[byte; 32]).expect("32 bytes"))
    }

    fn own(session: u64) -> Identity {
        Identity {
            node: NodeName::new("w01").expect("a node name"),
            node_uid: None,
            boot: BootId([2; 16]),
            session,
            key_id: 0,
        }
    }

    #[test]
    fn a_receipt_is_for_one_agent_process_and_for_one_record() {
        let agent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        agent
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let (source, text) = ("erst".into(), "a".into());
        let record = Record::new(Channel::Pstore, source, RecordKind::Panic, text);
        let id = RecordId::of(&record);
        let received = Received {
            gasp: Gasp {
                node: own(5).node,
                node_uid: None,
                boot: own(5).boot,
                session: 5,
                mono_ns: 0,
                wall_ns: 0,
                body: Body::Record(Box::new(record)),
            },
            source: agent.local_addr().expect("an address"),
            at: Timestamp(0),
            below_udp: false,
            key_id: 0,
        };
        let receipt = Receipt::of(&received).expect("of a record");
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let receipts = Receipts::new(socket, Arc::new(keys(1)));
        receipts.send(&receipt).expect("sent");
        let mut buffer = [0; MAX_FRAME];
        let len = agent.recv(&mut buffer).expect("a receipt");
        let datagram = &buffer[..len];

        assert_eq!(read(datagram, &own(5), &keys(1)), Some(id));
        // Played again to the agent that started since, or forged.
        assert_eq!(read(datagram, &own(6), &keys(1)), None);
        assert_eq!(read(datagram, &own(5), &keys(2)), None);
        for at in 0..len {
            let mut damaged = datagram.to_vec();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged, &own(5), &keys(1)), None, "byte {at}");
        }
        // And no collector takes it for something that an agent says.
        let frame = Frame::parse(datagram).expect("a frame");
        assert!(frame.body().is_err());
    }

    #[test]
    fn a_record_s_name_is_written_and_read() {
        let id = RecordId(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(RecordId::parse(&id.to_string()), Some(id));
        assert_eq!(RecordId::parse(&id.to_string()[1..]), None);
        assert_eq!(RecordId::parse("é"), None);
    }
}
