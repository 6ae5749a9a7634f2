//! What is said without proof.

use super::*;
use agent_core::model::Channel;

fn overheard(n: u8, boot: Option<u8>, title: &str) -> Input {
    Input::Overheard {
        node: node(n),
        boot: boot.map(|boot| BootId([boot; 16])),
        report: Report {
            code: ReasonCode::NullPointerDereference,
            title: title.into(),
            line: "BUG: kernel NULL pointer dereference, address: 0".into(),
            fault_function: None,
            module: None,
            kernel_release: None,
            comm: None,
            corrupted: None,
            fingerprint: None,
            known_bugs: Vec::new(),
        },
    }
}

fn first() -> Input {
    gasp(1, 1, hello(None))
}

/// The only death, and how often such text is in its timeline.
fn only(engine: &Engine) -> (&Death, usize) {
    let mut deaths = engine.deaths();
    let death = deaths.next().expect("a death");
    assert!(deaths.next().is_none(), "one boot dies once");
    let own = |e: &&agent_core::model::Evidence| e.channel == Channel::Netconsole;
    (death, death.evidence.iter().filter(own).count())
}

#[test]
fn alone_it_is_a_record_and_a_sign_of_life_refutes_it() {
    let mut engine = Engine::new(Limits::default());
    // Nobody knows that node, or which boot it would be of.
    assert!(tell(&mut engine, vec![overheard(0, Some(1), "x")]).is_empty());
    assert_eq!(engine.stats().unproven_dropped, 1);
    let story = vec![first(), overheard(0, None, "x"), overheard(0, Some(9), "x")];
    assert_eq!(tell(&mut engine, story), ["Suspected P0"]);
    let (death, times) = only(&engine);
    assert_eq!((death.boot, times), (BootId([1; 16]), 1));
    assert_eq!(reason(death), "Unauthenticated text: x");
    assert_eq!(retry(death).advice, RetryAdvice::Unknown);

    let mut again = Engine::new(Limits::default());
    again.restore([], [death.clone()]);
    for engine in [&mut engine, &mut again] {
        let soon = gasp(1, 5, Body::Heartbeat);
        let later = Timestamp(1_700_000_100_000);
        assert!(brief(&engine.step(Timestamp(1_700_000_003_000), soon)).is_empty());
        let lives = engine.step(later, gasp(1, 100, Body::Heartbeat));
        assert_eq!(brief(&lives), ["Survived P0"]);
        let anew = engine.step(later, overheard(0, None, "x"));
        assert_eq!(brief(&anew), ["Suspected P0"]);
    }
}

#[test]
fn text_is_of_the_boot_that_it_can_only_be_of() {
    let at = |s: u64| Timestamp(1_700_000_000_000 + s * 1_000);
    // One boot was up for 5,000 s when it was heard last; the next one comes 60 s later.
    let story = |is_back: bool| {
        let mut engine = Engine::new(Limits::default());
        engine.step(at(0), gasp(1, 5_000, Body::Heartbeat));
        if is_back {
            engine.step(at(60), gasp(2, 20, Body::Heartbeat));
        }
        engine
    };
    let boot = |id: u8| BootId([id; 16]);
    for (is_back, named, now_s, printed_s, want) in [
        // It says so, and such a boot is known.
        (false, Some(1), 900, None, Some(1)),
        (false, Some(9), 0, Some(5_000), None),
        // Its clock shows this.
        (false, None, 2, Some(5_002), Some(1)),
        (false, None, 2, Some(5_009), Some(1)),
        // This is another boot's, of which nobody has heard yet.
        (false, None, 30, Some(8), None),
        (false, None, 2, None, Some(1)),
        (false, None, 30, None, None),
        (true, None, 61, Some(21), Some(2)),
        (true, None, 61, Some(5_061), Some(1)),
        (true, None, 61, Some(2_000), None),
    ] {
        let engine = story(is_back);
        let printed = printed_s.map(|s: u64| s * SECOND);
        let found = engine.boot_of_text(at(now_s), &node(0), named.map(boot), printed);
        let row = (is_back, named, now_s, printed_s);
        assert_eq!(found, want.map(boot), "{row:?}");
    }
    let stranger = story(true).boot_of_text(at(61), &node(7), None, None);
    assert_eq!(stranger, None);
}

