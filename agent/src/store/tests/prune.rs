//! What goes, and what stays, whatever the store holds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::store::prune::Limits;

const HOUR: u64 = 3_600_000;
const TABLES: [&str; 10] = [
    "death",
    "task",
    "line",
    "overheard",
    "note",
    "record",
    "removal",
    "node",
    "pod",
    "boot",
];

const FEW: Limits = Limits {
    deaths: 4,
    records: 4,
    overheard: 12,
    boots_of_node: 3,
    boots: 6,
    pages: 4,
};

fn counts(store: &Store) -> Vec<u64> {
    let reader = store.reader();
    let count = |table: &&str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: i64 = reader
            .query_row(&sql, [], |row| row.get(0))
            .expect("counts");
        count.cast_unsigned()
    };
    TABLES.iter().map(count).collect()
}

/// The values of a column, in order.
fn column(store: &Store, sql: &str) -> Vec<String> {
    let reader = store.reader();
    let mut read = reader.prepare(sql).expect("known columns");
    let rows = read.query_map([], |row| row.get(0)).expect("readable");
    rows.collect::<rusqlite::Result<_>>().expect("texts")
}

fn run(store: &Store, round: &mut Round) -> usize {
    let mut turns = 1;
    while store.prune_turn(round).expect("prunes") {
        turns += 1;
        assert!(turns < 10_000, "no end: {round:?}");
    }
    turns
}

fn with_deaths(deaths: Vec<Death>) -> Change {
    Change {
        deaths,
        ..Change::default()
    }
}

#[test]
fn of_records_that_came_at_once_only_those_go_that_are_too_many() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let change = Change {
        deaths: vec![death(1)],
        records: (0..7).map(|n| record(1, n)).collect(),
        ..Change::default()
    };
    store.commit(NOW, &change).expect("fits");
    let mut round = Round::with(NOW, FEW);
    run(&store, &mut round);
    assert_eq!(round.dropped.records, 3);
    assert_eq!(column(&store, "SELECT id FROM record").len(), 4);
}

#[test]
fn of_lines_that_came_at_once_only_those_go_that_are_too_many() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let said = |boot: u8, at: u64, seqs: std::ops::Range<u64>| OverheardLines {
        node: node(),
        boot: BootId([boot; 16]),
        at: NOW.plus(at),
        lines: seqs
            .map(|seq| Line {
                seq,
                mono_ns: seq,
                cpu: 0,
                level: None,
                continues: false,
                text: format!("{boot}.{seq:02}"),
            })
            .collect(),
    };
    let change = Change {
        deaths: vec![death(1), death(2)],
        overheard: vec![said(1, 5, 0..10), said(2, 4, 0..2), said(2, 6, 2..5)],
        ..Change::default()
    };
    store.commit(NOW, &change).expect("fits");
    let mut round = Round::with(NOW, FEW);
    run(&store, &mut round);
    assert_eq!(round.dropped.overheard, 3);
    let gone = ["2.00", "2.01", "1.00"];
    let left = column(&store, "SELECT text FROM overheard ORDER BY text");
    assert_eq!(left.len(), 12);
    assert!(
        gone.iter().all(|text| !left.contains(&(*text).to_owned())),
        "{left:?}"
    );
}

#[test]
fn lines_wait_for_the_death_of_the_boot_that_the_node_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    // Its first word got lost on the way; what comes next says that it died.
    let before = Change {
        deaths: Vec::new(),
        actions: Vec::new(),
        ..change()
    };
    store.commit(NOW, &before).expect("fits");
    let late = NOW.plus(2 * HOUR);
    store.prune(late).expect("prunes");
    let mut next = change();
    next.nodes[0].boot = BootId([2; 16]);
    next.lines.clear();
    next.actions.clear();
    next.deaths = vec![death(1)];
    store.commit(late, &next).expect("fits");
    store.prune(late).expect("prunes");
    assert_eq!(store.lines(&death(1), 10).expect("readable").len(), 3);
}

