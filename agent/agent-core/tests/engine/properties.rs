//! What holds for every story.

use agent_core::model::{Deleted, Lease, NodeObject};

use super::*;

#[path = "overheard.rs"]
mod overheard;

/// What each boot found on its disk of the one before: nothing, or whether
/// that was told to stop. Each hello of a boot says the same.
type Disks = [Option<bool>; 3];

fn disks() -> impl Strategy<Value = Disks> {
    prop::array::uniform3(any::<Option<bool>>())
}

fn body() -> impl Strategy<Value = Body> {
    let notice = prop::sample::select(Notice::ALL.to_vec());
    prop_oneof![
        1 => Just(Body::Hello(Box::default())),
        4 => Just(Body::Heartbeat),
        1 => Just(Body::Goodbye(None)),
        1 => Just(Body::Survived),
        4 => (notice, 0u64..200).prop_map(|(notice, at)| word(notice, at)),
        2 => (0u64..200).prop_map(oops_in_interrupt),
    ]
}

fn input(nodes: u8, boots: u8) -> impl Strategy<Value = Input> {
    let codes = prop::sample::select(vec![
        ReasonCode::NullPointerDereference,
        ReasonCode::KernelPanic,
        ReasonCode::Warning,
    ]);
    prop_oneof![
        8 => (0..nodes, 0..boots, 0u64..200, body())
            .prop_map(|(n, boot, mono, body)| said(n, boot, mono * SECOND, body)),
        1 => (0..boots, codes).prop_map(|(boot, code)| decoded(boot, code)),
        2 => Just(Input::Tick),
    ]
}

/// Puts what is on the disks into the hellos.
fn with_disks(mut story: Vec<Input>, disks: Disks) -> Vec<Input> {
    for input in &mut story {
        if let Input::Said(Gasp {
            boot,
            body: Body::Hello(inventory),
            ..
        }) = input
            && let Some(before) = boot.0[0].checked_sub(1)
        {
            let stopped = disks[usize::from(boot.0[0])];
            inventory.previous = stopped.map(|stopped| PreviousBoot {
                boot: BootId([before; 16]),
                stopped,
            });
        }
    }
    story
}

fn story(nodes: u8, boots: u8) -> impl Strategy<Value = Vec<Input>> {
    let story = prop::collection::vec(input(nodes, boots), 0..48);
    (story, disks()).prop_map(|(story, disks)| with_disks(story, disks))
}

/// What a cluster says of nodes beside.
fn of_cluster() -> impl Strategy<Value = Input> {
    let renewed = 0u64..4;
    let lease = prop_oneof![
        8 => renewed.prop_map(|at| Lease::Found { renewed: Timestamp(at), lasts_ms: 40_000 }),
        1 => Just(Lease::Missing),
        1 => Just(Lease::Denied("forbidden".to_owned())),
    ];
    let object = |n: u8| {
        Input::NodeDeleted(Box::new(Deleted {
            node: node(n),
            at: Timestamp(0),
            seen: None,
            object: NodeObject::default(),
            events: Vec::new(),
        }))
    };
    prop_oneof![
        6 => (0..2u8, lease).prop_map(|(n, lease)| Input::Leased { node: node(n), lease }),
        1 => (0..2u8).prop_map(object),
    ]
}

/// A story in a cluster: Leases are looked at, Node objects go, and much time passes.
fn in_cluster() -> impl Strategy<Value = Vec<Input>> {
    let more = prop_oneof![2 => of_cluster(), 3 => Just(Input::Tick)];
    let more = prop::collection::vec((any::<prop::sample::Index>(), more), 0..48);
    (story(2, 3), more).prop_map(|(mut story, more)| {
        for (place, input) in more {
            story.insert(place.index(story.len() + 1), input);
        }
        story
    })
}

