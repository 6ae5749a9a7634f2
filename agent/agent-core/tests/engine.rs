//! The engine's rules: a table of stories, and properties over all others.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::engine::{
    Action, Engine, Input, Keys, KnownNode, Limits, Output, VALUE_MAX, annotations, reason,
    reason_code, retry,
};
use agent_core::model::{
    Body, BootId, Context, Death, DeathName, DeathState, Gasp, HoldPoint, Inventory, NodeName,
    Notice, PreviousBoot, Proof, ReasonCode, Report, RetryAdvice, Timestamp, Word,
};
use proptest::prelude::*;

#[path = "engine/advice.rs"]
mod advice;
#[path = "engine/prediction.rs"]
mod prediction;
#[path = "engine/properties.rs"]
mod properties;
#[path = "engine/records.rs"]
mod records;
#[path = "engine/removal.rs"]
mod removal;
#[path = "engine/restart.rs"]
mod restart;
#[path = "engine/silence.rs"]
mod silence;
#[path = "engine/stop.rs"]
mod stop;
#[path = "engine/unheard.rs"]
mod unheard;

const SECOND: u64 = 1_000_000_000;

fn node(i: u8) -> NodeName {
    NodeName::new(&format!("w{i:02}")).expect("a DNS label")
}

fn gasp(boot: u8, mono_s: u64, body: Body) -> Input {
    said(0, boot, mono_s * SECOND, body)
}

fn said(n: u8, boot: u8, mono_ns: u64, body: Body) -> Input {
    Input::Said(Gasp {
        node: node(n),
        node_uid: None,
        boot: BootId([boot; 16]),
        session: 1,
        mono_ns,
        wall_ns: 1_700_000_000 * SECOND + mono_ns,
        body,
    })
}

fn word(notice: Notice, at_s: u64) -> Body {
    Body::Word(Word {
        notice,
        cpu: 1,
        pid: 42,
        comm: "kworker/1:1".into(),
        // Where an oops may be survived.
        context: Context::Process,
        line: "Kernel panic - not syncing: Fatal exception in interrupt".into(),
        at_ns: at_s * SECOND,
        held_ns: 0,
        held_at: HoldPoint::None,
        holds_expired: 0,
        asked: None,
        packet: None,
    })
}

/// A hello, and what its boot found on its disk of the one before.
fn hello(previous: Option<(u8, bool)>) -> Body {
    let previous = previous.map(|(boot, stopped)| PreviousBoot {
        boot: BootId([boot; 16]),
        stopped,
    });
    Body::Hello(Box::new(Inventory {
        previous,
        ..Inventory::default()
    }))
}

/// An oops that nobody survives.
fn oops_in_interrupt(at_s: u64) -> Body {
    match word(Notice::Oops, at_s) {
        Body::Word(word) => Body::Word(Word {
            context: Context::Softirq,
            line: "BUG: kernel NULL pointer dereference, address: 0".into(),
            ..word
        }),
        other => other,
    }
}

fn decoded(boot: u8, code: ReasonCode) -> Input {
    Input::Decoded {
        node: node(0),
        boot: BootId([boot; 16]),
        report: Report {
            code,
            title: "NULL pointer dereference in boom_timer [boom]".into(),
            line: "BUG: kernel NULL pointer dereference, address: 0".into(),
            fault_function: Some("boom_timer".into()),
            module: Some("boom".into()),
            kernel_release: Some("6.12.0".into()),
            comm: None,
            corrupted: None,
            fingerprint: None,
            known_bugs: Vec::new(),
        },
    }
}

/// A node, as the store remembers it.
fn known(node: NodeName, boot: BootId) -> KnownNode {
    KnownNode {
        node,
        boot,
        noted: None,
        inventory: None,
        stopped: false,
        silence: None,
    }
}

