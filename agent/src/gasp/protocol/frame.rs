//! Reading frames: bytes from anywhere.

use agent_core::model::{
    Body, BootId, Channel, Context, Gasp, HoldPoint, Inventory, Line, Mitigation, NodeName, Notice,
    Record, Word,
};

use super::{
    HEADER, KeyRing, Kind, LINE, LINE_CONTINUES, MAC, MAGIC, MAX_FRAGMENTS, MAX_FRAME, MAX_MESSAGE,
    NO_LEVEL, VERSION, WORD, at, flag, part,
};
use crate::gasp::text::lossy;

/// Why a datagram is no frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than any frame.
    #[error("{0} bytes are too few for a frame")]
    Short(usize),
    /// Not ours.
    #[error("it does not begin with LGSP")]
    BadMagic,
    /// From a newer or broken agent.
    #[error("protocol version {0} is not known")]
    UnknownVersion(u8),
    /// Its numbers contradict each other.
    #[error("{0}")]
    Malformed(&'static str),
    /// From a newer or broken agent.
    #[error("kind {0} is not known")]
    UnknownKind(u8),
}

/// Why a frame cannot be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// No key has this id.
    #[error("key id {0} is not known")]
    UnknownKey(u32),
    /// The HMAC is not that of the key: another key, or changed on the way.
    #[error("it is not sealed with key {0}")]
    WrongKey(u32),
}

/// Why the content of a proven frame cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// It says less than its numbers promise, or something impossible.
    #[error("{0}")]
    Malformed(&'static str),
    /// From a newer agent.
    #[error("notice {0} is not known")]
    UnknownNotice(u16),
}

/// One frame, borrowed from the datagram.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    kind: Kind,
    node: &'a str,
    payload: &'a [u8],
    signed: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a datagram. Allocates nothing.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        use ParseError::Malformed;
        if datagram.len() < HEADER + 1 + MAC {
            return Err(ParseError::Short(datagram.len()));
        }
        if !datagram.starts_with(&MAGIC) {
            return Err(ParseError::BadMagic);
        }
        if datagram[at::VERSION] != VERSION {
            return Err(ParseError::UnknownVersion(datagram[at::VERSION]));
        }
        if datagram.len() > MAX_FRAME {
            return Err(Malformed("it is longer than a frame may be"));
        }
        let name_len = usize::from(datagram[at::NAME_LEN]);
        let payload_len = usize::from(u16_at(datagram, at::PAYLOAD_LEN));
        if name_len == 0 || HEADER + name_len + payload_len + MAC != datagram.len() {
            return Err(Malformed("its lengths do not add up"));
        }
        let number = datagram[at::KIND];
        let kind = Kind::from_wire(number).ok_or(ParseError::UnknownKind(number))?;
        let (signed, mac) = datagram.split_at(datagram.len() - MAC);
        let (name, payload) = signed[HEADER..].split_at(name_len);
        let node = std::str::from_utf8(name).map_err(|_| Malformed("its node name is no text"))?;
        let frame = Self {
            kind,
            node,
            payload,
            signed,
            mac,
        };
        let (index, count) = frame.fragment();
        if index >= count || count > MAX_FRAGMENTS || (count > 1 && !kind.has_fragments()) {
            return Err(Malformed("its fragment numbers are impossible"));
        }
        if frame.seq() <= u64::from(index) {
            return Err(Malformed("its sequence number is impossible"));
        }
        Ok(frame)
    }

    /// Whether a key of the ring sealed it. Allocates nothing, and takes the
    /// same time wherever the HMAC differs.
    pub fn verify(&self, keys: &KeyRing) -> Result<(), VerifyError> {
        let id = self.key_id();
        let key = keys.get(id).ok_or(VerifyError::UnknownKey(id))?;
        if key.proves(self.signed, self.mac) {
            Ok(())
        } else {
            Err(VerifyError::WrongKey(id))
        }
    }

    /// What it says.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The node's name as it was sent; [`Self::gasp`] checks that it is one.
    pub fn node(&self) -> &'a str {
        self.node
    }

    /// Which key it claims to be sealed with.
    pub fn key_id(&self) -> u32 {
        u32::from_le_bytes(array(self.signed, at::KEY_ID))
    }

    /// Index of the fragment, from 0, and how many there are, from 1.
    pub fn fragment(&self) -> (u16, u16) {
        (
            u16_at(self.signed, at::FRAGMENT),
            u16_at(self.signed, at::FRAGMENTS),
        )
    }

    /// Random number of the sending process.
    pub fn session(&self) -> u64 {
        u64_at(self.signed, at::SESSION)
    }

    /// Number of the frame in its session, from 1.
    pub fn seq(&self) -> u64 {
        u64_at(self.signed, at::SEQ)
    }

    /// The boot it speaks of.
    pub fn boot(&self) -> BootId {
        BootId(array(self.signed, at::BOOT))
    }

    /// The Node object's uid, if the agent knew it.
    pub fn node_uid(&self) -> Option<[u8; 16]> {
        (self.signed[at::FLAGS] & flag::UID != 0).then(|| array(self.signed, at::UID))
    }

    /// Whether it left below UDP, by AF_PACKET.
    pub fn below_udp(&self) -> bool {
        self.signed[at::FLAGS] & flag::BELOW_UDP != 0
    }

    /// The bytes of its kind; of a hello or a record, one fragment.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What it says. Of a message in several fragments, put the payloads
    /// together and use [`Self::whole`].
    pub fn body(&self) -> Result<Body, BodyError> {
        Ok(match self.kind {
            Kind::Hello | Kind::Record => self.whole(self.payload)?,
            Kind::Heartbeat => Body::Heartbeat,
            Kind::Goodbye => Body::Goodbye(part::read(self.payload).told.map(Box::new)),
            Kind::Word => Body::Word(word(self.payload)?),
            Kind::Lines => Body::Lines(lines(self.payload)?),
            Kind::Survived => Body::Survived,
            Kind::Receipt => return Err(BodyError::Malformed("a receipt goes to an agent")),
            Kind::Advice => return Err(BodyError::Malformed("advice goes to an agent")),
        })
    }

    /// What the fragments of a message of this frame's kind say together.
    pub fn whole(&self, payload: &[u8]) -> Result<Body, BodyError> {
        match self.kind {
            Kind::Hello => hello(payload),
            Kind::Record => record(payload),
            _ => Err(BodyError::Malformed("its kind has no fragments")),
        }
    }

    /// The message that this frame, or the last fragment of it, completes.
    pub fn gasp(&self, body: Body) -> Result<Gasp, BodyError> {
        Ok(Gasp {
            node: NodeName::new(self.node).ok_or(BodyError::Malformed(
                "its node name is not a DNS subdomain in lower case",
            ))?,
            // A uid and a boot id are both printed as the 36 characters of a UUID.
            node_uid: self.node_uid().map(|uid| BootId(uid).to_string()),
            boot: self.boot(),
            session: self.session(),
            mono_ns: u64_at(self.signed, at::MONO),
            wall_ns: u64_at(self.signed, at::WALL),
            body,
        })
    }
}

