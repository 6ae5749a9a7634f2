//! Any bytes as a datagram, and any payload behind a valid seal: what an agent's key can do
//! at most.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;

use agent_core::model::{BootId, NodeName, Timestamp};
use lastgasp::gasp::advice::{self, Advice};
use lastgasp::gasp::counters::Counters;
use lastgasp::gasp::protocol::{Frame, Identity, Key, KeyRing, Kind, MAX_FRAME, Sealer, Stamp};
use lastgasp::gasp::queue::queue;
use lastgasp::gasp::receipt;
use lastgasp::gasp::receiver::{Handler, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u16, u16, &[u8], &[u8])| {
    let (kind, index, count, payload, datagram) = input;
    if let Ok(frame) = Frame::parse(datagram) {
        assert!(frame.payload().len() < datagram.len());
        let _ = frame.body().and_then(|body| frame.gasp(body));
    }
    let key = Key::new(&[7; 32]).expect("a key");
    let ring = KeyRing::pre_shared(key.clone());
    let identity = Identity {
        node: NodeName::new("w01").expect("a name"),
        node_uid: None,
        boot: BootId([1; 16]),
        session: 1,
        key_id: 0,
    };
    let (sender, mut taker) = queue(64);
    let keys = Arc::new(KeyRing::pre_shared(key.clone()));
    let mut handler = Handler::new(keys, sender, Arc::new(Counters::new(4)), Limits::default());
    let source = SocketAddr::from(([127, 0, 0, 1], 1));
    handler.handle(datagram, source, Timestamp(1));
    let Some(kind) = Kind::from_wire(kind) else {
        return;
    };
    let mut buffer = [0; MAX_FRAME];
    let sealer = Sealer::new(&identity, &key);
    let mut draft = sealer.begin(&mut buffer, kind);
    draft.bytes(payload);
    let length = draft.seal(Stamp {
        seq: 1 + u64::from(index),
        mono_ns: 1,
        wall_ns: 1,
        fragment: (index, count),
        below_udp: false,
    });
    // And what an agent takes of it.
    if let Some(advice) = advice::read(&buffer[..length], &identity, &ring) {
        assert!(Advice::new(&advice.bug, &advice.death).is_some_and(|same| same == advice));
    }
    let _ = receipt::read(&buffer[..length], &identity, &ring);
    // The same once more is a repetition, whatever it holds.
    for at in [1, 2] {
        handler.handle(&buffer[..length], source, Timestamp(at));
    }
    let mut taken = Vec::new();
    taker.take_now(&mut taken, usize::MAX);
    assert!(taken.len() <= 1, "one frame, and {} messages", taken.len());
});
