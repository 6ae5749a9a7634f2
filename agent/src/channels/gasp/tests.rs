use std::net::SocketAddr;

use agent_core::model::{Context, Gasp, HoldPoint, Notice, ReasonCode, Timestamp, Word};
use proptest::prelude::*;

use super::*;

const CRASH: [&str; 6] = [
    "boom: loading out-of-tree module taints kernel.",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "CPU: 1 PID: 0 Comm: swapper/1 Tainted: G  OE  6.1.0-53-cloud-amd64 #1",
    "RIP: 0010:boom_timer+0x12/0x34 [boom]",
    "---[ end trace 0000000000000000 ]---",
    "Kernel panic - not syncing: Fatal exception in interrupt",
];

fn received(boot: u8, session: u64, body: Body) -> Received {
    Received {
        gasp: Gasp {
            node: NodeName::new("w01").expect("a node name"),
            node_uid: None,
            boot: BootId([boot; 16]),
            session,
            mono_ns: 0,
            wall_ns: 0,
            body,
        },
        source: SocketAddr::from(([10, 0, 0, 1], 1)),
        at: Timestamp(0),
        below_udp: true,
        key_id: 0,
    }
}

fn line(seq: u64, text: &str) -> Line {
    Line {
        seq,
        mono_ns: seq,
        cpu: 1,
        level: Some(0),
        continues: false,
        text: text.to_owned(),
    }
}

fn word(text: &str) -> Body {
    Body::Word(Word {
        notice: Notice::Oops,
        cpu: 1,
        pid: 0,
        comm: "swapper/1".into(),
        context: Context::Softirq,
        line: text.into(),
        at_ns: 1,
        held_ns: 0,
        held_at: HoldPoint::None,
        holds_expired: 0,
        asked: None,
        packet: None,
    })
}

fn crash() -> Vec<Line> {
    (0..)
        .zip(CRASH)
        .map(|(seq, text)| line(seq, text))
        .collect()
}

#[test]
fn the_first_word_alone_gives_a_reason_and_the_lines_make_it_whole() {
    let mut assembler = Assembler::new(Limits::default());
    let beat = received(1, 1, Body::Heartbeat);
    assert_eq!(assembler.take(&beat), None);

    let first = assembler
        .take(&received(1, 1, word(CRASH[1])))
        .expect("an update");
    let report = first.report.expect("a report");
    assert_eq!(report.code, ReasonCode::NullPointerDereference);
    assert!(report.corrupted.is_some());

    let all = received(1, 1, Body::Lines(crash()));
    let second = assembler.take(&all).expect("an update");
    assert_eq!(second.fresh_lines, crash());
    let report = second.report.expect("a report");
    assert_eq!(
        report.title,
        "NULL pointer dereference in boom_timer [boom]"
    );
    assert_eq!(report.corrupted, None);

    let third = assembler.take(&all).expect("an update");
    assert_eq!(third.fresh_lines, []);
    assert_eq!(third.report, Some(report));
}

#[test]
fn a_restarted_agent_counts_anew_and_no_line_is_taken_for_another() {
    let mut assembler = Assembler::new(Limits::default());
    let history = vec![line(1, "usb 1-1: hello"), line(2, "usb 1-1: again")];
    assembler.take(&received(1, 7, Body::Lines(history)));
    let update = assembler
        .take(&received(1, 8, Body::Lines(crash())))
        .expect("an update");
    assert_eq!(update.fresh_lines.len(), CRASH.len());
    assert_eq!(
        update.report.map(|report| report.code),
        Some(ReasonCode::NullPointerDereference)
    );
}

#[test]
fn pieces_of_one_cpu_are_joined_past_the_lines_of_others() {
    let mut assembler = Assembler::new(Limits::default());
    let mut lines = vec![
        line(1, "BUG: kernel NULL pointer "),
        line(2, "something else"),
        line(3, "dereference, address: 0"),
    ];
    lines[1].cpu = 0;
    lines[2].continues = true;
    let update = assembler
        .take(&received(1, 1, Body::Lines(lines)))
        .expect("an update");
    let report = update.report.expect("a report");
    assert_eq!(
        report.line,
        "BUG: kernel NULL pointer dereference, address: 0"
    );
}

#[test]
fn a_boot_that_says_too_much_keeps_its_beginning_and_its_end() {
    let limits = Limits {
        lines: 100,
        ..Limits::default()
    };
    let mut assembler = Assembler::new(limits);
    assembler.take(&received(1, 1, Body::Lines(crash())));
    for seq in 10..1010 {
        let body = Body::Lines(vec![line(seq, "a backtrace of another CPU")]);
        let update = assembler.take(&received(1, 1, body)).expect("an update");
        assert_eq!(
            update.report.map(|report| report.code),
            Some(ReasonCode::NullPointerDereference)
        );
    }
    let boot = assembler.boots.iter().next().expect("a boot").1;
    assert_eq!(boot.lines.len(), 100);
    assert_eq!(boot.lines.keys().next_back(), Some(&(0, 1009)));
    assert_eq!(assembler.losses().lines, 1000 + CRASH.len() as u64 - 100);
}

