//! Filling frames: on the dying path, so nothing here allocates, locks, logs
//! or formats.

use agent_common::asked::{Asked, Told};
use agent_common::segment::Packet;
use agent_core::model::{Context, HoldPoint, Notice};

use super::part::Part;
use super::{
    HEADER, Identity, Key, Kind, LINE, LINE_CUT, MAC, MAGIC, MAX_FRAME, NAME_MAX, VERSION, WORD,
    asked, at, flag, packet,
};

/// Longest comm in a word, in bytes. The kernel's `TASK_COMM_LEN` is 16
/// (include/linux/sched.h).
const COMM_MAX: usize = 64;

/// What differs from frame to frame.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Number of the frame, from 1; one counter a session, never reused.
    pub seq: u64,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub mono_ns: u64,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Index of the fragment, from 0, and how many there are, from 1.
    pub fragment: (u16, u16),
    /// Whether it leaves by AF_PACKET.
    pub below_udp: bool,
}

/// The first words of a death, borrowed from where the kernel's record lies.
#[derive(Clone, Copy, Debug)]
pub struct WordParts<'a> {
    /// What the kernel is doing.
    pub notice: Notice,
    /// Where it happened.
    pub context: Context,
    /// The CPU that does it.
    pub cpu: u32,
    /// Process id of the current task.
    pub pid: u32,
    /// The kernel's monotonic clock when its hook fired, in nanoseconds.
    pub at_ns: u64,
    /// How long the kernel had been held when this was sent, in nanoseconds.
    pub held_ns: u64,
    /// Where it was held last.
    pub held_at: HoldPoint,
    /// Holds that ended by their limit.
    pub holds_expired: u8,
    /// `comm` of the current task, without trailing zero bytes.
    pub comm: &'a [u8],
    /// The line that says why.
    pub line: &'a [u8],
    /// Who asked for it.
    pub asked: Option<&'a Asked>,
    /// The packet, of a prediction.
    pub packet: Option<&'a Packet>,
}

/// One agent's frames, prepared: the header with the node's name, and the
/// keyed HMAC state.
#[derive(Clone, Debug)]
pub struct Sealer {
    head: [u8; HEADER + NAME_MAX],
    len: usize,
    key: Key,
}

impl Sealer {
    /// Prepares the frames of one agent process.
    pub fn new(identity: &Identity, key: &Key) -> Self {
        let mut head = [0; HEADER + NAME_MAX];
        let name = identity.node.as_str().as_bytes();
        head[..MAGIC.len()].copy_from_slice(&MAGIC);
        head[at::VERSION] = VERSION;
        head[at::NAME_LEN] = name.len() as u8;
        if let Some(uid) = identity.node_uid {
            head[at::FLAGS] |= flag::UID;
            put(&mut head, at::UID, &uid);
        }
        put(&mut head, at::KEY_ID, &identity.key_id.to_le_bytes());
        put(&mut head, at::SESSION, &identity.session.to_le_bytes());
        put(&mut head, at::BOOT, &identity.boot.0);
        put(&mut head, HEADER, name);
        Self {
            head,
            len: HEADER + name.len(),
            key: key.clone(),
        }
    }

    /// Bytes of payload that one frame of this node holds.
    pub fn capacity(&self) -> usize {
        MAX_FRAME - MAC - self.len
    }

    /// Begins a frame in `buf`.
    pub fn begin<'a>(&self, buf: &'a mut [u8; MAX_FRAME], kind: Kind) -> Draft<'a> {
        put(buf, 0, &self.head[..self.len]);
        buf[at::KIND] = kind as u8;
        Draft {
            buf,
            start: self.len,
            end: self.len,
            key: self.key.clone(),
        }
    }
}

/// A frame that is being filled.
#[derive(Debug)]
pub struct Draft<'a> {
    buf: &'a mut [u8; MAX_FRAME],
    start: usize,
    end: usize,
    key: Key,
}