/// Keeps what an output says of a node, as the store does.
fn remember(nodes: &mut BTreeMap<NodeName, KnownNode>, output: &Output) {
    let Output::NodeSeen {
        node,
        boot,
        inventory,
        stopped,
        ..
    } = output
    else {
        return;
    };
    let before = nodes.remove(node).filter(|before| before.boot == *boot);
    let seen = KnownNode {
        inventory: inventory
            .clone()
            .or(before.and_then(|before| before.inventory)),
        stopped: *stopped,
        ..known(node.clone(), *boot)
    };
    nodes.insert(node.clone(), seen);
}

/// What came out, in short: actions as words, records as state and proof.
fn brief(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Act(action) => Some(action.word().to_owned()),
            Output::Record(death) => Some(format!("{:?} {:?}", death.state, death.proof)),
            Output::NodeSeen { .. }
            | Output::Look(_)
            | Output::Removed(_)
            | Output::Stopped(_)
            | Output::Silent(_)
            | Output::SilenceOver(_) => None,
        })
        .collect()
}

/// Tells a story, one fact a second.
fn tell(engine: &mut Engine, story: Vec<Input>) -> Vec<String> {
    let start = engine.stats();
    assert_eq!(start.evicted_nodes, 0);
    let mut out = Vec::new();
    for (i, input) in story.into_iter().enumerate() {
        let now = Timestamp(1_700_000_000_000 + i as u64 * 1_000);
        out.extend(brief(&engine.step(now, input)));
    }
    out
}

#[test]
fn stories() {
    let hello = || hello(None);
    let quiet = |n: usize| std::iter::repeat_n(Input::Tick, n);
    let story = |inputs: Vec<Input>| tell(&mut Engine::new(Limits::default()), inputs);

    let panic = || gasp(1, 100, word(Notice::Panic, 100));
    let dead = ["Dead P2", "MarkNode", "AnnotatePods"];

    assert_eq!(story(vec![gasp(1, 1, hello()), panic()]), dead);
    assert_eq!(story(vec![panic(), panic(), panic()]), dead, "duplicates");

    for notice in Notice::ALL.into_iter().filter(|n| n.is_final()) {
        assert_eq!(story(vec![gasp(1, 5, word(notice, 5))]), dead, "{notice:?}");
    }

    assert_eq!(
        story(vec![
            gasp(1, 100, word(Notice::Oops, 100)),
            gasp(1, 102, Body::Survived),
        ]),
        ["Suspected P1", "ReportOops", "Survived P1"],
        "an oops that the node survives never reaches a pod"
    );
    assert_eq!(
        story(vec![
            gasp(1, 100, word(Notice::Oops, 100)),
            decoded(1, ReasonCode::NullPointerDereference),
            gasp(1, 100, word(Notice::Panic, 100)),
        ]),
        [
            "Suspected P1",
            "ReportOops",
            "Suspected P1",
            "ReportOops",
            "Dead P2",
            "MarkNode",
            "AnnotatePods"
        ],
        "an oops that becomes a panic"
    );
    assert_eq!(
        story(vec![
            panic(),
            decoded(1, ReasonCode::NullPointerDereference),
            decoded(1, ReasonCode::NullPointerDereference),
            decoded(1, ReasonCode::KernelPanic),
        ]),
        [
            "Dead P2",
            "MarkNode",
            "AnnotatePods",
            "Dead P2",
            "MarkNode",
            "AnnotatePods"
        ],
        "refreshed once, by the better reason only"
    );
    assert_eq!(
        story(vec![
            panic(),
            gasp(1, 99, Body::Heartbeat),
            gasp(1, 109, Body::Heartbeat)
        ]),
        dead,
        "heartbeats within the margin revoke nothing"
    );
    assert_eq!(
        story(vec![panic(), gasp(1, 111, Body::Heartbeat), panic()]),
        [
            "Dead P2",
            "MarkNode",
            "AnnotatePods",
            "Revoked P1",
            "Revoke"
        ],
        "the same boot speaks again, and a late copy of the word changes nothing"
    );
    assert_eq!(
        story(vec![
            gasp(1, 100, word(Notice::Restart, 100)),
            gasp(1, 150, Body::Heartbeat)
        ]),
        dead,
        "a shutdown takes its time"
    );
    assert_eq!(
        story([vec![panic()], quiet(9).collect()].concat()),
        dead,
        "not silent for long enough"
    );
    assert_eq!(
        story([vec![panic()], quiet(12).collect()].concat()),
        [
            "Dead P2",
            "MarkNode",
            "AnnotatePods",
            "Dead P3",
            "UpdateRecord",
        ],
    );
    assert_eq!(
        story(vec![
            panic(),
            gasp(2, 3, Body::Heartbeat),
            panic(),
            gasp(2, 4, hello())
        ]),
        [
            "Dead P2",
            "MarkNode",
            "AnnotatePods",
            "Returned P4",
            "NodeReturned"
        ],
        "the node is back with another boot"
    );
    assert_eq!(
        story(vec![gasp(1, 1, hello()), gasp(2, 1, hello()), panic()]),
        ["Returned P4", "AnnotatePods", "Returned P4", "AnnotatePods"],
        "the last word comes after the first of the next boot: no mark on the new one"
    );
    let nothing: [&str; 0] = [];
    assert_eq!(
        story([vec![gasp(1, 1, hello())], quiet(60).collect()].concat()),
        nothing,
        "silence alone is no death"
    );
    assert_eq!(
        story(vec![
            gasp(1, 1, hello()),
            gasp(1, 9, Body::Goodbye(None)),
            gasp(2, 1, hello())
        ]),
        nothing,
        "an orderly reboot is no death"
    );
    assert_eq!(
        story(vec![
            gasp(1, 100, word(Notice::Oops, 100)),
            gasp(1, 103, Body::Survived),
            gasp(1, 900, word(Notice::Panic, 900)),
        ]),
        [
            "Suspected P1",
            "ReportOops",
            "Survived P1",
            "Dead P2",
            "MarkNode",
            "AnnotatePods"
        ],
        "a survived oops does not hide the panic that follows"
    );
    assert_eq!(
        story(vec![decoded(1, ReasonCode::KernelPanic)]),
        ["Suspected P1", "ReportOops"],
        "lines without words: whoever may write to the log could have written them"
    );
}

