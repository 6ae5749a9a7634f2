//! Who dies of what: tables of fleets, and what holds of all of them.

use agent_core::model::{
    BootId, Death, DeathState, KnownBug, NodeName, Notice, Platform, Proof, ReasonCode, Report,
    Timestamp,
};
use agent_core::recurrence::{
    Asked, Census, Dimension, Fleet, Group, HasBug, Telling, compare, is_death, recurrence,
};
use proptest::prelude::*;

const DAY_MS: u64 = 86_400_000;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a DNS label")
}

fn bug(id: &str) -> KnownBug {
    KnownBug {
        id: id.into(),
        title: "x".into(),
        likely: true,
        fixed_in: None,
        workaround: None,
        reference: None,
    }
}

/// A crash of one fingerprint, by a known bug.
fn crash(name: &str, boot: u8, fingerprint: &str) -> Death {
    let mut death = Death::opened(
        NOW.plus(u64::from(boot) * DAY_MS),
        &node(name),
        BootId([boot; 16]),
        Proof::P2,
        Some(Notice::Panic),
        NOW,
    );
    death.state = DeathState::Dead;
    death.report = Some(Report {
        code: ReasonCode::KernelBug,
        title: format!("kernel BUG {fingerprint}"),
        line: "kernel BUG at x.c:1!".into(),
        fault_function: None,
        module: None,
        kernel_release: None,
        comm: None,
        corrupted: None,
        fingerprint: Some(fingerprint.into()),
        known_bugs: vec![bug("bug-1")],
    });
    death
}

fn platform(kernel: &str) -> Platform {
    Platform {
        kernel_release: kernel.into(),
        firmware: "SeaBIOS 1.16".into(),
        network_drivers: vec!["virtio_net".into()],
        modules: vec!["nf_tables".into(), "overlay".into()],
        ..Platform::default()
    }
}

/// Versions of 6.1 before 103 have it.
fn has_bug(_: &str, release: &str, _: Option<&str>) -> HasBug {
    match release.strip_prefix("6.1.").map(str::parse::<u32>) {
        Some(Ok(patch)) if patch < 103 => HasBug::Yes {
            fixed_in: Some("6.1.103".into()),
        },
        Some(Ok(_)) => HasBug::No,
        _ => HasBug::Unknown,
    }
}

/// Nodes on one kernel: how many, how long all of them lived together, and of how many
/// deaths the first of them died.
struct Nodes(&'static str, u64, u64, &'static [u64]);

fn fleet_of(all: &[Nodes]) -> Fleet {
    let mut census = Census::default();
    let mut boot = 0;
    for (pool, Nodes(kernel, count, days, deaths)) in all.iter().enumerate() {
        let id = census.platform(&platform(kernel));
        for n in 0..*count {
            let name = format!("p{pool}-n{n}");
            census.life(&node(&name), Some(id), 1, days * DAY_MS / count);
            for _ in 0..deaths.get(n as usize).copied().unwrap_or(0) {
                boot += 1;
                census.death(&crash(&name, boot, "f1"), Some(id));
            }
        }
    }
    census.fleet(None, &Asked::default(), &has_bug)
}

fn only(fleet: Fleet) -> Group {
    assert_eq!(fleet.groups.len(), 1, "{fleet:?}");
    fleet.groups.into_iter().next().expect("one")
}

#[test]
fn the_sentence_says_where_they_die_and_what_no_death_elsewhere_is_worth() {
    let died = || Nodes("6.1.1", 5, 30, &[5, 3, 3, 1]);
    for (all, sentence) in [
        (
            vec![died(), Nodes("6.1.81", 9, 40, &[])],
            "12 of 12 deaths on 6.1.1; 0 on 6.1.81 over 40 node-days, but 6.1.81 has the same bug: fixed in 6.1.103",
        ),
        (
            vec![died(), Nodes("6.1.103", 9, 40, &[])],
            "12 of 12 deaths on 6.1.1; 0 on 6.1.103 over 40 node-days, which does not have the bug",
        ),
        (
            vec![died(), Nodes("6.1.81", 9, 2, &[])],
            "12 of 12 deaths on 6.1.1; 0 on 6.1.81 over 2.0 node-days, too few to tell, and 6.1.81 has the same bug: fixed in 6.1.103",
        ),
        (
            vec![died(), Nodes("5.14.0-el9", 9, 400, &[])],
            "12 of 12 deaths on 6.1.1; 0 on 5.14.0-el9 over 400 node-days, and nobody can know whether 5.14.0-el9 has the bug",
        ),
        // All are of one node: it may be that one.
        (
            vec![Nodes("6.1.1", 5, 30, &[12]), Nodes("6.1.103", 9, 40, &[])],
            "12 of 12 deaths on 6.1.1; 0 on 6.1.103 over 40 node-days, but too few nodes died to tell, and 6.1.103 does not have the bug",
        ),
        (
            vec![died()],
            "12 of 12 deaths on 6.1.1; no other kernel was seen alive",
        ),
        (
            vec![died(), Nodes("6.1.81", 9, 40, &[1, 1])],
            "12 of 14 deaths on 6.1.1, 2 on 6.1.81; no other kernel was seen alive",
        ),
        (
            vec![Nodes("6.1.1", 1, 0, &[1]), Nodes("6.1.103", 9, 40, &[])],
            "1 of 1 death on 6.1.1; 0 on 6.1.103 over 40 node-days, but the lives of those that died were not seen, and 6.1.103 does not have the bug",
        ),
    ] {
        assert_eq!(only(fleet_of(&all)).sentence, sentence);
    }
}

