use std::os::fd::AsFd as _;
use std::time::Instant;

use agent_core::model::{Body, BootId, Inventory, NodeName};

use super::*;
use crate::gasp::protocol::{Identity, Key, Sealer, Stamp};

fn key() -> Key {
    Key::new(b"the key of the receiver's tests").expect("31 bytes")
}

/// A sender of frames.
struct Node {
    sealer: Sealer,
    seq: u64,
}

impl Node {
    fn new(boot: u8, session: u64, key: &Key) -> Self {
        let identity = Identity {
            node: NodeName::new("w01").expect("a node name"),
            node_uid: None,
            boot: BootId([boot; 16]),
            session,
            key_id: 0,
        };
        Self {
            sealer: Sealer::new(&identity, key),
            seq: 0,
        }
    }

    fn send(&mut self, kind: Kind, payload: &[u8], fragment: (u16, u16)) -> Vec<u8> {
        self.seq += 1;
        let mut buf = [0; MAX_FRAME];
        let mut draft = self.sealer.begin(&mut buf, kind);
        assert_eq!(draft.bytes(payload), payload.len());
        let len = draft.seal(Stamp {
            seq: self.seq,
            mono_ns: 0,
            wall_ns: 0,
            fragment,
            below_udp: true,
        });
        buf[..len].to_vec()
    }

    fn say(&mut self, kind: Kind) -> Vec<u8> {
        self.send(kind, b"", (0, 1))
    }

    fn hello(&mut self, modules: usize) -> Vec<Vec<u8>> {
        let json = serde_json::to_vec(&Inventory {
            modules: (0..modules).map(|n| format!("module_{n:04}")).collect(),
            ..Inventory::default()
        })
        .expect("JSON");
        let parts: Vec<_> = json.chunks(self.sealer.capacity()).collect();
        let count = parts.len() as u16;
        (0..)
            .zip(parts)
            .map(|(index, part)| self.send(Kind::Hello, part, (index, count)))
            .collect()
    }
}

fn handler(places: usize, limits: Limits) -> (Handler, Taker<Received>) {
    let (sender, taker) = queue(places);
    let counters = Arc::new(Counters::new(limits.sources));
    let keys = Arc::new(KeyRing::pre_shared(key()));
    (Handler::new(keys, sender, counters, limits), taker)
}

fn next(taker: &mut Taker<Received>) -> Option<Received> {
    let mut messages = Vec::new();
    taker.take_now(&mut messages, 1);
    messages.pop()
}

/// The next message, waited for.
fn wait_for(taker: &mut Taker<Received>) -> Option<Received> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let mut messages = Vec::new();
    let take = taker.take(&mut messages, 1);
    runtime.expect("a runtime").block_on(take);
    messages.pop()
}

fn source() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 4711))
}

fn take(handler: &mut Handler, datagram: &[u8], at: u64) -> Outcome {
    handler.handle(datagram, source(), Timestamp(at))
}

#[test]
fn a_message_is_handed_on_once() {
    let (mut handler, mut taker) = handler(8, Limits::default());
    let mut node = Node::new(1, 1, &key());
    let beat = node.say(Kind::Heartbeat);
    assert_eq!(take(&mut handler, &beat, 1_000), Outcome::Accepted);
    assert_eq!(take(&mut handler, &beat, 1_001), Outcome::Duplicate);
    assert_eq!(take(&mut handler, &beat, 60_000), Outcome::Replay);
    let received = next(&mut taker).expect("one message");
    assert_eq!(received.gasp.body, Body::Heartbeat);
    assert_eq!(
        (received.source, received.at, received.below_udp),
        (source(), Timestamp(1_000), true)
    );
    assert!(next(&mut taker).is_none());
    // The same number in another session, or another boot, is another frame.
    for mut other in [Node::new(1, 2, &key()), Node::new(2, 1, &key())] {
        let beat = other.say(Kind::Heartbeat);
        assert_eq!(take(&mut handler, &beat, 1_002), Outcome::Accepted);
    }
}

