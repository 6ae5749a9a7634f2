//! Hostile datagrams through the receiver and what reads behind it.
//!
//! Random bytes, frames that were changed on the way, frames of a node that
//! has the key and lies, copies: none may make it panic, each is counted as
//! exactly one outcome, and memory stays within its bounds.
//!
//! 20,000 datagrams under `cargo test`; others by argument or environment:
//! `cargo bench -p lastgasp --bench hostile -- 10000000`, `HOSTILE=10000000`.
//! Prints one JSON line. The seed makes a run repeatable (`HOSTILE_SEED`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use agent_core::model::{BootId, Context, HoldPoint, NodeName, Notice, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use lastgasp::channels::gasp::{Assembler, Limits as AssemblerLimits};
use lastgasp::gasp::counters::{Counters, Outcome};
use lastgasp::gasp::protocol::{Identity, Key, KeyRing, Kind, MAX_FRAME, Sealer, Stamp, WordParts};
use lastgasp::gasp::queue::queue;
use lastgasp::gasp::receiver::{Handler, Limits, Received};
use sha2::Sha256;

const DEFAULT: u64 = 20_000;
const SEED: u64 = 0x1a57_9a5b;
const SECRET: &[u8] = b"the key that liars have as well.";
const MAC: usize = 32;
/// What receiver, queue and assembler may hold by their default limits, and
/// what the allocator adds, in KiB.
const CEILING_KIB: u64 = 256 << 10;
/// How much the second half of a long run may add to the first, in KiB.
const DRIFT_KIB: u64 = 32 << 10;

const LINES: [&[u8]; 6] = [
    b"BUG: kernel NULL pointer dereference, address: 0000000000000000",
    b"CPU: 1 PID: 0 Comm: swapper/1 Tainted: G  OE  6.1.0-53-cloud-amd64 #1",
    b"RIP: 0010:boom_timer+0x12/0x34 [boom]",
    b"---[ end trace 0000000000000000 ]---",
    b"Kernel panic - not syncing: Fatal exception in interrupt",
    b"\x1b[2J\xff\xfe\x00 not even text",
];

/// xorshift64*: enough to be anywhere, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

struct Attacker {
    random: Random,
    sealer: Sealer,
    seq: u64,
    sent: Vec<Vec<u8>>,
}