#[test]
fn an_oops_in_an_interrupt_is_the_death() {
    let story = |inputs: Vec<Input>| tell(&mut Engine::new(Limits::default()), inputs);
    let oops = || gasp(1, 100, oops_in_interrupt(100));
    let panic = || gasp(1, 101, word(Notice::Panic, 101));
    let place = || decoded(1, ReasonCode::NullPointerDereference);
    let marked = ["Dead P2", "MarkNode"];
    let told = ["Dead P2", "MarkNode", "AnnotatePods"];

    assert_eq!(story(vec![oops(), oops()]), marked, "once, and no pods yet");
    assert_eq!(
        story(vec![oops(), place(), panic(), place()]),
        [&marked[..], &told, &["Dead P2"]].concat(),
        "pods once, when the place is known; the panic is only noted"
    );
    assert_eq!(
        story(vec![oops(), panic()]),
        [&marked[..], &told].concat(),
        "the lines were lost: all is said at the panic"
    );
    assert_eq!(
        story([vec![oops()], vec![Input::Tick; 12]].concat()),
        [&marked[..], &["Dead P3", "MarkNode", "AnnotatePods"]].concat(),
        "nothing more came"
    );
    assert_eq!(
        story(vec![oops(), gasp(2, 1, Body::Heartbeat)]),
        [
            &marked[..],
            &["Returned P4", "AnnotatePods", "NodeReturned"]
        ]
        .concat(),
        "nothing more came before the next boot"
    );
    assert_eq!(
        story(vec![oops(), gasp(1, 102, Body::Survived)]),
        [&marked[..], &["Revoked P1", "Revoke"]].concat(),
        "the kernel says that it lives: it knows better"
    );

    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![oops(), place(), panic()]);
    let death = engine.deaths().next().expect("one death");
    assert_eq!(
        (death.notice, reason(death).as_str()),
        (
            Some(Notice::Panic),
            "Kernel panic: NULL pointer dereference in boom_timer [boom]"
        )
    );
    assert_eq!(retry(death).advice, RetryAdvice::Safe);
    for (context, pid, outcome) in [
        (Context::Process, 0, Notice::Panic),
        (Context::Process, 7, Notice::Oops),
        (Context::Unknown, 0, Notice::Oops),
        (Context::Hardirq, 7, Notice::Panic),
        (Context::Nmi, 7, Notice::Panic),
    ] {
        let mut word = death.word.clone().expect("heard");
        (word.context, word.pid) = (context, pid);
        assert_eq!(word.outcome(), outcome, "{context:?} {pid}");
    }
}

