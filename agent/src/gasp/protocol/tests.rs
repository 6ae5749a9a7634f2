use agent_core::model::{
    Body, BootId, Channel, Context, HoldPoint, Inventory, Line, Notice, Record, RecordKind, Word,
};
use proptest::prelude::*;

use super::*;

mod parts;

fn key() -> Key {
    Key::new(b"a key of thirty-two bytes, or so").expect("32 bytes")
}

fn ring() -> KeyRing {
    KeyRing::pre_shared(key())
}

fn identity(name: &str) -> Identity {
    Identity {
        node: NodeName::new(name).expect("a node name"),
        node_uid: Some([9; 16]),
        boot: BootId([3; 16]),
        session: 77,
        key_id: 0,
    }
}

fn stamp(seq: u64) -> Stamp {
    Stamp {
        seq,
        mono_ns: 5,
        wall_ns: 6,
        fragment: (0, 1),
        below_udp: false,
    }
}

fn longest_name() -> String {
    format!("{}.b", "a".repeat(251))
}

fn left() -> Record {
    let text = "Kernel panic - not syncing: x\n".into();
    Record {
        boot: Some(BootId([2; 16])),
        ..Record::new(Channel::Pstore, "ramoops".into(), RecordKind::Panic, text)
    }
}

/// A frame of `kind` with something in it.
fn sample(kind: Kind, text: &[u8]) -> Vec<u8> {
    let sealer = Sealer::new(&identity("w01"), &key());
    let mut buf = [0; MAX_FRAME];
    let mut draft = sealer.begin(&mut buf, kind);
    match kind {
        Kind::Hello => {
            draft.bytes(b"{\"kernel_release\":\"6.1.0\"}");
        }
        Kind::Word => draft.word(&WordParts {
            notice: Notice::Panic,
            context: Context::Softirq,
            cpu: 1,
            pid: 2,
            at_ns: 3,
            held_ns: 4,
            held_at: HoldPoint::StopOthers,
            holds_expired: 5,
            comm: b"swapper/1",
            line: text,
            asked: None,
            packet: None,
        }),
        Kind::Lines => {
            assert!(draft.line(1, 2, 3, 4, 0, text));
        }
        Kind::Record => {
            draft.bytes(&serde_json::to_vec(&left()).expect("JSON"));
        }
        Kind::Receipt => {
            draft.bytes(&[7; 32]);
        }
        Kind::Advice => {
            draft.bytes(b"{}");
        }
        Kind::Heartbeat | Kind::Goodbye | Kind::Survived => {}
    }
    let len = draft.seal(stamp(1));
    buf[..len].to_vec()
}

