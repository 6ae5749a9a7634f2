//! Boots that ended without a word.

use agent_core::model::Channel;

use super::*;

#[test]
fn stories_without_a_word() {
    let story = |inputs: Vec<Input>| tell(&mut Engine::new(Limits::default()), inputs);
    let nothing: [&str; 0] = [];
    let ended = ["Returned P4", "AnnotatePods"];
    let first = || gasp(1, 1, hello(None));

    assert_eq!(
        story(vec![
            first(),
            gasp(2, 1, hello(None)),
            gasp(2, 61, hello(None))
        ]),
        ended,
        "another boot runs, and this one said no goodbye"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(2, 1, Body::Heartbeat),
            gasp(2, 2, hello(Some((1, false))))
        ]),
        ended,
        "the disk says so too"
    );
    assert_eq!(
        story(vec![first(), gasp(2, 1, hello(Some((1, true))))]),
        nothing,
        "the goodbye was lost, but it is on the disk"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(1, 9, Body::Goodbye(None)),
            gasp(2, 1, hello(Some((1, false))))
        ]),
        nothing,
        "the goodbye was heard, and the disk was full"
    );
    assert_eq!(
        story(vec![gasp(2, 1, hello(Some((1, false))))]),
        ended,
        "nobody listened, but the disk knows"
    );
    assert_eq!(
        story(vec![
            gasp(2, 1, hello(Some((1, true)))),
            gasp(2, 61, hello(None))
        ]),
        nothing
    );
    assert_eq!(story(vec![gasp(2, 1, hello(None))]), nothing, "a new node");
    assert_eq!(
        story(vec![
            first(),
            gasp(2, 1, hello(Some((1, true)))),
            gasp(2, 9, Body::Goodbye(None)),
            gasp(3, 1, hello(Some((1, false)))),
        ]),
        nothing,
        "a marker of an older boot says nothing of this one"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(2, 1, hello(None)),
            gasp(1, 9, Body::Goodbye(None))
        ]),
        ["Returned P4", "AnnotatePods", "Revoked P1", "Revoke"],
        "the goodbye comes late"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(1, 100, word(Notice::Oops, 100)),
            gasp(1, 103, Body::Survived),
            gasp(2, 1, hello(None)),
        ])[3..],
        ["Survived P4", "NodeReturned", "Returned P4", "AnnotatePods"],
        "an oops that was survived is not why"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(1, 100, word(Notice::SoftLockup, 100)),
            gasp(2, 1, hello(Some((1, true)))),
        ])[2..],
        ["Suspected P4", "NodeReturned", "Survived P4"],
        "a CPU was stuck, and later the machine was stopped"
    );
    assert_eq!(
        story(vec![
            first(),
            gasp(1, 100, word(Notice::SoftLockup, 100)),
            gasp(2, 1, hello(None)),
        ])[2..],
        [
            "Suspected P4",
            "NodeReturned",
            "Returned P4",
            "AnnotatePods"
        ],
        "a CPU was stuck, and then a watchdog reset the machine"
    );
}

#[test]
fn a_boot_that_goes_on_had_not_ended() {
    let mut engine = Engine::new(Limits::default());
    let both = |beats: [u64; 2]| beats.map(|at_s| gasp(1, at_s, Body::Heartbeat));
    let story = [
        vec![gasp(1, 100, Body::Heartbeat), gasp(2, 1, hello(None))],
        both([101, 102]).to_vec(),
        vec![Input::Tick; 10],
        both([112, 113]).to_vec(),
        vec![gasp(2, 5, Body::Heartbeat), gasp(2, 6, hello(None))],
    ]
    .concat();
    assert_eq!(
        tell(&mut engine, story),
        ["Returned P4", "AnnotatePods", "Revoked P1", "Revoke"]
    );
    let death = engine.deaths().next().expect("one");
    assert_eq!(
        death.steps.last().map(|step| step.text.as_str()),
        Some("the same boot goes on: it runs beside the one that spoke")
    );
    let stops = [
        vec![gasp(1, 114, Body::Goodbye(None))],
        vec![Input::Tick; 20],
    ]
    .concat();
    assert_eq!(tell(&mut engine, stops), [""; 0]);
    assert_eq!(engine.stats().silent, 0, "it is the one that runs");
    assert_eq!(
        tell(&mut engine, vec![gasp(1, 200, word(Notice::Panic, 200))]),
        ["Dead P2", "MarkNode", "AnnotatePods"]
    );

    // An oops before is not why it ended either.
    let mut engine = Engine::new(Limits::default());
    let story = [
        vec![
            gasp(1, 100, word(Notice::SoftLockup, 100)),
            gasp(2, 1, hello(Some((1, false)))),
            gasp(1, 102, Body::Heartbeat),
        ],
        vec![Input::Tick; 10],
        vec![gasp(1, 113, Body::Heartbeat)],
    ]
    .concat();
    assert_eq!(
        tell(&mut engine, story)[4..],
        ["Returned P4", "AnnotatePods", "Survived P1", "Revoke"]
    );
}