/// A story with copies of its facts anywhere after them, and any clock.
fn with_copies() -> impl Strategy<Value = (Vec<Input>, Vec<Input>)> {
    (
        story(2, 3),
        prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            0..24,
        ),
    )
        .prop_map(|(story, copies)| {
            let mut doubled = story.clone();
            for (which, place) in copies {
                // Time passing twice is no copy.
                let sources: Vec<usize> = (0..doubled.len())
                    .filter(|i| !matches!(doubled[*i], Input::Tick))
                    .collect();
                if sources.is_empty() {
                    continue;
                }
                let from = sources[which.index(sources.len())];
                let to = from + 1 + place.index(doubled.len() - from);
                let copy = doubled[from].clone();
                doubled.insert(to, copy);
            }
            (story, doubled)
        })
}

type Verdicts = BTreeMap<DeathName, (DeathState, Proof, Option<Notice>)>;

fn verdicts(engine: &Engine) -> Verdicts {
    engine
        .deaths()
        .map(|d| (d.name.clone(), (d.state, d.proof, d.notice)))
        .collect()
}

/// Runs a story at the times given (the last time repeats), with a restart
/// before fact `restart`, and checks what must always hold.
fn run(story: &[Input], times: &[u64], restart: Option<usize>) -> Verdicts {
    run_with(Limits::default(), story, times, restart)
}

fn run_with(limits: Limits, story: &[Input], times: &[u64], restart: Option<usize>) -> Verdicts {
    let mut engine = Engine::new(limits);
    let mut stored: BTreeMap<DeathName, Death> = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    let mut last_words = BTreeSet::new();
    let (mut marked, mut told) = (BTreeSet::new(), BTreeSet::new());
    for (i, input) in story.iter().enumerate() {
        if restart == Some(i) {
            engine = Engine::new(limits);
            engine.restore(nodes.values().cloned(), stored.values().cloned());
        }
        if let Input::Said(Gasp {
            node,
            boot,
            body: Body::Word(w),
            ..
        }) = input
            && w.is_final()
        {
            last_words.insert(DeathName::of(node, *boot));
        }
        let now = times.get(i).or(times.last()).copied().unwrap_or(0);
        for output in engine.step(Timestamp(now), input.clone()) {
            remember(&mut nodes, &output);
            match output {
                Output::Record(death) => {
                    assert!(death.evidence.len() <= Limits::default().evidence);
                    assert!(death.proof >= Proof::P1);
                    stored.insert(death.name.clone(), *death);
                }
                Output::Act(action) => {
                    let death = &stored[action.death()];
                    match &action {
                        Action::MarkNode(name) => drop(marked.insert(name.clone())),
                        Action::AnnotatePods(name) => drop(told.insert(name.clone())),
                        Action::Revoke(name) => {
                            marked.remove(name);
                            told.remove(name);
                        }
                        Action::ReportOops(_)
                        | Action::UpdateRecord(_)
                        | Action::NodeReturned(_) => {}
                    }
                    match action {
                        Action::AnnotatePods(name) => {
                            let ended = death.state == DeathState::Returned;
                            assert!(
                                last_words.contains(&name) || ended,
                                "pods of a node that may live"
                            );
                            assert!(death.proof >= Proof::P2);
                        }
                        Action::UpdateRecord(_) => assert!(death.proof >= Proof::P2),
                        Action::MarkNode(_) => assert_eq!(death.state, DeathState::Dead),
                        Action::Revoke(_) => {
                            assert!(death.proof < Proof::P2 || death.proof == Proof::P4);
                        }
                        Action::NodeReturned(_) => assert_eq!(death.proof, Proof::P4),
                        Action::ReportOops(_) => assert_eq!(death.proof, Proof::P1),
                    }
                }
                Output::NodeSeen { .. }
                | Output::Look(_)
                | Output::Removed(_)
                | Output::Stopped(_)
                | Output::Silent(_)
                | Output::SilenceOver(_) => {}
            }
        }
    }
    for death in engine.deaths() {
        let (node, pods) = (marked.contains(&death.name), told.contains(&death.name));
        match (death.state, death.proof) {
            (DeathState::Dead, proof) => assert!(node && (pods || proof == Proof::P2), "{death:?}"),
            (DeathState::Returned, _) => assert!(pods, "{death:?}"),
            _ => assert!(!node && !pods, "{death:?}"),
        }
    }
    let mut boots = BTreeSet::new();
    for death in engine.deaths() {
        assert!(
            boots.insert((&death.node, death.boot)),
            "two deaths of one boot"
        );
        assert_eq!(
            stored.get(&death.name),
            Some(death),
            "what is held is what was recorded"
        );
    }
    verdicts(&engine)
}

