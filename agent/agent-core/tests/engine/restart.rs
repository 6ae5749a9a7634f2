//! What an annotator knows that was stopped for a while.

use super::*;

/// What an annotator remembers that is stopped after this story.
fn restarted(story: Vec<Input>) -> Engine {
    let (mut engine, mut nodes) = (Engine::new(Limits::default()), BTreeMap::new());
    for (i, input) in story.into_iter().enumerate() {
        for output in engine.step(Timestamp(1_700_000_000_000 + i as u64 * 1_000), input) {
            remember(&mut nodes, &output);
        }
    }
    let mut next = Engine::new(Limits::default());
    next.restore(nodes.into_values(), engine.deaths().cloned());
    next
}

#[test]
fn an_annotator_that_restarts_within_a_death_tells_its_pods() {
    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![gasp(1, 100, oops_in_interrupt(100))]);
    let mut next = Engine::new(Limits::default());
    next.restore([], engine.deaths().cloned());
    assert_eq!(
        tell(&mut next, vec![gasp(1, 101, word(Notice::Panic, 101))]),
        ["Dead P2", "MarkNode", "AnnotatePods"]
    );
}

#[test]
fn a_restarted_annotator_goes_on_where_it_was() {
    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![gasp(1, 100, word(Notice::Panic, 100))]);
    let mut next = Engine::new(Limits::default());
    next.restore([known(node(0), BootId([1; 16]))], engine.deaths().cloned());
    assert_eq!(
        tell(
            &mut next,
            vec![
                gasp(1, 100, word(Notice::Panic, 100)),
                gasp(2, 1, Body::Heartbeat)
            ]
        ),
        ["Returned P4", "NodeReturned"],
        "nothing twice, and the return is seen"
    );
}

#[test]
fn what_refuted_a_word_is_known_however_many_boots_came_after() {
    let mut story = vec![
        gasp(1, 100, word(Notice::Panic, 100)),
        gasp(1, 130, Body::Heartbeat),
    ];
    for boot in 2..10 {
        story.push(gasp(boot, 100, word(Notice::Panic, 100)));
    }
    let mut next = restarted(story);
    let tenth = tell(&mut next, vec![gasp(10, 1, Body::Heartbeat)]);
    assert!(!tenth.contains(&"AnnotatePods".to_owned()), "{tenth:?}");
    assert_eq!(tenth[0], "Revoked P1");
    assert_eq!(
        tell(&mut next, vec![gasp(10, 9, word(Notice::Panic, 9))]),
        ["Dead P2", "MarkNode", "AnnotatePods"],
        "it is the one that runs"
    );
}

#[test]
fn what_refuted_a_word_is_known_though_its_node_was_forgotten() {
    let mut engine = Engine::new(Limits {
        nodes: 1,
        ..Limits::default()
    });
    let mut out = Vec::new();
    for input in [
        gasp(1, 100, word(Notice::Panic, 100)),
        gasp(1, 130, Body::Heartbeat),
        said(1, 1, SECOND, Body::Heartbeat),
        gasp(2, 1, Body::Heartbeat),
    ] {
        out.extend(brief(&engine.step(Timestamp(0), input)));
    }
    assert_eq!(out[3..], ["Revoked P1", "Revoke", "Revoked P1"]);
}

#[test]
fn a_goodbye_still_explains_the_silence_and_the_end() {
    let mut next = restarted(vec![
        gasp(1, 1, hello(None)),
        gasp(1, 9, Body::Goodbye(None)),
    ]);
    tell(&mut next, vec![Input::Tick; 20]);
    assert_eq!(next.stats().silent, 0);
    let stale = vec![gasp(2, 1, hello(Some((1, false))))];
    assert_eq!(tell(&mut next, stale), [""; 0]);

    let mut next = restarted(vec![
        gasp(1, 9, Body::Goodbye(None)),
        gasp(1, 10, hello(None)),
        gasp(1, 11, Body::Heartbeat),
    ]);
    tell(&mut next, vec![Input::Tick; 20]);
    assert_eq!(next.stats().silent, 1, "its agent was started anew");
}

#[test]
fn a_hello_that_is_still_to_come_says_how_the_boot_before_ended() {
    let mut next = restarted(vec![gasp(1, 1, hello(None)), gasp(2, 1, Body::Heartbeat)]);
    assert_eq!(
        tell(&mut next, vec![gasp(2, 2, hello(Some((1, false))))]),
        ["Returned P4", "AnnotatePods"]
    );
}

#[test]
fn a_boot_that_ended_meanwhile_was_heard_last_when_it_was_noted() {
    let noted = Timestamp(1_600_000_000_000);
    let mut next = Engine::new(Limits::default());
    let known = KnownNode {
        noted: Some(noted),
        ..known(node(0), BootId([1; 16]))
    };
    next.restore([known], []);
    tell(&mut next, vec![gasp(2, 1, hello(Some((1, false))))]);
    let death = next.deaths().next().expect("one death");
    assert_eq!(death.happened_at, noted);
}

#[test]
fn a_boot_that_went_on_is_not_dead_again() {
    let story = [
        vec![gasp(1, 100, Body::Heartbeat), gasp(2, 1, hello(None))],
        vec![Input::Tick; 10],
        vec![gasp(1, 111, Body::Heartbeat)],
    ];
    let mut next = restarted(story.concat());
    let death = next.deaths().next().expect("one death");
    assert_eq!(death.state, DeathState::Revoked);
    let both = vec![gasp(2, 12, Body::Heartbeat), gasp(1, 112, Body::Heartbeat)];
    let out = tell(&mut next, both);
    assert!(!out.contains(&"AnnotatePods".to_owned()), "{out:?}");
}

#[test]
fn how_long_a_boot_is_up_is_told_with_each_hello() {
    let mut engine = Engine::new(Limits::default());
    for (mono_s, told) in [
        // First that it is there, before what it says is looked at.
        (100, vec![0, 100_000]),
        (160, vec![160_000]),
        // It comes late.
        (130, vec![160_000]),
    ] {
        let outputs = engine.step(Timestamp(1_700_000_000_000), gasp(1, mono_s, hello(None)));
        let ups: Vec<u64> = outputs
            .iter()
            .filter_map(|output| match output {
                Output::NodeSeen { up_ms, .. } => Some(*up_ms),
                _ => None,
            })
            .collect();
        assert_eq!(ups, told);
    }
}
