use std::collections::BTreeMap;

use agent_core::engine::Action;
use agent_core::model::{
    BootId, Channel, Death, DeathName, DeathState, Inventory, Line, LogLine, Machine, Means,
    NodeName, NodeObject, Notice, Opinion, PodRef, Proof, ReasonCode, Record, RecordKind, Removal,
    Report, SeenObject, Silence, Stop, Timestamp, Told,
};

use super::*;

mod fleet;
mod formats;
mod overheard;
mod prune;
mod removals;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn node() -> NodeName {
    NodeName::new("w01").expect("a DNS label")
}

fn death(boot: u8) -> Death {
    let boot = BootId([boot; 16]);
    Death {
        name: DeathName::of(&node(), boot),
        node: node(),
        node_uid: None,
        boot,
        state: DeathState::Dead,
        proof: Proof::P2,
        notice: Some(Notice::Panic),
        word: None,
        packet: None,
        report: None,
        detected_at: NOW,
        happened_at: NOW,
        evidence: Vec::new(),
        steps: Vec::new(),
        channels: Vec::new(),
        lease: Opinion::Open,
        kernel_release: None,
    }
}

fn lines(session: u64, count: u64) -> BootLines {
    let line = |seq| Line {
        seq,
        mono_ns: session * 1_000_000 + seq,
        cpu: 0,
        level: Some(3),
        continues: false,
        text: format!("line {session}.{seq}"),
    };
    BootLines {
        node: node(),
        boot: BootId([1; 16]),
        session,
        lines: (0..count).map(line).collect(),
    }
}

fn change() -> Change {
    let death = death(1);
    let pod = |name: &str| PodRef {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    };
    Change {
        nodes: vec![SeenNode {
            node: node(),
            uid: None,
            boot: death.boot,
            inventory: Some(Box::new(Inventory {
                kernel_release: "6.12.0".into(),
                pods: vec![pod("web-1"), pod("web-2")],
                ..Inventory::default()
            })),
            stopped: false,
            up_ms: 0,
        }],
        lines: vec![lines(1, 3)],
        actions: vec![
            Action::MarkNode(death.name.clone()),
            Action::AnnotatePods(death.name.clone()),
        ],
        deaths: vec![death],
        ..Change::default()
    }
}

fn silence(boot: BootId) -> Silence {
    Silence {
        node: node(),
        boot,
        heard: Some(NOW),
        since: NOW.plus(10_000),
        lease: Opinion::NotRenewed {
            for_ms: 20_000,
            at: NOW,
        },
        channels: Vec::new(),
    }
}

fn words(store: &Store) -> Vec<&'static str> {
    let tasks = store.tasks().expect("readable");
    tasks.iter().map(|task| task.action.word()).collect()
}

#[test]
fn what_is_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let store = Store::open(&path).expect("opens");
    store.commit(NOW, &change()).expect("fits");
    store
        .commit(NOW, &change())
        .expect("the same again changes nothing");
    drop(store);

    let store = Store::open(&path).expect("opens again");
    assert_eq!(words(&store), ["MarkNode", "AnnotatePods"]);
    let nodes = store.known_nodes(10).expect("readable");
    let known = nodes[0].inventory.as_ref();
    assert_eq!(
        known.map(|inventory| inventory.kernel_release.as_str()),
        Some("6.12.0")
    );
    assert_eq!(nodes[0].noted, Some(NOW));
    assert_eq!(
        store
            .pods_of(&node(), BootId([1; 16]))
            .expect("readable")
            .len(),
        2
    );
    let last = store.lines(&death(1), 2).expect("readable");
    let texts: Vec<&str> = last.iter().map(|line| line.line.text.as_str()).collect();
    assert_eq!(texts, ["line 1.1", "line 1.2"]);

    let first = store.tasks().expect("readable")[0].id;
    store.finish(first).expect("deletes");
    assert_eq!(words(&store), ["AnnotatePods"]);
}