#[test]
fn of_two_bugs_that_it_may_be_the_one_that_is_there_is_named() {
    let mut census = Census::default();
    for (kernel, days) in [("6.1.1", 30), ("6.1.81", 40)] {
        let id = census.platform(&platform(kernel));
        census.life(&node(&format!("on{days}")), Some(id), 1, days * DAY_MS);
        if kernel == "6.1.1" {
            for boot in 1..=12 {
                let mut death = crash(&format!("n{}", boot % 4), boot, "f1");
                let report = death.report.as_mut().expect("one");
                report.known_bugs.push(bug("early"));
                census.death(&death, Some(id));
            }
        }
    }
    let has = |id: &str, release: &str, version: Option<&str>| match id {
        "early" => HasBug::No,
        _ => has_bug(id, release, version),
    };
    let group = only(census.fleet(None, &Asked::default(), &has));
    assert_eq!(group.known_bugs, ["bug-1", "early"]);
    assert_eq!(
        group.sentence,
        "12 of 12 deaths on 6.1.1; 0 on 6.1.81 over 40 node-days, but 6.1.81 has one of the bugs that it may be: bug-1, fixed in 6.1.103"
    );
}

#[test]
fn what_separates_those_who_died_is_found_with_all_that_cannot_be_told_from_it() {
    let mut census = Census::default();
    let odd = Platform {
        firmware: "SeaBIOS 1.10".into(),
        modules: vec!["boom".into(), "overlay".into()],
        ..platform("6.1.1")
    };
    let odd = census.platform(&odd);
    let usual = census.platform(&platform("6.1.1"));
    for n in 0..20u8 {
        let name = format!("n{n}");
        let id = if n < 6 { odd } else { usual };
        census.life(&node(&name), Some(id), 1, 10 * DAY_MS);
        if n < 6 {
            census.death(&crash(&name, n, "f1"), Some(odd));
        }
    }
    let group = only(census.fleet(None, &Asked::default(), &has_bug));
    assert_eq!(group.apart.len(), 1, "{:?}", group.apart);
    let apart = &group.apart[0];
    let traits: Vec<(Dimension, &str)> = apart
        .traits
        .iter()
        .map(|t| (t.of, t.value.as_str()))
        .collect();
    assert_eq!(
        traits,
        [
            (Dimension::Firmware, "SeaBIOS 1.10"),
            (Dimension::Module, "boom")
        ],
        "the kernel and overlay are everywhere"
    );
    assert_eq!((apart.node_days, apart.node_days_without), (60.0, 140.0));
    assert_eq!(apart.without.telling, Telling::Yes);
    let rows: Vec<(&str, u64, u64, u64, Option<f64>)> = group
        .rows
        .iter()
        .map(|r| {
            (
                r.firmware.as_str(),
                r.deaths,
                r.nodes_died,
                r.nodes,
                r.expected,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("SeaBIOS 1.10", 6, 6, 6, None),
            // At the rate of the kernel, which is the same.
            ("SeaBIOS 1.16", 0, 0, 14, Some(4.2)),
        ]
    );
}

#[test]
fn what_is_no_death_is_not_counted_and_orders_are_not_compared() {
    let mut census = Census::default();
    let id = census.platform(&platform("6.1.1"));
    let other = census.platform(&platform("6.1.81"));
    census.life(&node("a"), Some(id), 3, DAY_MS);
    census.life(&node("b"), Some(other), 1, 1_000 * DAY_MS);
    let with = |boot, change: &dyn Fn(&mut Death)| {
        let mut death = crash("a", boot, "f1");
        change(&mut death);
        death
    };
    for none in [
        with(1, &|d| d.state = DeathState::Survived),
        with(2, &|d| d.state = DeathState::Revoked),
        with(3, &|d| d.state = DeathState::Suspected),
        with(4, &|d| d.proof = Proof::P0),
    ] {
        assert!(!is_death(&none));
        census.death(&none, Some(id));
    }
    let order = with(5, &|d| {
        d.report.as_mut().expect("one").code = ReasonCode::Restart;
    });
    let silent = with(6, &|d| (d.report, d.notice) = (None, None));
    census.death(&order, Some(id));
    census.death(&silent, None);
    let fleet = census.fleet(None, &Asked::default(), &has_bug);
    let groups: Vec<(ReasonCode, Option<&str>, &str)> = fleet
        .groups
        .iter()
        .map(|g| (g.code, g.fingerprint.as_deref(), g.sentence.as_str()))
        .collect();
    assert_eq!(
        groups,
        [
            (
                ReasonCode::Unknown,
                None,
                "1 death on kernels that are not known",
            ),
            (
                ReasonCode::Restart,
                None,
                "Ended by order: nothing is compared"
            ),
        ]
    );
    assert_eq!(fleet.deaths, 2);
    assert_eq!(fleet.never_died.names, [node("b")]);
    assert!(fleet.groups.iter().all(|group| group.apart.is_empty()));
}

#[test]
fn a_question_chooses_groups_and_leaves_the_comparison_whole() {
    let mut census = Census::default();
    let id = census.platform(&platform("6.1.1"));
    for (name, boot, fingerprint) in [
        ("a", 1, "f1aa"),
        ("a", 2, "f1aa"),
        ("a", 8, "f1aa"),
        ("b", 3, "f1aa"),
        ("b", 4, "f2bb"),
    ] {
        census.life(&node(name), Some(id), 1, DAY_MS);
        census.death(&crash(name, boot, fingerprint), Some(id));
    }
    let ask = |fingerprint: Option<&str>, name: Option<&str>| {
        let asked = Asked {
            fingerprint: fingerprint.map(str::to_owned),
            node: name.map(node),
        };
        census.fleet(None, &asked, &has_bug)
    };
    let found = |fleet: &Fleet| -> Vec<String> {
        let groups = fleet.groups.iter();
        groups.filter_map(|g| g.fingerprint.clone()).collect()
    };
    assert_eq!(found(&ask(None, None)), ["f1aa", "f2bb"]);
    assert_eq!(found(&ask(Some("f2"), None)), ["f2bb"]);
    assert_eq!(found(&ask(Some("F2B"), None)), ["f2bb"]);
    for code in ["KernelBug", "kernelbug"] {
        assert_eq!(found(&ask(Some(code), None)), ["f1aa", "f2bb"]);
    }
    for nothing in ["Kernel", "f1aab", "f1ä", "HungTask"] {
        assert_eq!(found(&ask(Some(nothing), None)), [""; 0], "{nothing}");
    }
    let of_a = ask(None, Some("a"));
    assert_eq!(found(&of_a), ["f1aa"]);
    assert_eq!(of_a.groups[0].deaths, 4, "also those of b");
    assert_eq!(
        of_a.groups[0].on_node.as_deref(),
        Some("a died of it 3 times in 7 days; 1 more death on 1 other node")
    );
    let one = of_a.node.as_ref().expect("known");
    assert_eq!((one.boots, one.deaths), (3, 3));
    let nobody = ask(None, Some("c"));
    assert!(nobody.groups.is_empty() && nobody.node.is_none());
}

#[test]
fn how_often_a_death_came_before_is_said_in_a_line() {
    let at = |day: u64| NOW.plus(day * DAY_MS);
    let death = crash("a", 7, "f1");
    for (alike, text) in [
        (
            vec![("a", 1), ("a", 3), ("a", 7)],
            "third death of this fingerprint on this node in 6 days; no other node died of it",
        ),
        (
            vec![("a", 1), ("a", 3), ("a", 7), ("b", 1), ("b", 9), ("c", 2)],
            "third death of this fingerprint on this node in 6 days; 6 in the fleet on 3 nodes",
        ),
        (
            vec![("a", 7)],
            "first death of this fingerprint on this node; no other node died of it",
        ),
        (
            vec![("a", 7), ("a", 8)],
            "first death of this fingerprint on this node; 2 by now",
        ),
        (
            vec![],
            "first death of this fingerprint on this node; no other node died of it",
        ),
    ] {
        let alike = alike.into_iter().map(|(node, day)| (node, at(day)));
        let found = recurrence(&death, alike).expect("a death");
        assert_eq!(found.text, text);
    }
    let mut order = crash("a", 7, "f1");
    order.report.as_mut().expect("one").code = ReasonCode::Restart;
    assert_eq!(recurrence(&order, []), None);
}

#[test]
fn no_death_means_something_only_where_some_were_to_be_expected() {
    for ((deaths, nodes), died_days, without_days, compared, telling) in [
        ((12, 4), 31, 40, 1, Telling::Yes),
        // The rule of three.
        ((12, 12), 40, 9, 1, Telling::TooFewNodeDays),
        // One node that dies over and over.
        ((12, 1), 31, 40, 1, Telling::TooFewNodes),
        ((12, 1), 31, 4_000, 1, Telling::Yes),
        // One of a hundred comparisons is always strange.
        ((12, 4), 31, 40, 100, Telling::TooFewNodes),
        ((0, 0), 31, 40, 1, Telling::NotObserved),
        ((3, 3), 0, 40, 1, Telling::NotObserved),
    ] {
        let found = compare(
            (deaths, nodes),
            died_days * DAY_MS,
            without_days * DAY_MS,
            compared,
        );
        assert_eq!(
            found.telling, telling,
            "{deaths} of {nodes}: {died_days} {without_days} {found:?}"
        );
    }
}

/// A life and the deaths of a node: node, kernel, days, fingerprints.
type Lot = (u8, u8, u64, Vec<u8>);

fn counted(lots: &[Lot]) -> Fleet {
    let mut census = Census::default();
    let mut boot = 0;
    for (name, kernel, days, deaths) in lots {
        let id = census.platform(&platform(&format!("6.1.{kernel}")));
        let name = format!("n{name}");
        census.life(&node(&name), Some(id), 1, days * DAY_MS);
        for fingerprint in deaths {
            boot += 1;
            let mut death = crash(&name, boot, &format!("f{fingerprint}"));
            death.detected_at = NOW;
            census.death(&death, Some(id));
        }
    }
    census.fleet(None, &Asked::default(), &has_bug)
}

proptest! {
    #[test]
    fn nothing_is_lost_and_the_order_does_not_matter(
        lots in prop::collection::vec(
            (0u8..12, 0u8..6, 0u64..400, prop::collection::vec(0u8..4, 0..4)), 0..24),
    ) {
        let fleet = counted(&lots);
        let deaths: usize = lots.iter().map(|(.., deaths)| deaths.len()).sum();
        prop_assert_eq!(fleet.deaths, deaths as u64);
        let of_groups: u64 = fleet.groups.iter().map(|g| g.deaths).sum();
        prop_assert_eq!(of_groups, fleet.deaths);
        for group in &fleet.groups {
            let rows = group.rows.iter();
            prop_assert_eq!(rows.map(|r| r.deaths).sum::<u64>(), group.deaths);
            let days: f64 = group.rows.iter().map(|r| r.node_days).sum();
            prop_assert!((days - fleet.node_days).abs() < 0.01);
            let of_nodes = group.nodes.iter().map(|n| n.deaths).sum::<u64>();
            prop_assert_eq!(of_nodes, group.deaths);
            for kernel in &group.kernels {
                prop_assert!(kernel.nodes_died <= kernel.nodes);
                prop_assert_eq!(kernel.none.is_some(), kernel.deaths == 0);
            }
            for apart in &group.apart {
                prop_assert_eq!(apart.without.telling, Telling::Yes);
                prop_assert!(!apart.traits.is_empty() && apart.node_days_without > 0.0);
            }
        }
        let mut other = lots.clone();
        other.reverse();
        prop_assert_eq!(counted(&other), fleet.clone());
        // As it goes to whoever asks by HTTP.
        let json = serde_json::to_string(&fleet).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<Fleet>(&json).expect("the same"), fleet);
    }

    #[test]
    fn more_time_without_a_death_never_says_less(
        deaths in 1u64..50, nodes in 1u64..50, died in 1u64..1_000_000_000,
        without in 0u64..1_000_000_000, more in 0u64..1_000_000_000, compared in 1usize..300,
    ) {
        let nodes = nodes.min(deaths);
        let short = compare((deaths, nodes), died, without, compared);
        let long = compare((deaths, nodes), died, without + more, compared);
        prop_assert!(long.expected >= short.expected);
        prop_assert!(long.chance <= short.chance);
        prop_assert!((0.0..=1.0).contains(&short.chance));
        if short.telling == Telling::Yes {
            prop_assert_eq!(long.telling, Telling::Yes);
            prop_assert!(short.expected >= 2.999 && short.chance <= 0.051);
        }
    }
}