#[test]
fn the_header_lies_where_the_table_says() {
    let frame = sample(Kind::Heartbeat, b"");
    assert_eq!(&frame[..8], &[b'L', b'G', b'S', b'P', 1, 2, 1, 3]);
    assert_eq!(&frame[8..16], &[0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(&frame[16..24], &77u64.to_le_bytes());
    assert_eq!(&frame[24..32], &1u64.to_le_bytes());
    assert_eq!(&frame[32..40], &5u64.to_le_bytes());
    assert_eq!(&frame[40..48], &6u64.to_le_bytes());
    assert_eq!(&frame[48..64], &[3; 16]);
    assert_eq!(&frame[64..80], &[9; 16]);
    assert_eq!(&frame[80..88], &[0; 8]);
    assert_eq!(&frame[88..91], b"w01");
    assert_eq!(frame.len(), 91 + 32);
}

#[test]
fn the_hmac_is_hmac_sha256() {
    // RFC 4231, test case 1: the key is 20 bytes of 0x0b.
    let key = Key::new(&[0x0b; 20]).expect("20 bytes");
    let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
    let got = key
        .seal(b"Hi There")
        .iter()
        .fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    assert_eq!(got, expected);
}

#[test]
fn every_kind_comes_back_as_it_went() {
    let line = "BUG: kernel NULL pointer dereference, address: 0000000000000000";
    for kind in Kind::ALL {
        let bytes = sample(kind, line.as_bytes());
        let frame = Frame::parse(&bytes).expect("a frame");
        frame.verify(&ring()).expect("the right key");
        let body = match frame.body() {
            // That is for agents; collectors take none.
            Err(error) if matches!(kind, Kind::Receipt | Kind::Advice) => {
                assert!(matches!(error, BodyError::Malformed(_)));
                continue;
            }
            body => body.expect("a body"),
        };
        let expected = match kind {
            Kind::Record => Body::Record(Box::new(left())),
            Kind::Receipt | Kind::Advice => continue,
            Kind::Hello => Body::Hello(Box::new(Inventory {
                kernel_release: "6.1.0".into(),
                ..Inventory::default()
            })),
            Kind::Heartbeat => Body::Heartbeat,
            Kind::Goodbye => Body::Goodbye(None),
            Kind::Survived => Body::Survived,
            Kind::Word => Body::Word(Word {
                notice: Notice::Panic,
                cpu: 1,
                pid: 2,
                comm: "swapper/1".into(),
                context: Context::Softirq,
                line: line.into(),
                at_ns: 3,
                held_ns: 4,
                held_at: HoldPoint::StopOthers,
                holds_expired: 5,
                asked: None,
                packet: None,
            }),
            Kind::Lines => Body::Lines(vec![Line {
                seq: 1,
                mono_ns: 2,
                cpu: 3,
                level: Some(4),
                continues: false,
                text: line.into(),
            }]),
        };
        assert_eq!(body, expected);
        let gasp = frame.gasp(body).expect("a gasp");
        assert_eq!(gasp.node.as_str(), "w01");
        assert_eq!(
            gasp.node_uid.as_deref(),
            Some("09090909-0909-0909-0909-090909090909")
        );
        assert_eq!((gasp.boot, gasp.session), (BootId([3; 16]), 77));
        assert_eq!((gasp.mono_ns, gasp.wall_ns), (5, 6));
    }
}

#[test]
fn any_cut_and_any_flipped_bit_is_found_out() {
    for kind in Kind::ALL {
        let good = sample(kind, b"Kernel panic - not syncing: x");
        for len in 0..good.len() {
            assert!(Frame::parse(&good[..len]).is_err(), "{kind:?} cut at {len}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let fooled = Frame::parse(&bad).is_ok_and(|frame| frame.verify(&ring()).is_ok());
            assert!(!fooled, "{kind:?} with bit {bit} flipped");
        }
    }
}

#[test]
fn each_fault_has_its_name() {
    let good = sample(Kind::Heartbeat, b"");
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Frame::parse(&bytes).map(|_| ())
    };
    assert_eq!(with(0, b'l'), Err(ParseError::BadMagic));
    assert_eq!(with(4, 2), Err(ParseError::UnknownVersion(2)));
    assert_eq!(with(5, 10), Err(ParseError::UnknownKind(10)));
    assert_eq!(with(5, 0), Err(ParseError::UnknownKind(0)));
    for (at, byte) in [
        (7, 0),
        (7, 4),
        (12, 1),
        (14, 0),
        (14, 2),
        (24, 0),
        (88, 255),
    ] {
        assert!(
            matches!(with(at, byte), Err(ParseError::Malformed(_))),
            "byte {at} = {byte}"
        );
    }
    assert_eq!(
        Frame::parse(&good[..20]).map(|_| ()),
        Err(ParseError::Short(20))
    );
    let long = [&good[..], &[0; MAX_FRAME]].concat();
    assert!(matches!(Frame::parse(&long), Err(ParseError::Malformed(_))));

    let frame = Frame::parse(&good).expect("a frame");
    let other = KeyRing::pre_shared(Key::new(&[1; 16]).expect("16 bytes"));
    assert_eq!(frame.verify(&other), Err(VerifyError::WrongKey(0)));
    assert_eq!(
        frame.verify(&KeyRing::default()),
        Err(VerifyError::UnknownKey(0))
    );
}

#[test]
fn a_name_that_is_no_dns_name_never_reaches_the_model() {
    // A sender of another make could seal any text.
    let mut bytes = sample(Kind::Heartbeat, b"");
    bytes[88..91].copy_from_slice(b"\x1b[m");
    let end = bytes.len() - 32;
    let mac = key().seal(&bytes[..end]);
    bytes[end..].copy_from_slice(&mac);
    let frame = Frame::parse(&bytes).expect("a frame");
    frame.verify(&ring()).expect("the right key");
    assert!(frame.gasp(Body::Heartbeat).is_err());
}

#[test]
fn a_line_larger_than_a_frame_is_cut_and_marked() {
    let sealer = Sealer::new(&identity(&longest_name()), &key());
    let mut buf = [0; MAX_FRAME];
    let mut draft = sealer.begin(&mut buf, Kind::Lines);
    // Two bytes a character: the cut must not halve one.
    let text = "é".repeat(1000);
    assert!(draft.line(1, 0, 0, 255, 0, text.as_bytes()));
    assert!(!draft.line(2, 0, 0, 255, 0, b"more"));
    let len = draft.seal(stamp(1));
    assert!((MAX_FRAME - 1..=MAX_FRAME).contains(&len), "{len}");
    let frame = Frame::parse(&buf[..len]).expect("a frame");
    assert_eq!(frame.payload()[19], LINE_CUT);
    let Ok(Body::Lines(lines)) = frame.body() else {
        panic!("lines")
    };
    assert!(text.starts_with(&lines[0].text) && lines[0].text.len() > 900);
    assert_eq!(lines[0].level, None);
}

#[test]
fn a_hello_larger_than_a_frame_goes_out_in_pieces() {
    let sealer = Sealer::new(&identity("w01"), &key());
    let json = serde_json::to_vec(&Inventory {
        modules: (0..400).map(|n| format!("module_{n}")).collect(),
        ..Inventory::default()
    })
    .expect("JSON");
    let count = json.len().div_ceil(sealer.capacity()) as u16;
    assert!(count > 1);
    let (mut rest, mut whole, mut index) = (&json[..], Vec::new(), 0u16);
    while !rest.is_empty() {
        let mut buf = [0; MAX_FRAME];
        let mut draft = sealer.begin(&mut buf, Kind::Hello);
        rest = &rest[draft.bytes(rest)..];
        let len = draft.seal(Stamp {
            fragment: (index, count),
            ..stamp(10 + u64::from(index))
        });
        let frame = Frame::parse(&buf[..len]).expect("a frame");
        assert_eq!(frame.fragment(), (index, count));
        whole.extend_from_slice(frame.payload());
        index += 1;
    }
    assert_eq!(index, count);
    assert_eq!(whole, json);
    assert!(matches!(hello(&whole), Ok(Body::Hello(i)) if i.modules.len() == 400));
}

proptest! {
    #[test]
    fn a_word_of_any_bytes_fits_and_keeps_its_beginning(
        comm in prop::collection::vec(any::<u8>(), 0..300),
        line in prop::collection::vec(any::<u8>(), 0..3000),
        cpu: u32, pid: u32, at_ns: u64, held_ns: u64,
        notice in prop::sample::select(Notice::ALL.to_vec()),
        long_name: bool,
    ) {
        let name = if long_name { longest_name() } else { "w01".to_owned() };
        let sealer = Sealer::new(&identity(&name), &key());
        let mut buf = [0; MAX_FRAME];
        let mut draft = sealer.begin(&mut buf, Kind::Word);
        draft.word(&WordParts {
            notice, context: Context::Nmi, cpu, pid, at_ns, held_ns, comm: &comm, line: &line,
            held_at: HoldPoint::Order, holds_expired: 255, asked: None, packet: None,
        });
        let len = draft.seal(Stamp { below_udp: true, ..stamp(u64::MAX) });
        prop_assert!(len <= MAX_FRAME);
        let frame = Frame::parse(&buf[..len]).expect("a frame");
        prop_assert_eq!(frame.verify(&ring()), Ok(()));
        prop_assert!(frame.below_udp());
        prop_assert_eq!(frame.seq(), u64::MAX);
        let Ok(Body::Word(word)) = frame.body() else { panic!("a word") };
        prop_assert_eq!((word.cpu, word.pid, word.at_ns, word.held_ns), (cpu, pid, at_ns, held_ns));
        prop_assert_eq!(word.notice, notice);
        // Whole where it fits.
        if line.len() <= 900 {
            prop_assert_eq!(word.line, String::from_utf8_lossy(&line));
        }
        if comm.len() <= 16 {
            prop_assert_eq!(word.comm, String::from_utf8_lossy(&comm));
        }
    }

    #[test]
    fn lines_in_as_many_frames_as_they_need_come_back_in_order(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1800), 1..40),
    ) {
        let sealer = Sealer::new(&identity("w01"), &key());
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut todo = texts.iter().enumerate().peekable();
        while todo.peek().is_some() {
            let mut buf = [0; MAX_FRAME];
            let mut draft = sealer.begin(&mut buf, Kind::Lines);
            while let Some((seq, text)) = todo.peek() {
                if !draft.line(*seq as u64, 1, 2, 6, LINE_CONTINUES, text) {
                    break;
                }
                todo.next();
            }
            prop_assert!(!draft.is_empty());
            let len = draft.seal(stamp(frames.len() as u64 + 1));
            prop_assert!(len <= MAX_FRAME);
            frames.push(buf[..len].to_vec());
        }
        let mut seq = 0;
        for bytes in &frames {
            let frame = Frame::parse(bytes).expect("a frame");
            prop_assert_eq!(frame.verify(&ring()), Ok(()));
            let Ok(Body::Lines(lines)) = frame.body() else { panic!("lines") };
            for line in lines {
                prop_assert_eq!(line.seq, seq);
                prop_assert!(line.continues);
                let text = &texts[seq as usize];
                if text.len() <= 1200 {
                    prop_assert_eq!(line.text, String::from_utf8_lossy(text));
                }
                seq += 1;
            }
        }
        prop_assert_eq!(seq as usize, texts.len());
    }

    #[test]
    fn a_proven_frame_with_any_payload_never_panics(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        payload in prop::collection::vec(any::<u8>(), 0..1300),
    ) {
        let sealer = Sealer::new(&identity("w01"), &key());
        let mut buf = [0; MAX_FRAME];
        let mut draft = sealer.begin(&mut buf, kind);
        let taken = draft.bytes(&payload);
        let len = draft.seal(stamp(1));
        let frame = Frame::parse(&buf[..len]).expect("a frame");
        prop_assert_eq!(frame.verify(&ring()), Ok(()));
        prop_assert_eq!(frame.payload(), &payload[..taken]);
        let _ = frame.body();
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        prop_assert!(Frame::parse(&bytes).is_err());
    }
}