#[test]
fn who_had_a_node_stopped_is_told_until_the_same_boot_speaks_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let told = Told {
        means: Means::Signal(39),
        by: None,
        before_ns: 1,
        command: String::new(),
    };
    let seen = |boot: BootId, stopped: bool| SeenNode {
        boot,
        stopped,
        ..change().nodes.remove(0)
    };
    let stop = Stop {
        node: node(),
        boot: BootId([1; 16]),
        at: NOW,
        told,
    };
    for (boot, stopped, stops, shown) in [
        (1, false, Vec::new(), None),
        (1, true, vec![stop.clone()], Some(&stop)),
        // Its agent was restarted, and nothing else.
        (1, false, Vec::new(), None),
        (1, true, Vec::new(), Some(&stop)),
        (2, false, Vec::new(), Some(&stop)),
    ] {
        let change = Change {
            nodes: vec![seen(BootId([boot; 16]), stopped)],
            stops,
            ..Change::default()
        };
        store.commit(NOW, &change).expect("fits");
        let query = Query::Node(node().to_string());
        let answer = store.why(&query, 0).expect("readable");
        let found = answer.and_then(|answer| answer.stop);
        assert_eq!(found.map(|stopped| stopped.stop).as_ref(), shown);
    }
}

#[test]
fn a_goodbye_is_remembered_until_the_node_speaks_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let hello = change().nodes.remove(0);
    let goodbye = SeenNode {
        inventory: None,
        stopped: true,
        ..hello.clone()
    };
    for (seen, stopped) in [(hello.clone(), false), (goodbye, true), (hello, false)] {
        let change = Change {
            nodes: vec![seen],
            ..Change::default()
        };
        store.commit(NOW, &change).expect("fits");
        let known = store.known_nodes(10).expect("readable");
        assert_eq!(known[0].stopped, stopped);
        assert!(known[0].inventory.is_some());
    }
}

#[test]
fn a_silent_node_answers_for_its_pods_until_it_speaks_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let silence = silence(BootId([1; 16]));
    let mut fell_silent = change();
    fell_silent.deaths.clear();
    fell_silent.actions.clear();
    fell_silent.silences = vec![(node(), Some(silence.clone()))];
    store.commit(NOW, &fell_silent).expect("fits");
    let ask = |query: &Query| store.why(query, 0).expect("readable");
    let pod = Query::Pod {
        namespace: Some("shop".into()),
        name: "web-1".into(),
    };
    for query in [
        &pod,
        &Query::Node("w01".into()),
        &Query::Any("web-2".into()),
    ] {
        let answer = ask(query).expect("known");
        let silent = answer.silent.as_ref().expect("silent");
        assert!(
            silent
                .verdict
                .starts_with("Silent, and its Lease is not renewed")
        );
        assert_eq!(silent.silence, silence);
        // As it goes to whoever asks by HTTP.
        let json = serde_json::to_string(&answer).expect("serializes");
        let back: Explanation = serde_json::from_str(&json).expect("the same again");
        assert_eq!(back, answer);
    }
    assert_eq!(
        store.known_nodes(10).expect("readable")[0].silence,
        Some(silence)
    );
    let over = Change {
        silences: vec![(node(), None)],
        ..Change::default()
    };
    store.commit(NOW, &over).expect("fits");
    assert!(ask(&pod).is_none());
}

#[test]
fn a_revocation_replaces_what_waits_and_what_comes_later_comes_after_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    store.commit(NOW, &change()).expect("fits");
    let name = death(1).name;
    let actions = |actions| Change {
        actions,
        ..Change::default()
    };
    let revoke = actions(vec![Action::Revoke(name.clone())]);
    store.commit(NOW, &revoke).expect("fits");
    assert_eq!(words(&store), ["Revoke"]);
    let mark = actions(vec![Action::MarkNode(name)]);
    store.commit(NOW, &mark).expect("fits");
    assert_eq!(words(&store), ["Revoke", "MarkNode"]);
}