#[test]
fn each_fault_is_counted_as_what_it_is() {
    let (mut handler, _taker) = handler(8, Limits::default());
    let good = Node::new(1, 1, &key()).say(Kind::Heartbeat);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (b"hello".to_vec(), Outcome::Short),
        (with(0, 0), Outcome::BadMagic),
        (with(4, 9), Outcome::UnknownVersion),
        (with(5, 10), Outcome::UnknownKind),
        (with(7, 9), Outcome::Malformed),
        (with(8, 9), Outcome::UnknownKey),
        (with(32, 9), Outcome::WrongKey),
        (
            Node::new(1, 1, &key()).send(Kind::Lines, b"torn", (0, 1)),
            Outcome::Malformed,
        ),
        (
            Node::new(1, 1, &key()).send(Kind::Word, &[99; 32], (0, 1)),
            Outcome::Malformed,
        ),
        (
            Node::new(1, 1, &key()).send(Kind::Word, &[&[99, 0][..], &[0; 30]].concat(), (0, 1)),
            Outcome::UnknownKind,
        ),
        (good.clone(), Outcome::Accepted),
    ];
    for (datagram, expected) in &cases {
        assert_eq!(take(&mut handler, datagram, 0), *expected, "{datagram:?}");
    }
    let counters = &handler.counters;
    let sum: u64 = Outcome::ALL.iter().map(|o| counters.of(*o)).sum();
    assert_eq!(counters.received(), cases.len() as u64);
    assert_eq!(sum, counters.received());
    assert_eq!(counters.wrong_keys_by_source(), [(source().ip(), 2)]);
}

#[test]
fn warnings_are_bounded_over_all_sources() {
    let (mut handler, _taker) = handler(8, Limits::default());
    let wrong = Node::new(1, 1, &Key::new(&[1; 16]).expect("16 bytes")).say(Kind::Heartbeat);
    for n in 0..100u8 {
        let source = SocketAddr::from(([10, 0, 0, n], 1));
        assert_eq!(
            handler.handle(&wrong, source, Timestamp(5)),
            Outcome::WrongKey
        );
    }
    let suppressed = handler.counters.warnings_suppressed.load(Ordering::Relaxed);
    assert_eq!(suppressed, 100 - u64::from(WARN_ALL.max));
}

#[test]
fn heartbeats_give_way_before_words_do() {
    let (mut handler, mut taker) = handler(8, Limits::default());
    let mut node = Node::new(1, 1, &key());
    for _ in 0..6 {
        let beat = node.say(Kind::Heartbeat);
        assert_eq!(take(&mut handler, &beat, 0), Outcome::Accepted);
    }
    let beat = node.say(Kind::Heartbeat);
    assert_eq!(take(&mut handler, &beat, 0), Outcome::HeartbeatDropped);
    for _ in 0..2 {
        let notice = node.say(Kind::Survived);
        assert_eq!(take(&mut handler, &notice, 0), Outcome::Accepted);
    }
    let notice = node.say(Kind::Survived);
    assert_eq!(take(&mut handler, &notice, 0), Outcome::QueueFull);
    // It was never handed on, so its copy by another way is no duplicate.
    next(&mut taker).expect("a message");
    assert_eq!(take(&mut handler, &notice, 1), Outcome::Accepted);
    drop(taker);
    let notice = node.say(Kind::Survived);
    assert_eq!(take(&mut handler, &notice, 2), Outcome::Closed);
}

#[test]
fn a_hello_is_put_together_in_any_order() {
    let (mut handler, mut taker) = handler(8, Limits::default());
    let mut parts = Node::new(1, 1, &key()).hello(500);
    assert!(parts.len() > 3);
    parts.reverse();
    let last = parts.pop().expect("a part");
    for part in &parts {
        assert_eq!(take(&mut handler, part, 0), Outcome::Fragment);
        assert_eq!(take(&mut handler, part, 0), Outcome::Duplicate);
    }
    assert!(next(&mut taker).is_none());
    assert_eq!(take(&mut handler, &last, 0), Outcome::Accepted);
    let Body::Hello(inventory) = next(&mut taker).expect("a hello").gasp.body else {
        panic!("not a hello")
    };
    assert_eq!(inventory.modules.len(), 500);
}

#[test]
fn hellos_under_way_are_bounded_in_number_and_size() {
    let limits = Limits {
        messages: 2,
        ..Limits::default()
    };
    let (mut handler, mut taker) = handler(8, limits);
    let hellos: Vec<_> = (1..=3)
        .map(|session| Node::new(1, session, &key()).hello(500))
        .collect();
    for hello in &hellos {
        assert_eq!(take(&mut handler, &hello[0], 0), Outcome::Fragment);
    }
    let evicted = handler.counters.reassembly_evicted.load(Ordering::Relaxed);
    assert_eq!(evicted, 1);
    for part in &hellos[2][1..] {
        take(&mut handler, part, 0);
    }
    assert!(next(&mut taker).is_some(), "the newest is whole");

    let mut node = Node::new(1, 9, &key());
    let refused = (0..100)
        .map(|index| {
            let part = node.send(Kind::Hello, &[b' '; 1200], (index, 101));
            take(&mut handler, &part, 0)
        })
        .filter(|outcome| *outcome == Outcome::Malformed)
        .count();
    assert_eq!(refused, 1, "64 KiB were passed once");
    let part = node.send(Kind::Hello, b"", (0, 129));
    assert_eq!(take(&mut handler, &part, 0), Outcome::Malformed);
}