impl Draft<'_> {
    /// Whether nothing has been put in yet.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        MAX_FRAME - MAC - self.end
    }

    /// Puts in the words of a death, cut so that they fit. For a frame that is
    /// empty; in any other it does nothing.
    pub fn word(&mut self, word: &WordParts<'_>) {
        if !self.is_empty() {
            return;
        }
        let comm = clip(word.comm, COMM_MAX);
        let line = clip(word.line, self.room() - WORD - comm.len());
        self.push(&(word.notice as u16).to_le_bytes());
        self.push(&[word.context as u8, comm.len() as u8]);
        self.push(&word.cpu.to_le_bytes());
        self.push(&word.pid.to_le_bytes());
        self.push(&(line.len() as u16).to_le_bytes());
        self.push(&[word.held_at as u8, word.holds_expired]);
        self.push(&word.at_ns.to_le_bytes());
        self.push(&word.held_ns.to_le_bytes());
        self.push(comm);
        self.push(line);
        if let Some(packet) = word.packet {
            self.part(&mut packet::part(packet));
        }
        if let Some(asked) = word.asked {
            self.part(&mut asked::asker(asked));
            self.told(&asked.told, word.at_ns);
        }
    }

    /// Adds who told PID 1 to stop the machine, before `at_ns` (`CLOCK_MONOTONIC`).
    pub fn told(&mut self, told: &Told, at_ns: u64) {
        if let Some(mut told) = asked::told(told, at_ns) {
            self.part(&mut told);
        }
    }

    /// Adds a part to a word, if it fits.
    fn part(&mut self, part: &mut Part) {
        let bytes = part.bytes();
        if bytes.len() <= self.room() {
            self.push(bytes);
        }
    }

    /// Adds a line of the kernel's log; `level` is 255 where there is none.
    ///
    /// False: it does not fit, send this frame and begin another. A line that
    /// is larger than a whole frame is cut and marked so.
    pub fn line(
        &mut self,
        seq: u64,
        mono_ns: u64,
        cpu: u16,
        level: u8,
        flags: u8,
        text: &[u8],
    ) -> bool {
        let fits = LINE + text.len() <= self.room();
        if !fits && !self.is_empty() {
            return false;
        }
        let (text, flags) = if fits {
            (text, flags)
        } else {
            (clip(text, self.room() - LINE), flags | LINE_CUT)
        };
        self.push(&seq.to_le_bytes());
        self.push(&mono_ns.to_le_bytes());
        self.push(&cpu.to_le_bytes());
        self.push(&[level, flags]);
        self.push(&(text.len() as u16).to_le_bytes());
        self.push(text);
        true
    }

    /// Adds as many of `bytes` as fit, and says how many those were.
    pub fn bytes(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.push(&bytes[..taken]);
        taken
    }

    /// Closes the frame: stamps it, proves it, and gives its whole length in
    /// the buffer.
    pub fn seal(self, stamp: Stamp) -> usize {
        let payload = (self.end - self.start) as u16;
        if stamp.below_udp {
            self.buf[at::FLAGS] |= flag::BELOW_UDP;
        }
        put(self.buf, at::FRAGMENT, &stamp.fragment.0.to_le_bytes());
        put(self.buf, at::FRAGMENTS, &stamp.fragment.1.to_le_bytes());
        put(self.buf, at::SEQ, &stamp.seq.to_le_bytes());
        put(self.buf, at::MONO, &stamp.mono_ns.to_le_bytes());
        put(self.buf, at::WALL, &stamp.wall_ns.to_le_bytes());
        put(self.buf, at::PAYLOAD_LEN, &payload.to_le_bytes());
        let mac = self.key.seal(&self.buf[..self.end]);
        put(self.buf, self.end, &mac);
        self.end + MAC
    }

    fn push(&mut self, bytes: &[u8]) {
        put(self.buf, self.end, bytes);
        self.end += bytes.len();
    }
}

fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    buf[at..at + bytes.len()].copy_from_slice(bytes);
}

/// At most `max` bytes of `text`, and not half of a UTF-8 character.
fn clip(text: &[u8], max: usize) -> &[u8] {
    if text.len() <= max {
        return text;
    }
    let is_inside = |at: usize| text[at] & 0xc0 == 0x80;
    // A character has at most three bytes after its first; what has more is
    // not UTF-8, and any place is as good.
    let end = (0..=3)
        .filter_map(|back| max.checked_sub(back))
        .find(|end| !is_inside(*end))
        .unwrap_or(max);
    &text[..end]
}
