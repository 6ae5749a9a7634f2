//! Lines that nobody has proven.

use super::*;

fn overheard(boot: u8, first: u64, count: u64) -> OverheardLines {
    let line = |seq| Line {
        seq,
        // The clock of the lines that are proven.
        mono_ns: 1_000_000 + seq,
        cpu: 0,
        level: Some(3),
        continues: false,
        text: format!("line 1.{seq}"),
    };
    OverheardLines {
        node: node(),
        boot: BootId([boot; 16]),
        at: NOW.plus(first),
        lines: (first..first + count).map(line).collect(),
    }
}

fn with(overheard: Vec<OverheardLines>) -> Change {
    Change {
        overheard,
        ..Change::default()
    }
}

/// The last lines, with `?` where nothing is proven.
fn shown(store: &Store, last: u32) -> Vec<String> {
    let lines = store.lines(&death(1), last).expect("readable");
    let brief =
        |line: LogLine| format!("{}{}", if line.unproven { "?" } else { "" }, line.line.text);
    lines.into_iter().map(brief).collect()
}

#[test]
fn they_stand_beside_those_that_are_proven_and_no_line_is_there_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    // Three lines are proven, and of four somebody says so; twice.
    store.commit(NOW, &change()).expect("fits");
    for _ in 0..2 {
        let said = with(vec![overheard(1, 1, 4), overheard(2, 1, 1)]);
        store.commit(NOW, &said).expect("fits");
    }
    let all = ["line 1.0", "line 1.1", "line 1.2", "?line 1.3", "?line 1.4"];
    assert_eq!(shown(&store, 100), all);
    assert_eq!(shown(&store, 2), all[3..]);
    let json = serde_json::to_value(store.lines(&death(1), 3).expect("readable"));
    let json = json.expect("serializes");
    assert_eq!(json[0].get("unproven"), None, "{json}");
    assert_eq!(json[1]["unproven"], true, "{json}");

    // Of boots that nobody died of, nothing is kept: but they may come before the death.
    for (hours, kept) in [(0, 2), (2, 1)] {
        store.prune(NOW.plus(hours * 3_600_000)).expect("prunes");
        assert_eq!(shown(&store, 100), all);
        let boots: Result<i64, _> =
            store
                .reader()
                .query_row("SELECT count(DISTINCT boot) FROM overheard", [], |row| {
                    row.get(0)
                });
        assert_eq!(boots, Ok(kept), "after {hours} hours");
    }
}

#[test]
fn too_many_push_each_other_out_and_nothing_that_is_proven() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    store.commit(NOW, &change()).expect("fits");
    let mut cut = 0;
    for batch in 0..30 {
        let said = with(vec![overheard(1, 10 + batch * 50, 50)]);
        cut += store.commit(NOW, &said).expect("fits").overheard_cut;
    }
    assert_eq!(cut, 30 * 50 - 1_024);
    let all = shown(&store, 20_000);
    assert_eq!(all.len(), 3 + 1_024);
    assert_eq!(all[..3], ["line 1.0", "line 1.1", "line 1.2"]);
    assert_eq!(all.last().map(String::as_str), Some("?line 1.1509"));
}