#[test]
fn a_pod_is_explained_by_its_name_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    store.commit(NOW, &change()).expect("fits");
    let asked = |namespace: Option<&str>, name: &str| Query::Pod {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let why = |query: &Query| store.why(query, 10).expect("readable");
    let found = why(&asked(None, "web-1")).expect("it was on the node");
    assert_eq!(found.pod.expect("asked for a pod").outcome, "known");
    assert_eq!(found.lines.len(), 3);
    assert!(why(&asked(Some("other"), "web-1")).is_none());
    assert!(why(&Query::Any("w01".into())).is_some());
    assert!(why(&Query::Any("w01-01010101".into())).is_some());
    assert!(why(&Query::Any("w02".into())).is_none());
}

#[test]
fn of_pods_that_had_one_name_the_newest_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    // It died with the first boot, and its name is on the next boot again.
    let old = change();
    store.commit(NOW, &old).expect("fits");
    let told = PodNote {
        pod: old.nodes[0].inventory.as_ref().expect("one").pods[0].clone(),
        owner: None,
        outcome: "annotated".to_owned(),
        at: NOW.plus(1_000),
    };
    let (name, words) = (&old.deaths[0].name, BTreeMap::new());
    store.note_pods(name, &words, &[told]).expect("fits");
    let boot = BootId([2; 16]);
    let mut new = change();
    new.nodes[0].boot = boot;
    for pod in &mut new.nodes[0].inventory.as_mut().expect("one").pods {
        pod.uid.push_str("-again");
    }
    new.silences = vec![(node(), Some(silence(boot)))];
    (new.deaths, new.actions) = (Vec::new(), Vec::new());
    store.commit(NOW.plus(60_000), &new).expect("fits");
    let why = || {
        let found = store.why(&Query::Any("web-1".into()), 0);
        found.expect("readable").expect("known")
    };
    let found = why();
    assert!(found.silent.is_some() && found.summary.is_none());
    assert_eq!(found.pod.expect("a pod").pod.uid, "uid-web-1-again");

    // That one dies, too: of one pod that says more than silence does.
    let mut again = death(2);
    again.detected_at = NOW.plus(70_000);
    let died = Change {
        deaths: vec![again],
        ..Change::default()
    };
    store.commit(NOW.plus(70_000), &died).expect("fits");
    let found = why();
    assert_eq!(found.summary.expect("a death").death.boot, boot);
    assert!(found.silent.is_none());
}

#[test]
fn what_nobody_has_proven_pushes_no_proven_death_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let many = |n: u64| {
        let mut death = death(2);
        death.name = DeathName::of(
            &NodeName::new(&format!("n{n}")).expect("a name"),
            death.boot,
        );
        death.proof = Proof::P0;
        death.detected_at = NOW.plus(1 + n);
        death
    };
    let mut deaths: Vec<Death> = (0..10_005).map(many).collect();
    deaths.push(death(1));
    let change = Change {
        deaths,
        ..Change::default()
    };
    store.commit(NOW, &change).expect("fits");
    store.prune(NOW).expect("prunes");
    assert_eq!(store.deaths(20_000).expect("readable").len(), 10_000);
    let held = store.deaths_to_hold(1).expect("readable");
    assert_eq!(held, [death(1)]);
}

#[test]
fn lines_are_told_apart_by_agent_process_and_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let change = Change {
        deaths: vec![death(1)],
        lines: vec![lines(1, 5), lines(1, 5), lines(2, 5), lines(3, 9_000)],
        ..Change::default()
    };
    let done = store.commit(NOW, &change).expect("fits");
    assert_eq!(done.lines_cut, 9_000 + 10 - 8_192);
    assert_eq!(
        store.lines(&death(1), 20_000).expect("readable").len(),
        8_192
    );
}

#[test]
fn a_full_disk_is_said_and_passes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let limit = |pages: i64| {
        let writer = store.writer().expect("may write");
        writer
            .pragma_update(None, "max_page_count", pages)
            .expect("settable");
    };
    limit(1);
    let mut much = change();
    much.lines = vec![lines(1, 2_000)];
    let error = store.commit(NOW, &much).expect_err("no room");
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(
        store.deaths(10).expect("readable").is_empty(),
        "all or nothing"
    );
    limit(1_000_000);
    store.commit(NOW, &much).expect("there is room again");
    assert_eq!(words(&store), ["MarkNode", "AnnotatePods"]);
}

