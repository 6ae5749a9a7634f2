//! What stands behind the line of a word.

use agent_common::{asked, segment};
use agent_core::model::{Body, Check, Context, HoldPoint, Means, Notice, Word};
use proptest::prelude::*;

use super::super::asked::asker as written;
use super::super::part::read;
use super::super::*;
use super::{identity, key, longest_name, stamp};

fn text<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text);
    bytes
}

fn asker(pid: u32, comm: &[u8], cgroups: [&[u8]; 3]) -> asked::Asker {
    let process = |pid, comm| asked::Process {
        pid,
        comm: text(comm),
    };
    asked::Asker {
        process: process(pid, comm),
        uid: 1000,
        parents: [process(7, b"sh"), process(1, b"systemd"), process(0, b"")],
        cgroups: cgroups.map(text),
    }
}

fn told(at_ns: u64, by: &asked::Asker) -> asked::Told {
    asked::Told {
        at_ns,
        means: asked::means::COMMAND,
        number: 0,
        command_len: 17,
        by: *by,
        command: text(b"systemctl\0reboot\0"),
    }
}

/// The word of a restart that somebody asked for.
fn restart(name: &str, asked: &asked::Asked, line: &[u8]) -> (usize, Word) {
    let sealer = Sealer::new(&identity(name), &key());
    let mut buf = [0; MAX_FRAME];
    let mut draft = sealer.begin(&mut buf, Kind::Word);
    draft.word(&WordParts {
        notice: Notice::Restart,
        context: Context::Process,
        cpu: 0,
        pid: 1,
        at_ns: 5_000,
        held_ns: 0,
        held_at: HoldPoint::Order,
        holds_expired: 0,
        asked: Some(asked),
        packet: None,
        comm: b"systemd",
        line,
    });
    let len = draft.seal(stamp(1));
    match Frame::parse(&buf[..len]).expect("a frame").body() {
        Ok(Body::Word(word)) => (len, word),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_asked_comes_back_as_it_went() {
    let scope: [&[u8]; 3] = [b"session-3.scope", b"user-0.slice", b"user.slice"];
    let by = asker(1, b"systemd", [b"init.scope", b"", b""]);
    let teller = asker(812, b"systemctl", scope);
    let (_, word) = restart(
        "w01",
        &asked::Asked {
            told: told(2_000, &teller),
            by,
        },
        b"",
    );
    let asked = *word.asked.expect("who asked");
    assert_eq!(asked.by.process.pid, 1);
    assert_eq!(asked.by.cgroups, ["init.scope"]);
    let told = asked.told.expect("who told");
    assert_eq!((told.means, told.before_ns), (Means::Command, 3_000));
    assert_eq!(told.command, "systemctl reboot");
    let by = told.by.expect("a process");
    assert_eq!((by.process.comm.as_str(), by.uid), ("systemctl", 1000));
    let parents: Vec<u32> = by.parents.iter().map(|process| process.pid).collect();
    assert_eq!(parents, [7, 1]);
    assert_eq!(by.cgroup(), "user.slice/user-0.slice/session-3.scope");
}

#[test]
fn a_goodbye_says_who_told_if_anybody_did() {
    let sealer = Sealer::new(&identity("w01"), &key());
    let by = asker(812, b"systemctl", [b"user.slice", b"", b""]);
    let body = |told: Option<&asked::Told>| {
        let mut buf = [0; MAX_FRAME];
        let mut draft = sealer.begin(&mut buf, Kind::Goodbye);
        if let Some(told) = told {
            draft.told(told, 5_000);
        }
        let len = draft.seal(stamp(1));
        let frame = Frame::parse(&buf[..len]).expect("a frame");
        frame.body().expect("a body")
    };
    assert_eq!(body(None), Body::Goodbye(None));
    let Body::Goodbye(Some(told)) = body(Some(&told(2_000, &by))) else {
        panic!("nobody told");
    };
    assert_eq!((told.means, told.before_ns), (Means::Command, 3_000));
    assert_eq!(told.command, "systemctl reboot");
    let by = told.by.expect("a process");
    assert_eq!(by.process.comm, "systemctl");
}

#[test]
fn the_kernel_itself_is_no_process() {
    let nobody = asker(0, b"", [b"", b"", b""]);
    let told = asked::Told {
        means: asked::means::SIGNAL,
        number: 2,
        command_len: 0,
        ..told(2_000, &nobody)
    };
    let by = asker(1, b"init", [b"", b"", b""]);
    let (_, word) = restart("w01", &asked::Asked { told, by }, b"");
    let told = word.asked.and_then(|asked| asked.told).expect("who told");
    assert_eq!((told.means, told.by), (Means::Signal(2), None));
}

#[test]
fn the_longest_of_all_still_fits_and_a_line_comes_first() {
    let long = [&[b'c'; 96][..]; 3];
    let mut by = asker(1, &[b'n'; 16], long);
    by.parents = [by.process; 3];
    let told = asked::Told {
        command_len: 64,
        command: [b'a'; 64],
        ..told(1, &by)
    };
    let asked = asked::Asked { told, by };
    let (len, word) = restart(&longest_name(), &asked, b"");
    assert!(len <= MAX_FRAME);
    let whole = word.asked.expect("who asked");
    assert_eq!(whole.by.cgroups[2].len(), 96);
    let told = whole.told.expect("who told");
    assert_eq!(told.command.len(), 64);
    assert_eq!(Some(whole.by), told.by);
    let (len, word) = restart(&longest_name(), &asked, &[b'x'; 2_000]);
    assert!(len <= MAX_FRAME && word.line.len() > 900);
    assert_eq!(word.asked, None);
}

/// A packet with texts and numbers as long as they can be.
fn longest_packet() -> segment::Packet {
    let element = |n| segment::Element {
        len: u32::MAX - n,
        linear: n,
        frags: 17,
        in_a_page: 1,
    };
    segment::Packet {
        features: u64::MAX,
        check: segment::check::NOT_IN_A_PAGE,
        told_len: segment::TOLD_MAX as u8,
        reserved: [0; 2],
        element: 7,
        elements: 8,
        kind: 3,
        size: 75,
        len: 2375,
        linear: 125,
        frags: 17,
        netns: 4_026_531_840,
        device_index: 2,
        device: [b'd'; segment::NAME_MAX],
        driver: [b'v'; segment::NAME_MAX],
        cgroups: [[b'c'; asked::CGROUP_MAX]; asked::CGROUPS_MAX],
        told: std::array::from_fn(|n| element(n as u32)),
        stack: [b's'; segment::STACK_MAX],
    }
}

#[test]
fn a_packet_comes_back_as_it_was_also_from_the_node_with_the_longest_name() {
    let body = |packet: &segment::Packet| {
        let sealer = Sealer::new(&identity(&longest_name()), &key());
        let mut buf = [0; MAX_FRAME];
        let mut draft = sealer.begin(&mut buf, Kind::Word);
        draft.word(&WordParts {
            notice: Notice::Prediction,
            context: Context::Softirq,
            cpu: 1,
            pid: 0,
            at_ns: 3,
            held_ns: 4,
            held_at: HoldPoint::Prediction,
            holds_expired: 0,
            comm: b"swapper/1",
            line: b"",
            asked: None,
            packet: Some(packet),
        });
        let len = draft.seal(stamp(1));
        let frame = Frame::parse(&buf[..len]).expect("a frame");
        let Ok(Body::Word(word)) = frame.body() else {
            panic!("a word");
        };
        *word.packet.expect("a packet")
    };
    let longest = longest_packet();
    let whole = body(&longest);
    assert_eq!(whole.check, Check::NotInAPage);
    assert_eq!((whole.element, whole.elements, whole.gso_size), (7, 8, 75));
    assert_eq!(
        (whole.gso_type, whole.len, whole.linear, whole.frags),
        (3, 2375, 125, 17)
    );
    assert_eq!(
        (whole.features, whole.netns, whole.device_index),
        (u64::MAX, 4_026_531_840, 2)
    );
    assert_eq!(
        (whole.device.len(), whole.driver.len()),
        (segment::NAME_MAX, segment::NAME_MAX)
    );
    assert_eq!(
        whole.cgroups,
        vec!["c".repeat(asked::CGROUP_MAX); asked::CGROUPS_MAX]
    );
    assert_eq!(whole.list.len(), segment::TOLD_MAX);
    assert_eq!((whole.list[3].linear, whole.list[3].in_a_page), (3, true));
    assert_eq!(whole.stack, ["s".repeat(segment::STACK_MAX)]);

    let mut stack = [0; segment::STACK_MAX];
    let text = b"\nskb_segment+0x1/0xe90\ntcp_gso_segment+0xed/0x390\n0x0\n0x0";
    stack[..text.len()].copy_from_slice(text);
    let mut forwarded = segment::Packet {
        stack,
        told_len: 0,
        ..longest
    };
    forwarded.cgroups[0][0] = 0;
    forwarded.driver[0] = 0;
    let forwarded = body(&forwarded);
    assert_eq!(
        forwarded.stack,
        ["skb_segment+0x1/0xe90", "tcp_gso_segment+0xed/0x390"]
    );
    assert!(forwarded.cgroups.is_empty() && forwarded.list.is_empty());
    assert_eq!(forwarded.way_out(), "d".repeat(segment::NAME_MAX));
}

#[test]
fn a_reader_skips_parts_that_it_does_not_know() {
    let by = asker(7, b"reboot", [b"", b"", b""]);
    let mut part = written(&asked::Asked {
        told: told(0, &by),
        by,
    });
    let mut bytes = vec![99, 2, 0, 1, 2];
    bytes.extend_from_slice(part.bytes());
    let asked = read(&bytes).asked.expect("known");
    assert_eq!(asked.by.process.comm, "reboot");
    assert_eq!(read(&bytes[..bytes.len() - 1]).asked, None);
    assert_eq!(read(&[]).asked, None);
}

#[test]
fn a_reader_takes_more_processes_and_cgroups_than_it_would_send() {
    let mut content = vec![0, 0, 0, 0, 6];
    for pid in 1..=6_u8 {
        content.extend_from_slice(&[pid, 0, 0, 0, 1, b'p']);
    }
    content.push(5);
    for _ in 0..5 {
        content.extend_from_slice(&[1, b'c']);
    }
    let bytes = [&[1, content.len() as u8, 0], &content[..]].concat();
    let by = read(&bytes).asked.expect("known").by;
    assert_eq!((by.parents.len(), by.cgroups.len()), (5, 5));
}

proptest! {
    #[test]
    fn any_bytes_behind_a_line_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = read(&bytes).asked;
        let part = |tag| [&[tag, bytes.len() as u8, (bytes.len() >> 8) as u8], &bytes[..]].concat();
        for tag in 1..=3 {
            let _ = read(&part(tag));
        }
    }
}
