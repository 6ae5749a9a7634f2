//! Node objects that are there, and that are gone.

use super::*;

#[test]
fn a_node_whose_object_was_deleted_is_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let known = || store.known_nodes(10).expect("readable").len();
    let removal = Removal {
        name: "w01-removed-1".into(),
        node: node(),
        at: NOW.plus(1),
        seen: None,
        machine: Machine::Lives { heard: Some(NOW) },
        who: "nobody".into(),
        why: None,
        object: NodeObject::default(),
        events: Vec::new(),
    };
    let removed = Change {
        removals: vec![(removal, Vec::new())],
        ..change()
    };
    store.commit(NOW, &removed).expect("fits");
    assert_eq!(known(), 0);
    let rows_later = |ms: u64| -> i64 {
        store.prune(NOW.plus(ms)).expect("prunes");
        let reader = store.reader();
        let count = reader.query_row("SELECT count(*) FROM node", [], |row| row.get(0));
        count.expect("readable")
    };
    let month = 30 * 24 * 3_600 * 1_000;
    assert_eq!(rows_later(1), 1, "people may still ask");
    // Its machine speaks once more.
    store.commit(NOW.plus(2), &change()).expect("fits");
    assert_eq!((known(), rows_later(month + 3)), (1, 1));
    store.commit(NOW, &change()).expect("fits");
    assert_eq!(rows_later(month + 3), 0);
}

#[test]
fn a_removal_is_found_by_the_name_that_the_table_shows() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let removal = Removal {
        name: "w01-removed-0a1b2c3d".into(),
        node: node(),
        at: NOW,
        seen: None,
        machine: Machine::Unheard,
        who: "nobody knows".into(),
        why: None,
        object: NodeObject::default(),
        events: Vec::new(),
    };
    let change = Change {
        removals: vec![(removal.clone(), Vec::new())],
        ..Change::default()
    };
    store.commit(NOW, &change).expect("fits");
    for name in [removal.name.as_str(), "w01"] {
        let found = store.why(&Query::Any(name.to_owned()), 0);
        let found = found.expect("readable").expect("known").removed;
        assert_eq!(found.expect("removed").removal, removal, "{name}");
    }
}

#[test]
fn a_node_object_is_known_until_it_is_recorded_that_it_went() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let object = |uid: &str| NodeObject {
        uid: uid.to_owned(),
        finalizers: vec!["wait".to_owned()],
        ..NodeObject::default()
    };
    let seen = |uid: &str, after_ms| SeenObject {
        node: node(),
        object: object(uid),
        seen: NOW.plus(after_ms),
    };
    let known = || {
        let known = store.known_objects(10).expect("readable");
        let brief = |seen: SeenObject| (seen.object.uid, seen.seen.since(NOW));
        known.into_iter().map(brief).collect::<Vec<_>>()
    };
    let commit = |change: &Change| store.commit(NOW, change).map(drop).expect("fits");
    let gone = |uid: &str| Change {
        removals: vec![(
            Removal {
                name: format!("w01-removed-{uid}"),
                node: node(),
                at: NOW.plus(9),
                seen: None,
                machine: Machine::Unheard,
                who: "nobody knows".into(),
                why: None,
                object: object(uid),
                events: Vec::new(),
            },
            Vec::new(),
        )],
        ..Change::default()
    };
    // An agent may name the object that nobody else has seen.
    let mut hello = change();
    hello.nodes[0].uid = Some("1".to_owned());
    commit(&hello);
    assert_eq!(known(), [("1".to_owned(), 0)]);
    commit(&gone("1"));
    commit(&hello);
    assert_eq!(known(), [], "the machine speaks on, and its object is gone");

    commit(&Change {
        objects: vec![seen("2", 5), seen("1", 1)],
        ..Change::default()
    });
    assert_eq!(known(), [("1".to_owned(), 1), ("2".to_owned(), 5)]);
    commit(&Change {
        watched: Some(NOW.plus(3)),
        ..Change::default()
    });
    assert_eq!(known(), [("1".to_owned(), 3), ("2".to_owned(), 5)]);
    commit(&gone("1"));
    assert_eq!(known(), [("2".to_owned(), 5)]);
    let last = store.known_objects(10).expect("readable").remove(0);
    assert_eq!(last, seen("2", 5));
}