#[test]
fn a_store_that_cannot_be_used_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    std::fs::write(
        &path,
        "this is no database, not even a little bit of one".repeat(50),
    )
    .expect("writable");
    let error = Store::open(&path).expect_err("damaged").to_string();
    assert!(
        error.contains("damaged") && error.contains("move it away"),
        "{error}"
    );

    let path = dir.path().join("b.db");
    let held = Store::open(&path).expect("opens");
    let error = Store::open(&path).expect_err("in use").to_string();
    assert!(
        error.contains("in use") && error.contains("--store"),
        "{error}"
    );
    assert!(Store::open_to_read(&path).is_ok(), "anyone may read");
    let writer = held.writer().expect("may write");
    writer
        .pragma_update(None, "user_version", 99)
        .expect("settable");
    drop(writer);
    drop(held);
    let error = Store::open(&path).expect_err("newer").to_string();
    assert!(error.contains("format 99"), "{error}");

    let error = Store::open(&dir.path().join("no/such/c.db")).expect_err("no directory");
    assert!(error.to_string().contains("--store"), "{error}");
}

#[test]
fn old_lines_and_pods_without_a_death_are_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let mut change = change();
    change.deaths.clear();
    change.actions.clear();
    store.commit(NOW, &change).expect("fits");
    change.nodes[0].boot = BootId([2; 16]);
    let month = 31 * 24 * 3_600 * 1_000;
    store.commit(NOW.plus(month), &change).expect("fits");
    store.prune(NOW.plus(month)).expect("prunes");
    assert!(
        store
            .pods_of(&node(), BootId([1; 16]))
            .expect("readable")
            .is_empty()
    );
    assert_eq!(
        store
            .pods_of(&node(), BootId([2; 16]))
            .expect("readable")
            .len(),
        2
    );
    assert!(store.lines(&death(1), 10).expect("readable").is_empty());
}

fn record(boot: u8, id: u64) -> KeptRecord {
    KeptRecord {
        node: node(),
        id: format!("{id}"),
        record: Box::new(Record {
            boot: Some(BootId([boot; 16])),
            at: Some(NOW),
            ..Record::new(
                Channel::Pstore,
                "erst".into(),
                RecordKind::Panic,
                "Kernel panic - not syncing: x".into(),
            )
        }),
        lines: Vec::new(),
    }
}

/// What a death's log says.
fn report(fingerprint: Option<&str>) -> Report {
    Report {
        code: ReasonCode::KernelBug,
        title: "BUG".into(),
        line: "BUG".into(),
        fault_function: None,
        module: None,
        kernel_release: None,
        comm: None,
        corrupted: None,
        fingerprint: fingerprint.map(str::to_owned),
        known_bugs: Vec::new(),
    }
}

#[test]
fn a_record_is_kept_once_and_its_lines_where_no_others_came() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("s.db")).expect("a new store");
    let record = |boot: u8| KeptRecord {
        lines: lines(0, 2).lines,
        ..record(boot, boot.into())
    };
    store.commit(NOW, &change()).expect("stored");
    let found = Change {
        deaths: vec![death(2)],
        records: vec![record(1), record(2)],
        ..Change::default()
    };
    for _ in 0..2 {
        store.commit(NOW, &found).expect("stored");
    }
    let kept: i64 = store
        .reader()
        .query_row("SELECT count(*) FROM record", [], |row| row.get(0))
        .expect("readable");
    assert_eq!(kept, 2);
    let count = |boot| store.lines(&death(boot), 10).expect("readable").len();
    assert_eq!((count(1), count(2)), (3, 2), "boot 1 had sent its own");
    store.prune(NOW).expect("pruned");
    assert_eq!(count(2), 2);
}