#[test]
fn the_reason_of_a_survived_oops_is_not_that_of_the_panic_after_it() {
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![
            gasp(1, 100, word(Notice::Oops, 100)),
            decoded(1, ReasonCode::NullPointerDereference),
            gasp(1, 103, Body::Survived),
            gasp(1, 900, word(Notice::Panic, 900)),
        ],
    );
    let death = engine.deaths().next().expect("one death");
    assert_eq!(
        reason(death),
        "Kernel panic: Fatal exception in interrupt",
        "{death:?}"
    );
}

#[test]
fn an_ordered_stop_is_its_own_reason_whatever_the_log_remembers() {
    use ReasonCode::{Halt, Kexec, NullPointerDereference, PowerOff, Restart, Warning};
    for (notice, logged, want) in [
        (Notice::Restart, Warning, Restart),
        (Notice::Restart, NullPointerDereference, Restart),
        (Notice::Halt, Warning, Halt),
        (Notice::PowerOff, Warning, PowerOff),
        (Notice::Kexec, Warning, Kexec),
        (Notice::EmergencyRestart, Warning, Restart),
        (
            Notice::EmergencyRestart,
            NullPointerDereference,
            NullPointerDereference,
        ),
        (Notice::Panic, Warning, Warning),
    ] {
        for lines_first in [false, true] {
            let mut story = vec![gasp(1, 100, word(notice, 100)), decoded(1, logged)];
            if lines_first {
                story.reverse();
            }
            let mut engine = Engine::new(Limits::default());
            tell(&mut engine, story);
            let death = engine.deaths().next().expect("one death");
            assert_eq!(reason_code(death), want, "{notice:?} {logged:?}");
        }
    }
}

#[test]
fn a_panic_on_the_way_down_is_the_reason_and_not_the_restart() {
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![
            gasp(1, 100, word(Notice::Restart, 100)),
            gasp(1, 101, word(Notice::Panic, 101)),
            decoded(1, ReasonCode::NullPointerDereference),
        ],
    );
    let death = engine.deaths().next().expect("one death");
    assert_eq!(reason_code(death), ReasonCode::NullPointerDereference);
}

#[test]
fn a_stall_is_reported_and_what_it_leads_to_is_the_death() {
    for (notice, code, said) in [
        (Notice::SoftLockup, ReasonCode::SoftLockup, "Soft lockup: "),
        (Notice::HungTask, ReasonCode::HungTask, "Hung task: "),
        (Notice::RcuStall, ReasonCode::RcuStall, "RCU stall: "),
        (
            Notice::OutOfMemory,
            ReasonCode::OutOfMemory,
            "Out of memory: ",
        ),
    ] {
        let mut engine = Engine::new(Limits::default());
        let lives_on = vec![
            gasp(1, 100, word(notice, 100)),
            // Of an oops in the history: that is not what stalls now.
            decoded(1, ReasonCode::NullPointerDereference),
            gasp(1, 104, Body::Survived),
        ];
        assert_eq!(
            tell(&mut engine, lives_on),
            ["Suspected P1", "ReportOops", "Suspected P1", "Survived P1"],
            "{notice:?}: the oops is kept as evidence, and not reported"
        );
        let death = engine.deaths().next().expect("a record").clone();
        assert_eq!(reason_code(&death), code);
        assert!(reason(&death).starts_with(said), "{}", reason(&death));

        let mut engine = Engine::new(Limits::default());
        let dies = vec![
            gasp(1, 100, word(notice, 100)),
            gasp(1, 101, word(Notice::Panic, 101)),
            decoded(1, code),
        ];
        let told = tell(&mut engine, dies);
        assert_eq!(told[..2], ["Suspected P1", "ReportOops"], "{notice:?}");
        assert!(told.contains(&"AnnotatePods".to_owned()), "{told:?}");
        let death = engine.deaths().next().expect("a death");
        assert_eq!(
            (death.notice, reason_code(death)),
            (Some(Notice::Panic), code)
        );
    }
}