proptest! {
    #[test]
    fn any_order_of_the_frames_ends_in_the_same_report(
        order in Just((0..CRASH.len()).collect::<Vec<_>>()).prop_shuffle(),
        words in prop::collection::vec(prop::sample::select(vec![CRASH[1], CRASH[5], ""]), 0..4),
    ) {
        let mut assembler = Assembler::new(Limits::default());
        for text in words {
            assembler.take(&received(1, 1, word(text)));
        }
        let mut report = None;
        for at in order {
            let body = Body::Lines(vec![line(at as u64, CRASH[at])]);
            report = assembler.take(&received(1, 1, body)).and_then(|update| update.report);
        }
        prop_assert_eq!(report, agent_decode::decode(&crash()));
    }

    #[test]
    fn it_never_holds_more_than_its_limits(
        steps in prop::collection::vec(
            (0u8..6, 0u64..20, 0u64..40, 0usize..300, any::<bool>()),
            0..300,
        ),
    ) {
        let limits = Limits { boots: 3, lines: 10, bytes: 2_000, total_bytes: 4_000 };
        let mut assembler = Assembler::new(limits);
        for (boot, session, seq, len, is_word) in steps {
            let text = "x".repeat(len);
            let body = if is_word { word(&text) } else { Body::Lines(vec![line(seq, &text)]) };
            assembler.take(&received(boot, session, body));
            let (mut boots, mut bytes) = (0, 0);
            for (_, boot) in assembler.boots.iter() {
                let sum: usize = boot.lines.values().map(cost).sum();
                prop_assert_eq!(sum, boot.bytes);
                prop_assert!(boot.lines.len() <= limits.lines && sum <= limits.bytes);
                prop_assert!(boot.words.len() <= WORDS && boot.sessions.len() <= SESSIONS);
                boots += 1;
                bytes += sum;
            }
            prop_assert_eq!(bytes, assembler.bytes);
            prop_assert!(boots <= limits.boots && bytes <= limits.total_bytes);
        }
    }
}

#[test]
fn what_the_kernel_survived_does_not_explain_what_kills_it_later() {
    let mut assembler = Assembler::new(Limits::default());
    assembler.take(&received(1, 1, word(CRASH[1])));
    let first = assembler.take(&received(1, 1, Body::Lines(crash())));
    let code = |update: Option<Update>| update.and_then(|u| u.report).map(|r| r.code);
    assert_eq!(code(first), Some(ReasonCode::NullPointerDereference));

    let mut survived = received(1, 1, Body::Survived);
    survived.gasp.mono_ns = 1_000;
    assert_eq!(code(assembler.take(&survived)), None);
    // Late lines of the oops are kept for the record only.
    let late = assembler.take(&received(1, 1, Body::Lines(crash())));
    let late = late.expect("lines are an update");
    assert_eq!((late.fresh_lines.len(), late.report), (CRASH.len(), None));

    let text = "sysrq: Trigger a crash";
    let panic = Body::Lines(vec![line(2_000, text)]);
    let code = code(assembler.take(&received(1, 1, panic)));
    assert_ne!(code, Some(ReasonCode::NullPointerDereference));
}

#[test]
fn a_boot_that_is_known_to_have_lived_on_keeps_what_came_after() {
    let mut assembler = Assembler::new(Limits::default());
    let node = NodeName::new("w01").expect("a node name");
    assembler.take(&received(1, 1, word(CRASH[1])));
    assembler.take(&received(1, 1, Body::Lines(crash())));
    let warned = line(
        2_000,
        "WARNING: CPU: 1 PID: 7 at net/core/dev.c:1 boom+0x1/0x2",
    );
    assembler.take(&received(1, 1, Body::Lines(vec![warned.clone()])));
    assembler.lived_on(&node, BootId([1; 16]), 1_000);
    let boot = assembler.boots.iter().next().expect("a boot").1;
    assert_eq!(boot.lines.values().collect::<Vec<_>>(), [&warned]);
    assert!(boot.words.is_empty());
    assert_eq!(assembler.bytes, boot.bytes);
}

#[test]
fn a_warning_that_was_survived_is_not_the_reason_of_a_panic_that_names_one() {
    let texts = [
        "WARNING: CPU: 1 PID: 7 at net/core/dev.c:1 boom+0x1/0x2",
        "---[ end trace 0000000000000000 ]---",
        "sysrq: Trigger a crash",
        "Kernel panic - not syncing: sysrq triggered crash",
    ];
    let lines = (0..)
        .zip(texts)
        .map(|(seq, text)| line(seq, text))
        .collect();
    let mut assembler = Assembler::new(Limits::default());
    let update = assembler.take(&received(1, 1, Body::Lines(lines)));
    let report = update.and_then(|update| update.report).expect("a report");
    assert_eq!(report.code, ReasonCode::SysrqCrash);
}