/// What two annotators have written between them: deaths whose node is marked, and
/// whose pods were told.
#[derive(Default)]
struct Written {
    marked: BTreeSet<DeathName>,
    told: BTreeSet<DeathName>,
}

impl Written {
    fn write(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Act(Action::MarkNode(name)) => drop(self.marked.insert(name)),
                Output::Act(Action::AnnotatePods(name)) => drop(self.told.insert(name)),
                Output::Act(Action::Revoke(name)) => {
                    self.marked.remove(&name);
                    self.told.remove(&name);
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn two_annotators_come_to_one_verdict_and_write_it(
        (story, first, second) in prop::collection::vec((0u64..200, body()), 0..12)
            .prop_flat_map(|s| (Just(s.clone()), Just(s.clone()).prop_shuffle(), Just(s).prop_shuffle())),
        turns in prop::collection::vec(any::<bool>(), 24),
    ) {
        // Each hears everything in the end, in its own order and at its own time.
        let mut engines = [Engine::new(Limits::default()), Engine::new(Limits::default())];
        let mut left = [first.into_iter(), second.into_iter()];
        let mut written = Written::default();
        let rest = [false, true].into_iter().flat_map(|turn| [turn; 12]);
        for turn in turns.into_iter().chain(rest).map(usize::from) {
            if let Some((mono, body)) = left[turn].next() {
                let outputs = engines[turn].step(Timestamp(0), gasp(1, mono, body));
                written.write(outputs);
            }
        }
        let all: Vec<Input> = story.into_iter().map(|(mono, body)| gasp(1, mono, body)).collect();
        let verdict = run(&all, &[], None);
        prop_assert_eq!(&verdicts(&engines[0]), &verdict);
        prop_assert_eq!(&verdicts(&engines[1]), &verdict);
        for (name, (state, ..)) in verdict {
            let is_dead = state == DeathState::Dead;
            prop_assert_eq!(written.marked.contains(&name), is_dead, "{:?}", state);
            prop_assert!(is_dead || !written.told.contains(&name));
        }
    }

    #[test]
    fn no_lease_and_no_deleted_node_object_breaks_the_rules(
        story in in_cluster(),
        steps in prop::collection::vec(0u64..20_000, 1..96),
        restart in prop::option::of(0usize..96),
    ) {
        let times: Vec<u64> = steps
            .iter()
            .scan(0, |now, step| {
                *now += step;
                Some(*now)
            })
            .collect();
        let limits = Limits { leases: true, ..Limits::default() };
        run_with(limits, &story, &times, restart);
    }

    #[test]
    fn copies_change_no_verdict((story, doubled) in with_copies()) {
        prop_assert_eq!(run(&story, &[], None), run(&doubled, &[], None));
    }

    #[test]
    fn order_changes_no_verdict_on_one_boot(
        (story, shuffled) in prop::collection::vec((0u64..200, body()), 0..14)
            .prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
        disks in disks(),
    ) {
        let tell = |s: Vec<(u64, Body)>| -> Vec<Input> {
            let said = s.into_iter().map(|(mono, body)| gasp(1, mono, body));
            with_disks(said.collect(), disks)
        };
        prop_assert_eq!(run(&tell(story), &[], None), run(&tell(shuffled), &[], None));
    }

    #[test]
    fn no_clock_and_no_restart_breaks_the_rules(
        story in story(2, 3),
        times in prop::collection::vec(any::<u64>(), 1..48),
        restart in prop::option::of(0usize..48),
    ) {
        run(&story, &times, restart);
    }
}