#[test]
fn what_is_stored_between_two_turns_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let orphans = Change {
        lines: vec![lines(1, 2_000)],
        ..Change::default()
    };
    store.commit(NOW, &orphans).expect("fits");
    let mut round = Round::new(NOW.plus(2 * HOUR));
    while round.dropped.lines == 0 {
        assert!(store.prune_turn(&mut round).expect("prunes"));
    }
    store
        .commit(NOW, &with_deaths(vec![death(1)]))
        .expect("fits");
    let gone = round.dropped.lines;
    run(&store, &mut round);
    assert_eq!(round.dropped.lines, gone);
    assert_eq!(store.lines_kept().expect("readable"), 2_000 - gone);
}

#[test]
fn a_turn_drops_no_more_than_a_commit_may_wait_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let orphans = Change {
        lines: vec![lines(1, 8_000)],
        ..Change::default()
    };
    store.commit(NOW, &orphans).expect("fits");
    let mut round = Round::new(NOW.plus(2 * HOUR));
    let (mut before, mut more) = (0, true);
    while more {
        more = store.prune_turn(&mut round).expect("prunes");
        assert!(round.dropped.lines - before <= 512 + 32, "{round:?}");
        before = round.dropped.lines;
    }
    assert_eq!(before, 8_000);
}

#[test]
fn a_file_gets_smaller_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let store = Store::open(&path).expect("opens");
    let orphans = Change {
        lines: vec![lines(1, 8_000)],
        ..Change::default()
    };
    store.commit(NOW, &orphans).expect("fits");
    run(&store, &mut Round::with(NOW.plus(2 * HOUR), FEW));
    drop(store);
    let bytes = std::fs::metadata(&path).expect("is there").len();
    assert!(bytes < 300_000, "{bytes}");
    let log = dir.path().join("a.db-wal");
    assert!(!log.exists(), "all of it is in the one file");
}

#[test]
fn what_was_to_be_done_about_a_death_goes_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    store.commit(NOW, &change()).expect("fits");
    let newer = |boot: u8| Death {
        detected_at: NOW.plus(boot.into()),
        ..death(boot)
    };
    let newer = with_deaths((2..=5).map(newer).collect());
    store.commit(NOW, &newer).expect("fits");
    let mut round = Round::with(NOW, FEW);
    run(&store, &mut round);
    assert_eq!((round.dropped.deaths, round.dropped.tasks), (1, 2));
    assert_eq!(counts(&store)[1], 0);
}

/// A boot of a node: its death, lines, and when it was seen.
#[derive(Clone, Debug)]
struct Lived {
    node: u8,
    boot: u8,
    /// When it died, and whether somebody has proven it.
    died: Option<(u64, bool)>,
    lines: u64,
    overheard: u64,
    notes: u64,
    pods: u64,
    seen: u64,
}

fn lived() -> impl Strategy<Value = Lived> {
    let died = prop::option::of((0u64..4, any::<bool>()));
    let rows = (0u64..4, 0u64..6, 0u64..3, 0u64..3);
    (0u8..3, 1u8..12, died, rows, 0u64..4).prop_map(|(node, boot, died, rows, seen)| Lived {
        node,
        boot,
        died,
        lines: rows.0,
        overheard: rows.1,
        notes: rows.2,
        pods: rows.3,
        seen,
    })
}

