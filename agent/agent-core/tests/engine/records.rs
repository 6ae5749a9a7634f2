//! What an earlier boot left of its end: pstore and kdump.

use super::*;
use agent_core::model::{Channel, Record, RecordKind};

fn record(kind: RecordKind, channel: Channel) -> Record {
    Record {
        boot: Some(BootId([1; 16])),
        at: Some(Timestamp(1_700_000_000_000)),
        ..Record::new(channel, "ramoops".into(), kind, String::new())
    }
}

/// Boot 2 has found a record of boot 1.
fn recorded(record: Record, code: ReasonCode) -> Input {
    let Input::Decoded { node, report, .. } = decoded(1, code) else {
        unreachable!("that is what it gives");
    };
    Input::Recorded {
        node,
        by: BootId([2; 16]),
        record: Box::new(record),
        printed_ns: Some(100 * SECOND),
        report: Some(report),
    }
}

fn found(kind: RecordKind) -> Input {
    recorded(
        record(kind, Channel::Pstore),
        ReasonCode::NullPointerDereference,
    )
}

fn panic() -> Input {
    found(RecordKind::Panic)
}

fn story(inputs: Vec<Input>) -> (Vec<String>, Engine) {
    let mut engine = Engine::new(Limits::default());
    let out = tell(&mut engine, inputs);
    (out, engine)
}

#[test]
fn a_boot_without_a_word_gets_its_reason_and_pods_that_were_told_are_told_it() {
    let ended = ["Returned P4", "AnnotatePods"];
    let (out, engine) = story(vec![
        gasp(1, 1, hello(None)),
        gasp(2, 1, hello(Some((1, false)))),
        panic(),
        panic(),
    ]);
    assert_eq!(out, [ended, ended].concat());
    let death = engine.deaths().next().expect("one");
    assert_eq!(
        reason(death),
        "Kernel panic: NULL pointer dereference in boom_timer [boom]"
    );
    assert_eq!(death.happened_at, Timestamp(1_700_000_000_000));
    let channels: Vec<Channel> = death.evidence.iter().map(|e| e.channel).collect();
    assert_eq!(channels, [Channel::PreviousBoot, Channel::Pstore]);
    assert_eq!(
        death.evidence[1].text,
        "panic recorded by ramoops at 2023-11-14T22:13:20.000Z: \
         NULL pointer dereference in boom_timer [boom]"
    );

    // Nobody listened to the boot that died, not even its disk was left.
    assert_eq!(story(vec![panic()]).0, ended);
    // The agent was stopped in an orderly way; then the machine died.
    let stopped = vec![
        gasp(1, 9, Body::Goodbye(None)),
        gasp(2, 1, hello(Some((1, true)))),
        panic(),
    ];
    assert_eq!(story(stopped).0, ended);
}

#[test]
fn what_the_gasp_told_is_one_death_with_one_more_line() {
    let told = vec![
        gasp(1, 100, word(Notice::Panic, 100)),
        decoded(1, ReasonCode::NullPointerDereference),
        gasp(2, 1, hello(Some((1, false)))),
    ];
    let (before, engine) = story(told.clone());
    let (_, again) = story([told, vec![panic()]].concat());
    let (old, new) = (engine.deaths().next(), again.deaths().next());
    let (old, new) = (old.expect("one"), new.expect("one"));
    assert_eq!(again.deaths().count(), 1);
    assert_eq!((&old.word, &old.report), (&new.word, &new.report));
    assert_eq!(old.evidence.len() + 1, new.evidence.len());
    assert_eq!(before.last().map(String::as_str), Some("NodeReturned"));

    // Its lines were lost: the record has the better reason.
    let (out, engine) = story(vec![
        gasp(1, 100, word(Notice::Panic, 100)),
        gasp(2, 1, hello(None)),
        panic(),
    ]);
    let death = engine.deaths().next().expect("one");
    assert_eq!(reason_code(death), ReasonCode::NullPointerDereference);
    let pods = out.iter().filter(|o| *o == "AnnotatePods").count();
    assert_eq!(pods, 1, "pods of the next boot are none of its");
}

#[test]
fn an_oops_on_record_is_no_death_if_the_machine_lived_on() {
    let nobody_dies = |inputs: Vec<Input>| {
        let (out, engine) = story(inputs);
        let dead = engine
            .deaths()
            .any(|d| matches!(d.state, DeathState::Dead | DeathState::Returned));
        assert!(!dead && !out.iter().any(|o| o == "AnnotatePods"), "{out:?}");
    };
    let oops = || found(RecordKind::Oops);
    nobody_dies(vec![oops()]);
    nobody_dies(vec![oops(), gasp(2, 1, hello(Some((1, true))))]);
    nobody_dies(vec![gasp(2, 1, hello(Some((1, true)))), oops()]);
    nobody_dies(vec![gasp(1, 200, Body::Goodbye(None)), oops()]);

    // It lived on for long, and then ended without a word: that was not why.
    let (_, engine) = story(vec![
        gasp(1, 900, Body::Heartbeat),
        gasp(2, 1, hello(Some((1, false)))),
        oops(),
    ]);
    let death = engine.deaths().next().expect("one");
    assert_eq!((death.notice, death.state), (None, DeathState::Returned));
    let brought: Vec<&str> = death
        .channels
        .iter()
        .filter(|a| a.did.starts_with("has brought: oops recorded by ramoops"))
        .map(|a| a.would.as_str())
        .collect();
    assert_eq!(brought.len(), 1, "{:?}", death.channels);
    // It ended right behind it.
    let (_, engine) = story(vec![
        gasp(1, 101, Body::Heartbeat),
        gasp(2, 1, hello(Some((1, false)))),
        oops(),
    ]);
    let death = engine.deaths().next().expect("one");
    assert_eq!(death.notice, Some(Notice::Oops));
}