#[test]
fn silence_is_counted_and_a_goodbye_explains_it() {
    let mut engine = Engine::new(Limits::default());
    let ticks = || std::iter::repeat_n(Input::Tick, 20);
    tell(
        &mut engine,
        [vec![gasp(1, 1, Body::Heartbeat)], ticks().collect()].concat(),
    );
    assert_eq!(engine.stats().silent, 1);
    tell(
        &mut engine,
        [vec![gasp(1, 2, Body::Goodbye(None))], ticks().collect()].concat(),
    );
    assert_eq!(engine.stats().silent, 0);
}

#[test]
fn a_wall_clock_that_jumps_proves_no_silence() {
    let mut engine = Engine::new(Limits::default());
    engine.step(Timestamp(0), gasp(1, 100, word(Notice::Panic, 100)));
    for now in [86_400_000, 3, 900_000_000, 0] {
        assert_eq!(brief(&engine.step(Timestamp(now), Input::Tick)), [""; 0]);
    }
}

#[test]
fn what_is_held_is_bounded_and_what_is_dropped_is_counted() {
    let mut engine = Engine::new(Limits {
        nodes: 4,
        deaths: 3,
        evidence: 4,
        ..Limits::default()
    });
    for n in 0..20 {
        engine.step(Timestamp(0), said(n, 1, SECOND, word(Notice::Panic, 1)));
        for at in 0..40 {
            engine.step(Timestamp(0), said(n, 1, SECOND, word(Notice::Oops, at)));
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.nodes, stats.deaths), (4, 3));
    assert_eq!((stats.evicted_nodes, stats.evicted_deaths), (16, 17));
    assert!(stats.words_cut > 0 && stats.evidence_cut > 0, "{stats:?}");
    assert!(engine.deaths().all(|d| d.evidence.len() <= 4));
}

#[test]
fn annotations_explain_and_are_bounded() {
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![
            gasp(1, 100, oops_in_interrupt(100)),
            decoded(1, ReasonCode::NullPointerDereference),
        ],
    );
    let mut death = engine.deaths().next().expect("one death").clone();
    let keys = Keys {
        legacy_prefix: Some("pod.example.org".into()),
        ..Keys::default()
    };
    let got = annotations(&death, &keys);
    let want = "Kernel panic: NULL pointer dereference in boom_timer [boom]";
    assert_eq!(got["lastgasp.dev/reason"], want);
    assert_eq!(got["pod.example.org/pod-termination-reason"], want);
    assert_eq!(got["lastgasp.dev/reason-code"], "NullPointerDereference");
    assert_eq!(got["lastgasp.dev/proof"], "P2");
    assert_eq!(got["lastgasp.dev/time"], "2023-11-14T22:15:00.000Z");
    assert_eq!(got["lastgasp.dev/retry"], "safe");
    assert_eq!(got["lastgasp.dev/death"], "w00-01010101");

    let report = death.report.as_mut().expect("decoded");
    report.title = format!("\u{1b}[2J\u{202e}{}", "x".repeat(9_000));
    for value in annotations(&death, &keys).values() {
        assert!(value.len() <= VALUE_MAX);
        assert!(!value.contains(['\u{1b}', '\u{202e}']), "{value}");
    }
}