impl Attacker {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let sealer = Self::node(&mut random);
        Self {
            random,
            sealer,
            seq: 0,
            sent: Vec::new(),
        }
    }

    /// A node, one of very many boots and sessions.
    fn node(random: &mut Random) -> Sealer {
        let name = format!("w{:05}", random.below(50_000));
        let mut boot = [0; 16];
        random.fill(&mut boot);
        let identity = Identity {
            node: NodeName::new(&name).expect("a node name"),
            node_uid: None,
            boot: BootId(boot),
            session: random.next(),
            key_id: 0,
        };
        Sealer::new(&identity, &Key::new(SECRET).expect("32 bytes"))
    }

    fn datagram(&mut self) -> Vec<u8> {
        if self.random.below(8) == 0 {
            self.sealer = Self::node(&mut self.random);
            self.seq = 0;
        }
        let bytes = match self.random.below(16) {
            0 | 1 => self.noise(),
            2 | 3 => {
                let mut bytes = self.noise();
                let head = b"LGSP\x01".len().min(bytes.len());
                bytes[..head].copy_from_slice(&b"LGSP\x01"[..head]);
                bytes
            }
            4..7 => {
                let frame = self.frame();
                self.damage(frame)
            }
            7..10 => {
                let frame = self.frame();
                let damaged = self.damage(frame);
                seal(damaged)
            }
            10..12 if !self.sent.is_empty() => {
                let at = self.random.below(self.sent.len());
                self.sent[at].clone()
            }
            _ => self.frame(),
        };
        if self.sent.len() < 256 {
            self.sent.push(bytes.clone());
        } else {
            let at = self.random.below(256);
            self.sent[at].clone_from(&bytes);
        }
        bytes
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.random.below(MAX_FRAME + 2)];
        self.random.fill(&mut bytes);
        bytes
    }

    /// A frame as an agent would seal it, with content that none would send.
    fn frame(&mut self) -> Vec<u8> {
        // What only collectors say has one place together: agents' kinds stay as frequent.
        let kind = match Kind::ALL[self.random.below(Kind::ALL.len() - 1)] {
            Kind::Receipt if self.seq.is_multiple_of(2) => Kind::Advice,
            kind => kind,
        };
        let mut buf = [0; MAX_FRAME];
        let mut draft = self.sealer.begin(&mut buf, kind);
        let mut fragment = (0, 1);
        match kind {
            Kind::Word => {
                let notice = Notice::ALL[self.random.below(Notice::ALL.len())];
                draft.word(&WordParts {
                    notice,
                    context: Context::Nmi,
                    cpu: self.random.next() as u32,
                    pid: self.random.next() as u32,
                    at_ns: self.random.next(),
                    held_ns: self.random.next(),
                    held_at: HoldPoint::from_wire(self.random.next() as u8),
                    holds_expired: self.random.next() as u8,
                    asked: None,
                    packet: None,
                    comm: b"swapper/1",
                    line: LINES[self.random.below(LINES.len())],
                });
            }
            Kind::Lines => {
                for _ in 0..self.random.below(12) {
                    let text = LINES[self.random.below(LINES.len())];
                    let seq = self.random.next() >> self.random.below(64);
                    let flags = self.random.below(4) as u8;
                    draft.line(seq, self.random.next(), 1, 255, flags, text);
                }
            }
            Kind::Hello | Kind::Record => {
                let count = 1 + self.random.below(130) as u16;
                fragment = (self.random.below(usize::from(count)) as u16, count);
                let mut junk = vec![b' '; self.random.below(MAX_FRAME)];
                if self.random.below(2) == 0 {
                    self.random.fill(&mut junk);
                } else {
                    junk.extend_from_slice(b"{\"cpus\":4}");
                }
                draft.bytes(&junk);
            }
            Kind::Heartbeat | Kind::Goodbye | Kind::Survived => {}
            // No agent sends one.
            Kind::Receipt | Kind::Advice => {
                draft.bytes(&[7; 32]);
            }
        }
        self.seq += 1 + (self.random.next() >> (20 + self.random.below(44)));
        let len = draft.seal(Stamp {
            seq: self.seq,
            mono_ns: self.random.next(),
            wall_ns: self.random.next(),
            fragment,
            below_udp: self.random.below(2) == 0,
        });
        buf[..len].to_vec()
    }

    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.random.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = self.random.below(bytes.len());
            match self.random.below(5) {
                0 => bytes[at] ^= 1 << self.random.below(8),
                1 => bytes[at] = self.random.next() as u8,
                // Where the numbers are that everything hangs on.
                2 => {
                    let at = self.random.below(bytes.len().min(90));
                    bytes[at] = [0, 1, 127, 128, 255][self.random.below(5)];
                }
                3 => bytes.truncate(at),
                _ => {
                    let more = self.random.below(64);
                    bytes.extend(std::iter::repeat_n(0xff, more));
                }
            }
        }
        bytes
    }
}

/// Seals anything, as who has the key can; lengths are made to fit if there
/// are any, so that the content is what is judged.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(MAX_FRAME);
    if bytes.len() < 88 + 1 + MAC {
        return bytes;
    }
    let end = bytes.len() - MAC;
    let payload = (end - 88).checked_sub(usize::from(bytes[7]));
    if let Some(payload) = payload {
        bytes[80..82].copy_from_slice(&(payload as u16).to_le_bytes());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length is a key");
    mac.update(&bytes[..end]);
    bytes[end..].copy_from_slice(&mac.finalize().into_bytes());
    bytes
}

