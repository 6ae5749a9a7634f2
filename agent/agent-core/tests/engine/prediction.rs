//! What is foretold, and what becomes of it.

use agent_core::model::{Check, Element, KnownBug, Packet};

use super::*;

/// The kernel is about to stop at a packet.
fn foretold(at_s: u64) -> Body {
    let packet = Packet {
        check: Check::HeadTooLong,
        element: 0,
        elements: 1,
        gso_size: 75,
        gso_type: 1,
        len: 2375,
        linear: 125,
        frags: 17,
        features: 9,
        device: "eth0".into(),
        device_index: 2,
        driver: "vmxnet3".into(),
        netns: 4_026_531_840,
        cgroups: Vec::new(),
        list: vec![Element {
            len: 125,
            linear: 125,
            in_a_page: true,
        }],
        stack: vec!["skb_segment+0x1/0xe90".into()],
    };
    match word(Notice::Prediction, at_s) {
        Body::Word(word) => Body::Word(Word {
            context: Context::Softirq,
            line: String::new(),
            packet: Some(Box::new(packet)),
            ..word
        }),
        other => other,
    }
}

fn report_of_the_bug() -> Input {
    Input::Decoded {
        node: node(0),
        boot: BootId([1; 16]),
        report: Report {
            code: ReasonCode::KernelBug,
            title: "kernel BUG at net/core/skbuff.c:3934 in skb_segment".into(),
            line: "kernel BUG at net/core/skbuff.c:3934!".into(),
            fault_function: Some("skb_segment".into()),
            module: None,
            kernel_release: Some("5.10.0-32-cloud-amd64".into()),
            comm: None,
            corrupted: None,
            fingerprint: None,
            known_bugs: vec![KnownBug {
                id: "cve-2024-42281".into(),
                title: String::new(),
                likely: true,
                fixed_in: Some("5.10.224".into()),
                workaround: None,
                reference: None,
            }],
        },
    }
}

/// Takes these in, a second apart; gives the death and all that was to be done.
fn story(inputs: impl IntoIterator<Item = Input>) -> (Death, Vec<Action>) {
    let mut engine = Engine::new(Limits::default());
    let mut actions = Vec::new();
    for (second, input) in (1..).zip(inputs) {
        let outputs = engine.step(Timestamp(second * 1000), input);
        actions.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Act(action) => Some(action),
            _ => None,
        }));
    }
    let death = engine.deaths().next().expect("a death").clone();
    (death, actions)
}

const FORETOLD: &str = "Bug foreseen: skb_segment is about to hit \
    BUG_ON(skb_headlen(list_skb) > len): gso_size 75, element 1 of 1 has 125 of 125 bytes in \
    one piece; on eth0 (vmxnet3)";

#[test]
fn what_is_foretold_is_reported_and_no_death_yet() {
    let (death, actions) = story([gasp(1, 1, hello(None)), gasp(1, 2, foretold(2))]);
    assert_eq!(
        (death.state, death.proof),
        (DeathState::Suspected, Proof::P1)
    );
    assert_eq!(reason_code(&death), ReasonCode::PredictedBug);
    assert_eq!(reason(&death), FORETOLD);
    assert!(
        matches!(actions[..], [Action::ReportOops(_)]),
        "{actions:?}"
    );
}

#[test]
fn the_panic_that_follows_has_the_logs_reason_and_was_foreseen() {
    let (death, _) = story([
        gasp(1, 1, hello(None)),
        gasp(1, 2, foretold(2)),
        report_of_the_bug(),
        gasp(1, 3, word(Notice::Panic, 3)),
    ]);
    assert_eq!((death.state, death.proof), (DeathState::Dead, Proof::P2));
    assert_eq!(reason_code(&death), ReasonCode::KernelBug);
    assert_eq!(
        reason(&death),
        "Kernel panic: kernel BUG at net/core/skbuff.c:3934 in skb_segment; \
         known bug cve-2024-42281, fixed in 5.10.224; foreseen by its packet on eth0 (vmxnet3)"
    );
}

#[test]
fn until_the_log_is_there_the_packet_is_why_the_kernel_panicked() {
    let panic = gasp(1, 3, word(Notice::Panic, 3));
    let (death, _) = story([gasp(1, 2, foretold(2)), panic]);
    assert_eq!(reason_code(&death), ReasonCode::PredictedBug);
    assert!(reason(&death).starts_with("Kernel panic: skb_segment is about to hit"));
    assert_eq!(
        death.report.and_then(|r| r.fault_function).as_deref(),
        Some("skb_segment")
    );
}

#[test]
fn what_does_not_come_was_survived() {
    let (death, actions) = story([gasp(1, 2, foretold(2)), gasp(1, 6, Body::Survived)]);
    assert_eq!(death.state, DeathState::Survived);
    assert_eq!(reason(&death), FORETOLD);
    let marks = |action: &Action| matches!(action, Action::MarkNode(_) | Action::AnnotatePods(_));
    assert!(!actions.iter().any(marks), "{actions:?}");
}

#[test]
fn a_later_end_without_a_word_is_not_what_was_foretold_and_survived() {
    let (death, _) = story([
        gasp(1, 1, hello(None)),
        gasp(1, 2, foretold(2)),
        gasp(1, 6, Body::Survived),
        gasp(2, 1, hello(Some((1, false)))),
    ]);
    assert_eq!((death.state, death.packet), (DeathState::Returned, None));
    assert!(death.notice.is_none());
}
