//! Nodes that say nothing, and the Lease as a second opinion.

use agent_core::model::{Channel, Lease, Opinion, Silence};

use super::*;

const START: u64 = 1_700_000_000_000;

fn leases() -> Limits {
    Limits {
        leases: true,
        ..Limits::default()
    }
}

/// A look at the Lease of the first node: renewed then, by the node's clock.
fn lease(renewed_s: u64) -> Input {
    leased(Lease::Found {
        renewed: Timestamp(renewed_s * 1_000),
        lasts_ms: 40_000,
    })
}

fn leased(lease: Lease) -> Input {
    Input::Leased {
        node: node(0),
        lease,
    }
}

/// Lets seconds pass and answers each look at the Lease.
fn pass(
    engine: &mut Engine,
    seconds: std::ops::Range<u64>,
    answer: impl Fn(u64) -> Option<Input>,
) -> Vec<Output> {
    let mut all = Vec::new();
    for second in seconds {
        let now = Timestamp(START + second * 1_000);
        let ticked = engine.step(now, Input::Tick);
        for output in &ticked {
            if let (Output::Look(_), Some(lease)) = (output, answer(second)) {
                all.extend(engine.step(now, lease));
            }
        }
        all.extend(ticked);
    }
    all
}

fn silences(outputs: &[Output]) -> Vec<&Silence> {
    let mut silences = Vec::new();
    for output in outputs {
        if let Output::Silent(silence) = output {
            silences.push(silence.as_ref());
        }
    }
    silences
}

fn dead() -> Engine {
    let mut engine = Engine::new(leases());
    engine.step(Timestamp(START), gasp(1, 100, word(Notice::Panic, 100)));
    engine
}

fn proof(engine: &Engine) -> Proof {
    engine.deaths().next().expect("a death").proof
}

fn last_step(engine: &Engine) -> (Proof, Channel, String) {
    let death = engine.deaths().next().expect("a death");
    let step = death.steps.last().expect("a step");
    (step.proof, step.by, step.text.clone())
}

#[test]
fn silence_and_a_lease_that_is_not_renewed_make_p3() {
    let mut engine = dead();
    pass(&mut engine, 1..20, |_| Some(lease(7)));
    assert_eq!(proof(&engine), Proof::P2, "one renewal may still come");
    let later = pass(&mut engine, 20..30, |_| Some(lease(7)));
    assert_eq!(
        last_step(&engine),
        (
            Proof::P3,
            Channel::Lease,
            "no sign of life for 10000 ms, and its Lease was not renewed for 20000 ms".to_owned()
        )
    );
    assert_eq!(brief(&later), ["Dead P3", "UpdateRecord"]);

    // What the next process knows of it.
    let death = engine.deaths().next().expect("a death").clone();
    let mut next = Engine::new(leases());
    next.restore([], [death.clone()]);
    assert_eq!(brief(&next.step(Timestamp(START), Input::Tick)), [""; 0]);
    assert_eq!(next.deaths().next(), Some(&death));
}

#[test]
fn a_lease_that_is_renewed_keeps_p3_away_and_takes_it_back() {
    let mut engine = dead();
    // Ten seconds apart, as a kubelet does it.
    pass(&mut engine, 1..90, |s| Some(lease(s / 10)));
    assert_eq!(proof(&engine), Proof::P2);

    let mut engine = dead();
    pass(&mut engine, 1..30, |_| Some(lease(7)));
    assert_eq!(proof(&engine), Proof::P3);
    pass(&mut engine, 30..50, |_| Some(lease(8)));
    assert_eq!(
        last_step(&engine),
        (
            Proof::P2,
            Channel::Lease,
            "its Lease is renewed: this boot or another one lives".to_owned()
        )
    );
}

