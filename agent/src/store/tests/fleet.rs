//! How long boots lived, and what that says of deaths.

use agent_core::model::{Context, HoldPoint, Word};
use agent_core::recurrence::{Asked, Fleet, HasBug};
use proptest::prelude::*;

use super::*;
use crate::store::schema;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn seen(name: &str, boot: u8, kernel: &str, up_ms: u64) -> SeenNode {
    SeenNode {
        node: NodeName::new(name).expect("a DNS label"),
        uid: None,
        boot: BootId([boot; 16]),
        inventory: Some(Box::new(Inventory {
            kernel_release: kernel.into(),
            modules: vec!["overlay".into()],
            ..Inventory::default()
        })),
        stopped: false,
        up_ms,
    }
}

fn see(store: &Store, at: Timestamp, seen: SeenNode) {
    let change = Change {
        nodes: vec![seen],
        ..Change::default()
    };
    store.commit(at, &change).expect("fits");
}

/// A crash of `fingerprint`, `up_ms` after the boot began.
fn crash(name: &str, boot: u8, at: Timestamp, up_ms: u64, fingerprint: Option<&str>) -> Death {
    let node = NodeName::new(name).expect("a DNS label");
    Death {
        name: DeathName::of(&node, BootId([boot; 16])),
        node,
        detected_at: at,
        word: Some(Word {
            notice: Notice::Panic,
            context: Context::Softirq,
            cpu: 0,
            pid: 0,
            comm: String::new(),
            line: String::new(),
            at_ns: up_ms * 1_000_000,
            held_ns: 0,
            held_at: HoldPoint::None,
            holds_expired: 0,
            asked: None,
            packet: None,
        }),
        report: Some(report(fingerprint)),
        ..death(boot)
    }
}

fn die(store: &Store, death: Death) {
    let (at, deaths) = (death.detected_at, vec![death]);
    let change = Change {
        deaths,
        ..Change::default()
    };
    store.commit(at, &change).expect("fits");
}

fn unknown(_: &str, _: &str, _: Option<&str>) -> HasBug {
    HasBug::Unknown
}

fn ask(store: &Store, since: Option<Timestamp>) -> Fleet {
    let fleet = store.fleet(since, &Asked::default(), &unknown);
    fleet.expect("readable")
}

/// Seconds that all boots lived.
fn alive_s(store: &Store) -> i64 {
    let reader = store.reader();
    let sum = "SELECT coalesce(sum(alive_ms), 0) FROM boot";
    let ms: i64 = reader.query_row(sum, [], |row| row.get(0)).expect("a sum");
    ms / 1_000
}

fn count(store: &Store, table: &str) -> i64 {
    let reader = store.reader();
    let sql = format!("SELECT count(*) FROM {table}");
    reader
        .query_row(&sql, [], |row| row.get(0))
        .expect("counts")
}

#[test]
fn a_boot_lived_for_as_long_as_both_clocks_went_on() {
    for (what, hellos, lived_s) in [
        ("a hello a minute", vec![(0, 10), (60, 70), (120, 130)], 120),
        (
            "the annotator's clock is set forward by a year",
            vec![(0, 10), (31_536_000, 70)],
            60,
        ),
        (
            "and back again",
            vec![(0, 10), (31_536_000, 70), (120, 130), (180, 190)],
            120,
        ),
        (
            "it was suspended for a day",
            vec![(0, 10), (86_400, 70)],
            60,
        ),
        (
            "no annotator ran for a day",
            vec![(0, 10), (86_400, 86_410)],
            86_400,
        ),
        (
            "it was up for a year before it was heard",
            vec![(0, 31_536_000), (60, 31_536_060)],
            60,
        ),
        (
            "its clock is mad",
            vec![(0, 10), (60, u64::MAX / 1_000)],
            60,
        ),
        (
            "a hello comes late",
            vec![(0, 10), (60, 70), (61, 40), (120, 130)],
            119,
        ),
        ("heard first by a heartbeat", vec![(0, 0), (60, 3_600)], 60),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("a.db")).expect("opens");
        for (at_s, up_s) in hellos {
            see(
                &store,
                NOW.plus(at_s * 1_000),
                seen("w01", 1, "6.1.1", up_s * 1_000),
            );
        }
        assert_eq!(alive_s(&store), lived_s, "{what}");
    }
}