#[test]
fn a_record_without_a_boot_is_of_the_one_that_ended_then_or_of_none() {
    let start = 1_700_000_000_000;
    let at = |ms: u64| {
        let record = Record {
            boot: None,
            at: Some(Timestamp(ms)),
            ..record(RecordKind::Panic, Channel::Vmcore)
        };
        recorded(record, ReasonCode::SysrqCrash)
    };
    let heard = || vec![gasp(1, 1, hello(None)), gasp(2, 1, hello(None))];
    let (_, engine) = story([heard(), vec![at(start + 3_000)]].concat());
    let death = engine.deaths().next().expect("one");
    assert_eq!(reason_code(death), ReasonCode::SysrqCrash);

    let (_, engine) = story([heard(), vec![at(start - 3_600_000)]].concat());
    let death = engine.deaths().next().expect("one");
    assert_eq!(death.notice, None, "of an earlier boot, nobody knows which");
    assert_eq!(engine.stats().records_unplaced, 1);
    let (out, engine) = story(vec![at(start)]);
    assert!(out.is_empty() && engine.stats().records_unplaced == 1);
}

#[test]
fn a_death_found_late_does_not_end_the_boot_that_found_it() {
    let known = known(node(0), BootId([2; 16]));
    let (_, engine) = story(vec![
        gasp(2, 1, hello(None)),
        gasp(2, 5, word(Notice::Oops, 5)),
        panic(),
    ]);
    let mut next = Engine::new(Limits::default());
    next.restore([known], engine.deaths().cloned());
    let dead = tell(&mut next, vec![gasp(2, 9, word(Notice::Panic, 9))]);
    assert_eq!(dead, ["Dead P2", "MarkNode", "AnnotatePods"]);
}

/// What the two boots say: of the first, of the second, and the records.
fn facts() -> impl Strategy<Value = (Vec<Input>, Vec<Input>)> {
    let disk = prop::option::of(any::<bool>());
    let kinds = prop::sample::select(vec![RecordKind::Panic, RecordKind::Oops]);
    let channels = prop::sample::select(vec![Channel::Pstore, Channel::Vmcore]);
    let records = prop::collection::vec((kinds, channels), 0..3);
    let notice = prop::option::of(prop::sample::select(Notice::ALL.to_vec()));
    (notice, any::<bool>(), any::<bool>(), disk, records).prop_map(
        |(notice, first_heard, goodbye, disk, records)| {
            let mut first = Vec::new();
            if first_heard {
                first.push(gasp(1, 90, Body::Heartbeat));
            }
            first.extend(notice.map(|notice| gasp(1, 100, word(notice, 100))));
            if goodbye {
                first.push(gasp(1, 120, Body::Goodbye(None)));
            }
            let hello = gasp(2, 1, hello(disk.map(|stopped| (1, stopped))));
            let mut second = vec![hello.clone(), hello, gasp(2, 3, Body::Heartbeat)];
            for (kind, channel) in records {
                let code = ReasonCode::NullPointerDereference;
                let found = recorded(record(kind, channel), code);
                second.extend([found.clone(), found]);
            }
            (first, second)
        },
    )
}

fn verdicts(story: &[Input], restart: Option<usize>) -> Vec<String> {
    let mut engine = Engine::new(Limits::default());
    let mut stored = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    for (i, input) in story.iter().enumerate() {
        if restart == Some(i) {
            engine = Engine::new(Limits::default());
            engine.restore(nodes.values().cloned(), stored.values().cloned());
        }
        for output in engine.step(Timestamp(1_700_000_000_000 + i as u64), input.clone()) {
            remember(&mut nodes, &output);
            if let Output::Record(death) = output {
                stored.insert(death.name.clone(), *death);
            }
        }
    }
    let mut verdicts = Vec::new();
    for death in engine.deaths() {
        let (state, proof) = (death.state, death.proof);
        verdicts.push(format!(
            "{state:?} {proof:?} {:?} {:?}",
            death.notice,
            reason_code(death)
        ));
    }
    verdicts
}

proptest! {
    #[test]
    fn order_and_copies_of_hello_and_records_change_no_verdict(
        (first, second, shuffled) in facts().prop_flat_map(|(first, second)| {
            (Just(first), Just(second.clone()), Just(second).prop_shuffle())
        }),
    ) {
        let one = verdicts(&[first.clone(), second].concat(), None);
        let other = verdicts(&[first, shuffled].concat(), None);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_panic_on_record_stays_the_reason_over_a_restart(
        (first, second) in facts(),
        restart in 0usize..12,
    ) {
        let story = [first, second, vec![panic(), panic()]].concat();
        let one = verdicts(&story, None);
        prop_assert_eq!(&one, &verdicts(&story, Some(restart)));
        prop_assert_eq!(one.len(), 1);
        prop_assert!(one[0].starts_with("Returned P4 Some(Panic)"), "{:?}", one);
    }
}