#[test]
fn heartbeats_that_are_read_after_the_next_boot_s_hello_revoke_nothing() {
    let mut engine = Engine::new(Limits::default());
    let story = [
        vec![gasp(1, 1, hello(None)), gasp(2, 1, hello(None))],
        // They had waited for a minute, apart from the hello.
        (2..10).map(|at_s| gasp(1, at_s, Body::Heartbeat)).collect(),
        vec![gasp(1, 60, Body::Heartbeat)],
        vec![Input::Tick; 8],
        (2..40).map(|at_s| gasp(2, at_s, Body::Heartbeat)).collect(),
        vec![gasp(1, 61, Body::Heartbeat)],
    ]
    .concat();
    assert_eq!(tell(&mut engine, story), ["Returned P4", "AnnotatePods"]);
    assert_eq!(
        engine.stats().silent,
        0,
        "the next boot is the one that runs"
    );
}

#[test]
fn a_boot_that_was_never_heard_between_two_that_were_has_its_end() {
    for (goodbye, stopped, ends) in [
        (true, false, vec![2]),
        (true, true, vec![]),
        (false, false, vec![1, 2]),
        (false, true, vec![1]),
    ] {
        let mut story = vec![gasp(1, 1, hello(None))];
        if goodbye {
            story.push(gasp(1, 9, Body::Goodbye(None)));
        }
        story.push(gasp(3, 1, hello(Some((2, stopped)))));
        let mut engine = Engine::new(Limits::default());
        tell(&mut engine, story);
        let ended: Vec<u8> = engine.deaths().map(|death| death.boot.0[0]).collect();
        assert_eq!(ended, ends, "{goodbye} {stopped}");
        let told = |d: &Death| (d.state, d.proof) == (DeathState::Returned, Proof::P4);
        assert!(engine.deaths().all(told));
    }
}

#[test]
fn a_goodbye_that_came_late_counts_in_the_next_process_too() {
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![
            gasp(1, 1, hello(None)),
            gasp(2, 1, hello(None)),
            gasp(1, 9, Body::Goodbye(None)),
        ],
    );
    let death = engine.deaths().next().expect("one").clone();
    assert_eq!(death.state, DeathState::Revoked);

    let mut engine = Engine::new(Limits::default());
    let known = known(node(0), BootId([2; 16]));
    engine.restore([known], [death]);
    assert!(tell(&mut engine, vec![gasp(2, 61, hello(None))]).is_empty());
    let again = engine.deaths().next().expect("the same");
    assert_eq!(again.state, DeathState::Revoked);
}

#[test]
fn a_late_goodbye_takes_back_what_an_earlier_process_told() {
    let mut engine = Engine::new(Limits::default());
    let ended = vec![
        gasp(1, 1, hello(None)),
        gasp(1, 100, word(Notice::SoftLockup, 100)),
        gasp(2, 1, hello(None)),
    ];
    tell(&mut engine, ended);
    let death = engine.deaths().next().expect("one").clone();
    assert_eq!(death.state, DeathState::Returned);
    let mut engine = Engine::new(Limits::default());
    engine.restore([], [death]);
    let late = vec![gasp(1, 200, Body::Goodbye(None))];
    assert_eq!(tell(&mut engine, late), ["Revoked P1", "Revoke"]);
}

fn did(death: &Death, channel: Channel) -> Option<&str> {
    let account = death.channels.iter().find(|a| a.channel == channel);
    account.map(|account| account.did.as_str())
}

#[test]
fn what_was_said_and_survived_stands_in_the_account() {
    let mut engine = Engine::new(Limits::default());
    let story = vec![
        gasp(1, 100, word(Notice::SoftLockup, 100)),
        gasp(1, 103, Body::Survived),
        gasp(1, 900, Body::Heartbeat),
        gasp(2, 1, hello(Some((1, false)))),
    ];
    tell(&mut engine, story);
    let death = engine.deaths().next().expect("one").clone();
    assert_eq!(death.notice, None);
    assert_eq!(
        did(&death, Channel::Gasp),
        Some(
            "said soft lockup on CPU 1, process, kworker/1:1 (pid 42): Kernel panic - not \
             syncing: Fatal exception in interrupt; what it could hear is not known"
        )
    );
}

#[test]
fn a_death_without_a_word_says_so_and_gives_no_advice() {
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![gasp(1, 1, hello(None)), gasp(2, 1, hello(None))],
    );
    let death = engine.deaths().next().expect("one").clone();
    assert!(reason(&death).starts_with("Ended without a word: power, "));
    assert_eq!(reason_code(&death), ReasonCode::Unknown);
    assert_eq!(retry(&death).advice, RetryAdvice::Unknown);
    // What each channel would have shown stands in the record.
    let did = |channel| did(&death, channel);
    assert_eq!(death.channels.len(), 7);
    assert_eq!(
        did(Channel::Heartbeat),
        Some("stopped; heard last at 2023-11-14T22:13:20.000Z")
    );
    assert_eq!(
        did(Channel::PreviousBoot),
        Some("said nothing of this boot")
    );
    assert_eq!(
        did(Channel::Lease),
        Some("there is no API server to ask for its Lease")
    );
    // It was heard last in the story's first second.
    assert_eq!(death.happened_at, Timestamp(1_700_000_000_000));

    // And the next process does not think of it anew.
    let mut engine = Engine::new(Limits::default());
    let known = known(node(0), BootId([2; 16]));
    engine.restore([known], [death.clone()]);
    assert!(tell(&mut engine, vec![gasp(2, 61, hello(None))]).is_empty());
    assert_eq!(engine.deaths().next(), Some(&death));
}