/// A field of `/proc/self/status`, in KiB.
fn status_kib(name: &str) -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_ascii_whitespace().nth(1)?.parse().ok()
        })
        .expect("/proc/self/status has it")
}

fn number(text: Option<String>) -> Option<u64> {
    text?.replace('_', "").parse().ok()
}

fn main() {
    let datagrams = std::env::args()
        .skip(1)
        .find_map(|arg| number(Some(arg)))
        .or_else(|| number(std::env::var("HOSTILE").ok()))
        .unwrap_or(DEFAULT);
    let seed = number(std::env::var("HOSTILE_SEED").ok()).unwrap_or(SEED);

    let limits = Limits::default();
    let counters = Arc::new(Counters::new(limits.sources));
    let keys = KeyRing::pre_shared(Key::new(SECRET).expect("32 bytes"));
    let (sender, mut taker) = queue::<Received>(512);
    let mut handler = Handler::new(Arc::new(keys), sender, Arc::clone(&counters), limits);
    let mut assembler = Assembler::new(AssemblerLimits::default());
    let mut attacker = Attacker::new(seed);

    let before = status_kib("VmHWM:");
    let mut half = before;
    let (mut messages, mut reports) = (0u64, 0u64);
    let mut outcome_counts = [0u64; Outcome::ALL.len()];
    let mut pace = 1;
    let mut batch = Vec::new();
    let start = Instant::now();
    for n in 0..datagrams {
        let datagram = attacker.datagram();
        let host = (n % 3_000) as u16;
        let source = SocketAddr::from(([10, 0, (host >> 8) as u8, host as u8], host));
        let outcome = handler.handle(&datagram, source, Timestamp(n / 50));
        outcome_counts[outcome as usize] += 1;
        // Whoever takes the messages is sometimes fast and sometimes not there.
        if n % 4_000 == 0 {
            pace = attacker.random.below(3);
        }
        taker.take_now(&mut batch, pace);
        for received in batch.drain(..) {
            messages += 1;
            let update = assembler.take(&received);
            reports += u64::from(update.is_some_and(|update| update.report.is_some()));
        }
        if n == datagrams / 2 {
            half = status_kib("VmHWM:");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = status_kib("VmHWM:");

    for outcome in Outcome::ALL {
        assert_eq!(
            counters.of(outcome),
            outcome_counts[outcome as usize],
            "{outcome:?}"
        );
        let must_occur = outcome != Outcome::Closed;
        assert!(
            !must_occur || datagrams < DEFAULT || outcome_counts[outcome as usize] > 0,
            "no datagram was {outcome:?}: the driver does not reach it"
        );
    }
    assert_eq!(outcome_counts.iter().sum::<u64>(), datagrams);
    assert_eq!(counters.received(), datagrams);
    assert!(messages <= counters.of(Outcome::Accepted));
    assert!(
        after < before + CEILING_KIB,
        "{before} KiB at first, {after} KiB at last"
    );
    // A short run may still be filling its tables.
    assert!(
        datagrams < 5_000_000 || after < half + DRIFT_KIB,
        "{half} KiB half-way, {after} KiB at last: it grows"
    );

    let outcomes: serde_json::Map<_, _> = Outcome::ALL
        .into_iter()
        .map(|o| (o.as_str().to_owned(), counters.of(o).into()))
        .collect();
    let line = serde_json::json!({
        "bench": "hostile",
        "case": {
            "datagrams": datagrams,
            "seed": seed,
            "outcomes": outcomes,
            "reports": reports,
            "seconds": (seconds * 10.0).round() / 10.0,
        },
        "metric": "peak_memory",
        "unit": "KiB",
        "value": after,
        "runs": 1,
        "min": after,
        "max": after,
        "yardstick": { "at_start": before, "half_way": half },
    });
    println!("{line}");
}