#[test]
fn a_boot_that_dies_within_a_minute_lived_until_then() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    for boot in 1..=3 {
        let at = NOW.plus(u64::from(boot) * MINUTE);
        see(&store, at, seen("w01", boot, "6.1.1", 5_000));
        for _ in 0..2 {
            die(
                &store,
                crash("w01", boot, at.plus(40_000), 45_000, Some("f1")),
            );
        }
    }
    assert_eq!(alive_s(&store), 120);
    let fleet = ask(&store, None);
    assert_eq!(
        (fleet.deaths, fleet.nodes, fleet.never_died.nodes),
        (3, 1, 0)
    );
    assert_eq!(fleet.groups[0].rows[0].kernel, "6.1.1");
}

#[test]
fn what_boots_have_in_common_is_kept_once_and_as_long_as_they_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    for n in 0..20 {
        let kernel = if n == 0 { "6.1.81" } else { "6.1.1" };
        let at = if n == 0 { NOW } else { NOW.plus(DAY) };
        see(&store, at, seen(&format!("w{n}"), 1, kernel, MINUTE));
    }
    assert_eq!((count(&store, "boot"), count(&store, "platform")), (20, 2));
    store.prune(NOW.plus(365 * DAY)).expect("prunes");
    assert_eq!((count(&store, "boot"), count(&store, "platform")), (20, 2));
    store.prune(NOW.plus(365 * DAY + 1)).expect("prunes");
    assert_eq!((count(&store, "boot"), count(&store, "platform")), (19, 1));
}

#[test]
fn a_node_that_boots_over_and_over_takes_no_place_from_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    see(&store, NOW, seen("w01", 1, "6.1.1", MINUTE));
    for boot in 0..200 {
        let at = NOW.plus(u64::from(boot) + 1);
        see(&store, at, seen("w02", boot, "6.1.1", MINUTE));
    }
    store.prune(NOW).expect("prunes");
    let fleet = ask(&store, None);
    assert_eq!(fleet.nodes, 2);
    assert_eq!(count(&store, "boot"), 1 + 128);
    let newest = "boot WHERE node = 'w02' AND boot LIKE 'c7%'";
    assert_eq!(count(&store, newest), 1, "199 is the last");
}

#[test]
fn of_too_many_boots_those_stay_that_were_seen_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let writer = store.writer().expect("may write");
    writer
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 200004)
             INSERT INTO boot SELECT 'w' || i, 'x', NULL, ?1 + i, 0, 0 FROM n",
            [NOW.0 as i64],
        )
        .expect("fits");
    drop(writer);
    store.prune(NOW).expect("prunes");
    let oldest = "boot WHERE node IN ('w0', 'w4')";
    assert_eq!((count(&store, "boot"), count(&store, oldest)), (200_000, 0));
}

#[test]
fn what_was_before_is_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    // Ten days each, one after the other.
    for (boot, from) in [(1, 0), (2, 10)] {
        see(&store, NOW.plus(from * DAY), seen("w01", boot, "6.1.1", 0));
        see(
            &store,
            NOW.plus((from + 10) * DAY),
            seen("w01", boot, "6.1.1", 10 * DAY),
        );
        let at = NOW.plus((from + 10) * DAY);
        die(&store, crash("w01", boot, at, 10 * DAY, Some("f1")));
    }
    for (days_ago, node_days, deaths) in [(20, 20.0, 2), (15, 15.0, 2), (5, 5.0, 1), (0, 0.0, 1)] {
        let fleet = ask(&store, Some(NOW.plus((20 - days_ago) * DAY)));
        assert_eq!(
            (fleet.node_days, fleet.deaths),
            (node_days, deaths),
            "{days_ago}"
        );
    }
    let fleet = ask(&store, Some(NOW.plus(21 * DAY)));
    assert_eq!((fleet.nodes, fleet.deaths), (0, 0));
}