/// Reads a whole hello.
pub fn hello(json: &[u8]) -> Result<Body, BodyError> {
    if json.len() > MAX_MESSAGE {
        return Err(BodyError::Malformed("its hello is longer than 64 KiB"));
    }
    let mut inventory = serde_json::from_slice::<Inventory>(json)
        .map_err(|_| BodyError::Malformed("its hello is no inventory in JSON"))?;
    inventory.mitigations = Mitigation::bounded(inventory.mitigations);
    Ok(Body::Hello(Box::new(inventory)))
}

/// Reads a whole record.
pub fn record(json: &[u8]) -> Result<Body, BodyError> {
    if json.len() > MAX_MESSAGE {
        return Err(BodyError::Malformed("its record is longer than 64 KiB"));
    }
    let record = serde_json::from_slice::<Record>(json)
        .map_err(|_| BodyError::Malformed("its record is none in JSON"))?;
    if !matches!(record.channel, Channel::Pstore | Channel::Vmcore) {
        return Err(BodyError::Malformed("its record has another channel"));
    }
    Ok(Body::Record(Box::new(record)))
}

fn word(payload: &[u8]) -> Result<Word, BodyError> {
    let short = BodyError::Malformed("its word is shorter than it says");
    let (head, text) = payload.split_at_checked(WORD).ok_or(short)?;
    let notice = u16_at(head, 0);
    let (comm, text) = text.split_at_checked(usize::from(head[3])).ok_or(short)?;
    let len = usize::from(u16_at(head, 12));
    let (line, parts) = text.split_at_checked(len).ok_or(short)?;
    let parts = part::read(parts);
    Ok(Word {
        notice: Notice::from_wire(notice).ok_or(BodyError::UnknownNotice(notice))?,
        cpu: u32::from_le_bytes(array(head, 4)),
        pid: u32::from_le_bytes(array(head, 8)),
        comm: text_of(comm),
        context: Context::from_wire(head[2]),
        line: text_of(line),
        at_ns: u64_at(head, 16),
        held_ns: u64_at(head, 24),
        held_at: HoldPoint::from_wire(head[14]),
        holds_expired: head[15],
        asked: parts.asked.map(Box::new),
        packet: parts.packet.map(Box::new),
    })
}

fn lines(mut payload: &[u8]) -> Result<Vec<Line>, BodyError> {
    let short = BodyError::Malformed("a line of it is shorter than it says");
    // As many as there are, if they are as long as such lines mostly are.
    let mut lines = Vec::with_capacity(payload.len() / (LINE + 64) + 1);
    while !payload.is_empty() {
        let (head, rest) = payload.split_at_checked(LINE).ok_or(short)?;
        let len = usize::from(u16_at(head, 20));
        let (text, rest) = rest.split_at_checked(len).ok_or(short)?;
        lines.push(Line {
            seq: u64_at(head, 0),
            mono_ns: u64_at(head, 8),
            cpu: u16_at(head, 16),
            level: (head[18] != NO_LEVEL).then_some(head[18]),
            continues: head[19] & LINE_CONTINUES != 0,
            text: text_of(text),
        });
        payload = rest;
    }
    Ok(lines)
}

fn text_of(bytes: &[u8]) -> String {
    lossy(bytes).into_owned()
}

/// The `N` bytes at an offset that the caller has checked.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