#[test]
fn forgotten_sessions_are_counted() {
    let limits = Limits {
        sessions: 4,
        ..Limits::default()
    };
    let (mut handler, _taker) = handler(64, limits);
    for session in 0..10 {
        let notice = Node::new(1, session, &key()).say(Kind::Survived);
        assert_eq!(take(&mut handler, &notice, 0), Outcome::Accepted);
    }
    let evicted = handler.counters.sessions_evicted.load(Ordering::Relaxed);
    assert_eq!(evicted, 6);
}

#[test]
fn a_real_socket_receives_and_stops() {
    let settings = Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let keys = Arc::new(KeyRing::pre_shared(key()));
    let (receiver, mut taker) =
        Receiver::spawn(&settings, keys, || Timestamp(42)).expect("a receiver");
    let to = receiver.local_addr().expect("an address");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut node = Node::new(1, 1, &key());
    let beat = node.say(Kind::Heartbeat);
    let long = [&beat[..], &[0; 3000]].concat();
    for datagram in [&beat, &b"x".to_vec(), &long] {
        socket.send_to(datagram, to).expect("sent");
    }
    let message = wait_for(&mut taker).expect("a message");
    assert_eq!(message.gasp.body, Body::Heartbeat);
    assert_eq!(message.at, Timestamp(42));
    assert_eq!(message.source, socket.local_addr().expect("an address"));
    let counters = Arc::clone(receiver.counters());
    let deadline = Instant::now() + Duration::from_secs(5);
    while counters.received() < 3 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(counters.of(Outcome::Short), 1);
    assert_eq!(counters.of(Outcome::Malformed), 1, "too long is no frame");
    assert_eq!(receiver.kernel_drops(), Some(0));
    receiver.stop();
    assert!(wait_for(&mut taker).is_none(), "the queue is closed");
}

/// Datagrams that wait in a socket: heartbeats, and others.
fn waiting(socket: &UdpSocket) -> [usize; 2] {
    let mut batch = Batch::new(BATCH, MAX_FRAME);
    let mut found = [0; 2];
    while batch.receive(socket.as_fd(), BATCH).is_ok() {
        while let Some((datagram, _)) = batch.take() {
            let kind = datagram.get(protocol::KIND_AT as usize);
            found[usize::from(kind != Some(&(Kind::Heartbeat as u8)))] += 1;
        }
    }
    found
}

#[test]
fn no_number_of_heartbeats_takes_the_place_of_a_word() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let settings = Settings {
            socket_buffer: 64 << 10,
            ..Settings::new(listen.parse().expect("an address"))
        };
        let sockets = open(&settings).expect("sockets");
        let to = sockets.words.local_addr().expect("an address");
        let socket = UdpSocket::bind(settings.listen).expect("a socket");
        let mut node = Node::new(1, 1, &key());
        // Many more than fit.
        for _ in 0..3_000 {
            let beat = node.say(Kind::Heartbeat);
            socket.send_to(&beat, to).expect("sent");
        }
        for kind in [Kind::Word, Kind::Lines, Kind::Goodbye] {
            let notice = node.say(kind);
            socket.send_to(&notice, to).expect("sent");
        }
        socket.send_to(b"x", to).expect("sent");
        assert_eq!(waiting(&sockets.words), [0, 4]);
        let [beats, others] = waiting(sockets.beats.as_ref().expect("a second socket"));
        assert!(beats > 0 && beats < 3_000, "{beats} of 3,000 fit");
        assert_eq!(others, 0);
    }
}

#[test]
fn two_receivers_do_not_share_a_port() {
    let first = open(&Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("sockets");
    let taken = Settings::new(first.words.local_addr().expect("an address"));
    let error = open(&taken).expect_err("the port is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn what_the_queue_has_no_place_for_waits_in_the_socket() {
    let settings = Settings {
        queue: 8,
        ..Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    let keys = Arc::new(KeyRing::pre_shared(key()));
    let (receiver, mut taker) =
        Receiver::spawn(&settings, keys, || Timestamp(42)).expect("a receiver");
    let to = receiver.local_addr().expect("an address");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut node = Node::new(1, 1, &key());
    for _ in 0..100 {
        let notice = node.say(Kind::Survived);
        socket.send_to(&notice, to).expect("sent");
    }
    for _ in 0..100 {
        wait_for(&mut taker).expect("a message");
    }
    assert_eq!(receiver.counters().of(Outcome::Accepted), 100);
    assert_eq!(receiver.counters().received(), 100);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let listen = taken.local_addr().expect("an address");
    let keys = Arc::new(KeyRing::pre_shared(key()));
    let error = Receiver::spawn(&Settings::new(listen), keys, Timestamp::default)
        .expect_err("the address is taken");
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}