#[test]
fn why_says_how_often_a_death_came_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    for (name, boot, day, fingerprint) in [
        ("w01", 1, 0, Some("f1")),
        ("w01", 2, 3, Some("f1")),
        ("w02", 1, 4, Some("f1")),
        ("w02", 2, 5, Some("f2")),
        ("w03", 1, 5, None),
        ("w01", 3, 6, Some("f1")),
    ] {
        die(
            &store,
            crash(name, boot, NOW.plus(day * DAY), DAY, fingerprint),
        );
    }
    let mut survived = crash("w01", 4, NOW.plus(5 * DAY), DAY, Some("f1"));
    survived.state = DeathState::Survived;
    die(&store, survived);
    let why = |query: Query| {
        let answer = store.why(&query, 0).expect("readable").expect("known");
        answer.recurrence.map(|found| found.text)
    };
    for (name, said) in [
        (
            "w01-03030303",
            Some(
                "third death of this fingerprint on this node in 6 days; 4 in the fleet on 2 nodes",
            ),
        ),
        (
            "w02-02020202",
            Some("first death of this fingerprint on this node; no other node died of it"),
        ),
        (
            "w03-01010101",
            Some("first death with this reason code on this node; no other node died of it"),
        ),
        ("w01-04040404", None),
    ] {
        let found = why(Query::Any(name.into()));
        assert_eq!(found.as_deref(), said, "{name}");
    }
}

#[test]
fn an_older_file_gets_the_tables_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let mut connection = rusqlite::Connection::open(&path).expect("a file");
    schema::prepare_until(&path, &mut connection, 7).expect("the format before");
    let old = crash("w01", 1, NOW, DAY, Some("f1"));
    let body = serde_json::to_string(&old).expect("serializes");
    connection
        .execute(
            "INSERT INTO death (name, node, boot, state, proof, code, detected_ms, body)
             VALUES ('w01-01010101', 'w01', ?1, 'Dead', 'P2', 'KernelBug', ?2, ?3)",
            rusqlite::params![old.boot.to_string(), NOW.0 as i64, body],
        )
        .expect("as it was written then");
    drop(connection);

    let store = Store::open(&path).expect("opens");
    assert_eq!(store.deaths(10).expect("readable")[0].death, old);
    die(&store, crash("w02", 1, NOW.plus(DAY), DAY, Some("f1")));
    let fleet = ask(&store, None);
    assert_eq!((fleet.deaths, fleet.nodes, fleet.groups.len()), (2, 0, 1));
    see(&store, NOW.plus(DAY), seen("w02", 1, "6.1.1", DAY));
    assert_eq!(ask(&store, None).nodes, 1);
}

#[test]
fn a_reader_sees_the_same_as_the_one_that_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let store = Store::open(&path).expect("opens");
    see(&store, NOW, seen("w01", 1, "6.1.1", MINUTE));
    die(&store, crash("w01", 1, NOW, MINUTE, Some("f1")));
    let reader = Store::open_to_read(&path).expect("opens");
    assert_eq!(ask(&reader, None), ask(&store, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn however_the_clocks_go_a_boot_lived_no_longer_than_either_of_them(
        hellos in prop::collection::vec((0u64..1 << 42, 0u64..1 << 42), 1..12),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("a.db")).expect("opens");
        let forward = |clock: &dyn Fn(&(u64, u64)) -> u64| -> u64 {
            let pairs = hellos.windows(2);
            pairs.map(|pair| clock(&pair[1]).saturating_sub(clock(&pair[0]))).sum()
        };
        for (at, up) in &hellos {
            see(&store, Timestamp(*at), seen("w01", 1, "6.1.1", *up));
        }
        let lived = u64::try_from(alive_s(&store));
        let lived = lived.expect("never negative");
        let walls = forward(&|(at, _)| *at) / 1_000;
        let ups = hellos.iter().map(|(_, up)| *up).max().unwrap_or(0) / 1_000;
        prop_assert!(lived <= walls && lived <= ups, "{lived} {walls} {ups}");
    }
}