fn store_of(lives: &[Lived], store: &Store) {
    for life in lives {
        let node = NodeName::new(&format!("w{}", life.node)).expect("a DNS label");
        let boot = BootId([life.boot; 16]);
        let at = NOW.plus(life.seen * HOUR);
        let pod = |n| PodRef {
            namespace: "shop".into(),
            name: format!("web-{n}"),
            uid: format!("{n}"),
        };
        let line = |seq: u64| Line {
            seq,
            mono_ns: seq,
            cpu: 0,
            level: None,
            continues: false,
            text: format!("line {seq}"),
        };
        let died = life.died.map(|(hour, proven)| Death {
            name: DeathName::of(&node, boot),
            node: node.clone(),
            proof: if proven { Proof::P2 } else { Proof::P0 },
            detected_at: NOW.plus(hour * HOUR),
            ..death(life.boot)
        });
        let name = DeathName::of(&node, boot);
        let change = Change {
            nodes: vec![SeenNode {
                node: node.clone(),
                uid: None,
                boot,
                inventory: Some(Box::new(Inventory {
                    kernel_release: "6.1.1".into(),
                    pods: (0..life.pods).map(pod).collect(),
                    ..Inventory::default()
                })),
                stopped: false,
                up_ms: 0,
            }],
            deaths: died.into_iter().collect(),
            lines: vec![BootLines {
                node: node.clone(),
                boot,
                session: 1,
                lines: (0..life.lines).map(line).collect(),
            }],
            overheard: vec![OverheardLines {
                node: node.clone(),
                boot,
                at,
                lines: (0..life.overheard).map(line).collect(),
            }],
            records: (0..life.lines)
                .map(|n| KeptRecord {
                    id: format!("{}.{}.{n}", life.node, life.boot),
                    ..record(life.boot, n)
                })
                .collect(),
            ..Change::default()
        };
        store.commit(at, &change).expect("fits");
        let notes: Vec<PodNote> = (0..life.notes)
            .map(|n| PodNote {
                pod: pod(n),
                owner: None,
                outcome: "annotated".into(),
                at,
            })
            .collect();
        store
            .note_pods(&name, &BTreeMap::new(), &notes)
            .expect("fits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_is_lost_within_the_limits_and_each_loss_is_counted(
        lives in prop::collection::vec(lived(), 0..16),
        hours in 0u64..6,
        months in 0u64..3,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("a.db")).expect("opens");
        store_of(&lives, &store);
        let before = counts(&store);
        let best = "SELECT name FROM death ORDER BY proof = 'P0', detected_ms DESC, name LIMIT 4";
        let best: BTreeSet<String> = column(&store, best).into_iter().collect();
        let owned = |table: &str| {
            let sql = format!("SELECT node || ' ' || boot FROM {table} ORDER BY 1");
            column(&store, &sql)
        };
        let lines = owned("line");
        let notes = column(&store, "SELECT death FROM note ORDER BY 1");
        let runs = column(&store, "SELECT name || ' ' || boot FROM node");

        let now = NOW.plus(hours * HOUR + months * 31 * 24 * HOUR);
        let mut round = Round::with(now, FEW);
        run(&store, &mut round);

        let after = counts(&store);
        let counted = round.dropped.named().map(|(_, count)| count);
        for (n, table) in TABLES.iter().enumerate() {
            prop_assert_eq!(before[n] - after[n], counted[n], "{}", table);
        }
        let left: BTreeSet<String> = column(&store, "SELECT name FROM death").into_iter().collect();
        prop_assert_eq!(&left, &best);
        let died: BTreeSet<String> = owned("death").into_iter().collect();
        let stays = |key: &&String| died.contains(*key) || runs.contains(key);
        let want: Vec<String> = lines.iter().filter(stays).cloned().collect();
        prop_assert_eq!(owned("line"), want);
        // Those of deaths stay; others at most until they are an hour old.
        let of_deaths = |names: &[String]| names.iter().filter(|n| left.contains(*n)).count();
        let notes_left = column(&store, "SELECT death FROM note ORDER BY 1");
        prop_assert_eq!(of_deaths(&notes), of_deaths(&notes_left));
        let limits = [(5, 4), (3, 12)];
        for (table, most) in limits {
            prop_assert!(after[table] <= most);
        }
        prop_assert_eq!(after[5], before[5].min(4), "records");
        let pods = owned("pod");
        if months == 0 {
            prop_assert_eq!(counted[8], 0, "no pod is a month old");
        } else {
            prop_assert!(pods.iter().all(|pod| stays(&pod)));
        }
        let boots_of = |n: u8| {
            let sql = format!("SELECT boot FROM boot WHERE node = 'w{n}'");
            column(&store, &sql).len()
        };
        prop_assert!((0..3).all(|n| boots_of(n) <= 3));
        prop_assert!(after[9] <= 6);
        let first: BTreeSet<(u8, u8)> = lives.iter().map(|l| (l.node, l.boot)).collect();
        let kept = |n: u8| first.iter().filter(|(node, _)| *node == n).count().min(3);
        let all: usize = (0..3).map(kept).sum();
        prop_assert_eq!(after[9] as usize, all.min(6), "boots");
    }
}