#[test]
fn where_no_lease_can_be_read_silence_has_to_do_alone_and_says_so() {
    let why = |lease: Lease| {
        let mut engine = dead();
        pass(&mut engine, 1..12, |_| Some(leased(lease.clone())));
        last_step(&engine)
    };
    for (lease, said) in [
        (Lease::Missing, "it has no Lease"),
        (
            Lease::Denied("forbidden".to_owned()),
            "its Lease cannot be read: forbidden",
        ),
    ] {
        let text = format!("no sign of life for 10000 ms; silence alone, because {said}");
        assert_eq!(why(lease), (Proof::P3, Channel::Heartbeat, text));
    }
    // An API server that does not answer is no reason to believe anything.
    let mut engine = dead();
    pass(&mut engine, 1..60, |_| None);
    assert_eq!(proof(&engine), Proof::P2);
    // Nor is what it shows after it was away: nobody could renew a Lease.
    pass(&mut engine, 60..70, |_| Some(lease(7)));
    pass(&mut engine, 70..100, |_| None);
    pass(&mut engine, 100..104, |_| Some(lease(7)));
    assert_eq!(proof(&engine), Proof::P2);

    let mut alone = Engine::new(Limits::default());
    alone.step(Timestamp(START), gasp(1, 100, word(Notice::Panic, 100)));
    let asked = pass(&mut alone, 1..12, |_| None);
    assert!(!asked.iter().any(|o| matches!(o, Output::Look(_))));
    assert_eq!(proof(&alone), Proof::P3);
    assert!(
        last_step(&alone)
            .2
            .ends_with("there is no API server to ask for its Lease")
    );
}

#[test]
fn a_silent_node_is_no_death_and_its_lease_says_whether_it_lives() {
    for (renews, verdict) in [(true, "renewed"), (false, "not renewed")] {
        let mut engine = Engine::new(leases());
        let inventory = Inventory {
            probes: vec![
                ("panic".to_owned(), "fentry vpanic".to_owned()),
                (
                    "oops".to_owned(),
                    "not attached (kprobe die: no)".to_owned(),
                ),
            ],
            ..Inventory::default()
        };
        engine.step(
            Timestamp(START),
            gasp(1, 1, Body::Hello(Box::new(inventory))),
        );
        let said = pass(&mut engine, 1..60, |s| {
            Some(lease(if renews { s / 10 } else { 7 }))
        });
        assert_eq!(brief(&said), [""; 0], "no death");
        let told = silences(&said);
        assert_eq!(
            told.len(),
            2,
            "when it falls silent, and when its Lease is clear"
        );
        assert_eq!(told[0].heard, Some(Timestamp(START)));
        assert_eq!(told[0].lease, Opinion::Open);
        let clear = match told[1].lease {
            Opinion::Renewed { .. } => "renewed",
            Opinion::NotRenewed { .. } => "not renewed",
            _ => "open",
        };
        assert_eq!(clear, verdict);
        let gasps = told[1].channels.iter().find(|a| a.channel == Channel::Gasp);
        assert_eq!(
            gasps.map(|account| account.did.as_str()),
            Some("said nothing; attached were: panic; not: oops")
        );

        let silence = told[1].clone();
        let back = engine.step(Timestamp(START + 61_000), gasp(1, 61, Body::Heartbeat));
        assert_eq!(back, [Output::SilenceOver(node(0))]);
        assert_eq!(engine.stats().silent, 0);

        // The next process goes on where this one was.
        let mut next = Engine::new(leases());
        next.restore(
            [KnownNode {
                silence: Some(silence),
                ..known(node(0), BootId([1; 16]))
            }],
            [],
        );
        assert_eq!(next.stats().silent, 1);
        let back = next.step(Timestamp(START + 61_000), gasp(1, 61, Body::Heartbeat));
        assert_eq!(back, [Output::SilenceOver(node(0))]);
    }
}

#[test]
fn the_silence_of_a_suspected_node_learns_its_lease() {
    let mut engine = Engine::new(leases());
    engine.step(Timestamp(START), gasp(1, 100, word(Notice::Oops, 100)));
    let said = pass(&mut engine, 1..60, |_| Some(lease(7)));
    let last = silences(&said).last().map(|silence| silence.lease.clone());
    assert!(matches!(last, Some(Opinion::NotRenewed { .. })), "{last:?}");
}