#[test]
fn it_joins_the_death_that_is_proven_before_or_after() {
    let panic = || gasp(1, 100, word(Notice::Panic, 100));
    let text = |title| overheard(0, None, title);
    let dead = ["Dead P2", "MarkNode", "AnnotatePods"];
    for (story, records) in [
        (vec![first(), text("x"), panic(), text("x")], (1, 0)),
        (vec![first(), panic(), text("x"), text("x")], (0, 1)),
    ] {
        let mut engine = Engine::new(Limits::default());
        let out = tell(&mut engine, story);
        let wanted = [
            vec!["Suspected P0"; records.0],
            dead.to_vec(),
            vec!["Dead P2"; records.1],
        ];
        assert_eq!(out, wanted.concat());
        let (death, times) = only(&engine);
        assert_eq!((death.proof, times), (Proof::P2, 1));
        assert!(
            reason(death).starts_with("Kernel panic: "),
            "{}",
            reason(death)
        );
    }
    // Nobody else said why the boot before ended.
    let mut engine = Engine::new(Limits::default());
    tell(
        &mut engine,
        vec![first(), text("x"), gasp(2, 1, hello(None))],
    );
    let (death, times) = only(&engine);
    assert_eq!(
        (death.state, death.proof, times),
        (DeathState::Returned, Proof::P4, 1)
    );
    assert!(
        reason(death).starts_with("Ended without a word"),
        "{}",
        reason(death)
    );
}

#[test]
fn however_much_is_said_little_is_kept() {
    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![first()]);
    for i in 0..100 {
        engine.step(Timestamp(i), overheard(0, None, &format!("{i}")));
    }
    assert_eq!(only(&engine).1, 4);
    assert_eq!(only(&engine).0.evidence[3].text, "unauthenticated: 99");
}

type Acts = Vec<(usize, Action)>;

/// What is done on a story; `Overheard` does not count as a fact.
fn acts(evidence: usize, story: &[(u64, Input)]) -> (Acts, BTreeMap<DeathName, Death>) {
    let mut engine = Engine::new(Limits {
        evidence,
        ..Limits::default()
    });
    let (mut acts, mut at) = (Vec::new(), 0);
    for (now, input) in story {
        at += usize::from(!matches!(input, Input::Overheard { .. }));
        for output in engine.step(Timestamp(*now), input.clone()) {
            if let Output::Act(action) = output {
                acts.push((at, action));
            }
        }
    }
    let strip = |death: &Death| {
        let mut death = death.clone();
        death.evidence.retain(|e| e.channel != Channel::Netconsole);
        death.channels.retain(|a| a.channel != Channel::Netconsole);
        (death.name.clone(), death)
    };
    let proven = engine.deaths().filter(|d| d.proof > Proof::P0).map(strip);
    (acts, proven.collect())
}

proptest! {
    /// Whoever can send such text can neither have anything done nor keep it
    /// from being done, nor change a word of what is proven.
    #[test]
    fn it_changes_nothing_that_is_done(
        facts in super::story(2, 3),
        times in prop::collection::vec(0u64..30_000, 48),
        texts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0u8..3, prop::option::of(0u8..4), "[a-c]", any::<u64>()),
            0..40,
        ),
        evidence in prop::sample::select(vec![4, 64]),
    ) {
        let mut now = 0;
        let plain: Vec<(u64, Input)> = facts
            .into_iter()
            .zip(times)
            .map(|(fact, passed)| {
                now += passed;
                (now, fact)
            })
            .collect();
        let mut mixed = plain.clone();
        for (place, n, boot, title, when) in texts {
            mixed.insert(place.index(mixed.len() + 1), (when, overheard(n, boot, &title)));
        }
        prop_assert_eq!(acts(evidence, &plain), acts(evidence, &mixed));
    }
}