#[test]
fn a_cluster_that_goes_silent_is_asked_for_slowly() {
    let mut engine = Engine::new(leases());
    for n in 0..200 {
        engine.step(Timestamp(START), said(n, 1, SECOND, Body::Heartbeat));
    }
    let looks = |outputs: &[Output]| {
        let look = |o: &&Output| matches!(o, Output::Look(_));
        outputs.iter().filter(look).count()
    };
    assert_eq!(looks(&pass(&mut engine, 1..11, |_| None)), 64);
    assert_eq!(looks(&pass(&mut engine, 11..14, |_| None)), 136);
    // Who is silent for long is not asked for each few seconds.
    pass(&mut engine, 14..700, |_| None);
    assert_eq!(looks(&pass(&mut engine, 700..760, |_| None)), 200);
}

#[test]
fn the_dead_are_asked_for_slowly_too() {
    let mut engine = Engine::new(leases());
    for n in 0..200 {
        let panic = said(n, 1, SECOND, word(Notice::Panic, 1));
        engine.step(Timestamp(START), panic);
    }
    engine.step(Timestamp(START), said(200, 1, SECOND, Body::Heartbeat));
    pass(&mut engine, 1..700, |_| None);
    let asked = pass(&mut engine, 700..760, |_| None);
    let looks: Vec<&Output> = asked
        .iter()
        .filter(|output| matches!(output, Output::Look(_)))
        .collect();
    assert_eq!(looks.len(), 201, "each once in a minute");
    assert!(looks.contains(&&Output::Look(node(200))));
}

#[test]
fn each_level_says_why_it_was_reached() {
    let steps = |story: Vec<Input>| -> Vec<String> {
        let mut engine = Engine::new(Limits::default());
        tell(&mut engine, story);
        let death = engine.deaths().next().expect("a death").clone();
        assert_eq!(death.steps.last().map(|step| step.proof), Some(death.proof));
        let line = |step: &agent_core::model::Step| {
            format!("{:?} {:?}: {}", step.proof, step.by, step.text)
        };
        death.steps.iter().map(line).collect()
    };
    let panic = || gasp(1, 100, word(Notice::Panic, 100));
    let panicked = "P2 Gasp: an authenticated word that no kernel comes back from: panic on CPU 1, \
                    process, kworker/1:1 (pid 42): Kernel panic - not syncing: Fatal exception in \
                    interrupt";
    let quiet = std::iter::repeat_n(Input::Tick, 12);
    assert_eq!(
        steps(
            [
                vec![panic()],
                quiet.collect(),
                vec![gasp(2, 1, Body::Heartbeat)]
            ]
            .concat()
        ),
        [
            panicked,
            "P3 Heartbeat: no sign of life for 10000 ms; silence alone, because there is no API \
             server to ask for its Lease",
            "P4 Heartbeat: node is back with boot 02020202-0202-0202-0202-020202020202",
        ]
    );
    assert_eq!(
        steps(vec![panic(), gasp(1, 130, Body::Heartbeat)]),
        [
            panicked,
            "P1 Heartbeat: the same boot spoke again, 30 s after its words"
        ]
    );
    let lived_on = steps(vec![
        gasp(1, 100, word(Notice::Oops, 100)),
        gasp(1, 103, Body::Survived),
    ]);
    assert!(
        lived_on[0].starts_with("P1 Gasp: an authenticated word that a kernel may survive: oops")
    );
    assert_eq!(
        lived_on[1],
        "P1 Heartbeat: the kernel lived on, 3 s after its words"
    );
    assert_eq!(
        steps(vec![
            gasp(1, 1, hello(None)),
            gasp(2, 1, hello(Some((1, false))))
        ]),
        [
            "P4 PreviousBoot: boot 02020202-0202-0202-0202-020202020202 runs now; by what is on \
             its disk, its agent was not told to stop"
        ]
    );
    // However often it is revoked and dies anew.
    let again = |i: u64| {
        let at = 100 + i * 60;
        [
            gasp(1, at, word(Notice::Panic, at)),
            gasp(1, at + 30, Body::Heartbeat),
        ]
    };
    let story: Vec<Input> = (0..20).flat_map(again).collect();
    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, story);
    let death = engine.deaths().next().expect("a death");
    assert_eq!(death.steps.len(), 16);
    assert!(engine.stats().evidence_cut > 0);
}
