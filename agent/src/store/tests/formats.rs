//! Files of other versions, as `--store FILE` meets them.

use std::path::PathBuf;

use agent_core::recurrence::{Asked, HasBug};
use rusqlite::Connection;

use super::*;
use crate::store::schema::{self, FORMATS};

/// A file as the version wrote it that knew no more formats: a death, what was known of
/// its pods, a line, and a node that lives.
fn file_of(dir: &Path, format: usize) -> PathBuf {
    let path = dir.join(format!("{format}.db"));
    let mut connection = Connection::open(&path).expect("a file");
    schema::prepare_until(&path, &mut connection, format).expect("an older format");
    let died = dead();
    let body = serde_json::to_string(&died).expect("serializes");
    let inventory = change().nodes.remove(0).inventory;
    let inventory = serde_json::to_string(&inventory).expect("serializes");
    let (name, boot) = (died.name.to_string(), died.boot.to_string());
    let rows = [
        "INSERT INTO node (name, uid, boot, seen_ms, inventory)
         VALUES ('w01', 'u', ?2, ?3, ?5)",
        "INSERT INTO death (name, node, boot, state, proof, code, detected_ms, body)
         VALUES (?1, 'w01', ?2, 'Dead', 'P2', 'KernelBug', ?3, ?4)",
        "INSERT INTO pod (node, boot, namespace, name, uid, seen_ms)
         VALUES ('w01', ?2, 'shop', 'web-1', 'uid-1', ?3)",
        "INSERT INTO note (death, namespace, name, uid, outcome, at_ms, content)
         VALUES (?1, 'shop', 'web-2', 'uid-2', 'annotated', ?3, '{}')",
        "INSERT INTO line (node, boot, session, seq, mono_ns, cpu, continues, text)
         VALUES ('w01', ?2, 1, 1, 1, 0, 0, 'Kernel panic')",
    ];
    for sql in rows {
        let mut insert = connection
            .prepare(sql)
            .expect("columns of the first format");
        for (index, value) in [&name, &boot, &NOW.0.to_string(), &body, &inventory]
            .into_iter()
            .enumerate()
            .filter(|(index, _)| sql.contains(&format!("?{}", index + 1)))
        {
            insert.raw_bind_parameter(index + 1, value).expect("bound");
        }
        insert.raw_execute().expect("as it was written then");
    }
    path
}

fn dead() -> Death {
    let mut died = death(1);
    died.report = Some(report(Some("f1")));
    died
}

fn unknown(_: &str, _: &str, _: Option<&str>) -> HasBug {
    HasBug::Unknown
}

/// Names of tables with those of their columns, as statements of this connection see them.
fn columns(connection: &Connection) -> BTreeMap<String, Vec<String>> {
    let names = |sql: &str| -> Vec<String> {
        let mut read = connection.prepare(sql).expect("a pragma");
        let rows = read.query_map([], |row| row.get(0)).expect("readable");
        rows.collect::<rusqlite::Result<_>>().expect("names")
    };
    let tables = names(
        "SELECT DISTINCT name FROM pragma_table_list
         WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'",
    );
    let table = |name: String| {
        let sql = format!("SELECT name FROM pragma_table_xinfo('{name}') ORDER BY name");
        (name, names(&sql))
    };
    tables.into_iter().map(table).collect()
}

#[test]
fn a_file_of_any_older_format_is_read_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let newest = Store::open(&dir.path().join("new.db")).expect("opens");
    let want = columns(&newest.reader());
    for format in 1..=FORMATS {
        let path = file_of(dir.path(), format);
        let before = std::fs::read(&path).expect("readable");
        let store = Store::open_to_read(&path).expect("opens");
        assert_eq!(columns(&store.reader()), want, "format {format}");

        assert_eq!(store.deaths(10).expect("readable")[0].death, dead());
        assert!(store.removed(10).expect("readable").is_empty());
        for query in [
            Query::Any("w01".into()),
            Query::Any("web-1".into()),
            Query::Any("web-2".into()),
            Query::Any(dead().name.to_string()),
            Query::Node("w01".into()),
        ] {
            let found = store.why(&query, 10).expect("readable");
            let found = found.unwrap_or_else(|| panic!("{query:?} in format {format}"));
            assert_eq!(found.summary.expect("a death").death, dead());
            assert_eq!(found.lines.len(), 1);
            let recurrence = found.recurrence.expect("a crash").text;
            assert!(recurrence.starts_with("first death"), "{recurrence}");
        }
        let fleet = store.fleet(None, &Asked::default(), &unknown);
        let fleet = fleet.expect("readable");
        assert_eq!((fleet.deaths, fleet.groups.len()), (1, 1));
        assert_eq!(fleet.groups[0].fingerprint.as_deref(), Some("f1"));
        drop(store);
        let after = std::fs::read(&path).expect("readable");
        assert!(before == after, "format {format} was written to");

        // Whoever writes to it brings it up.
        let store = Store::open(&path).expect("opens");
        assert_eq!(columns(&store.reader()), want, "from format {format}");
        store.commit(NOW, &change()).expect("fits");
        store.prune(NOW).expect("prunes");
        assert_eq!(store.deaths(10).expect("readable").len(), 1);
    }
}

#[test]
fn a_file_of_a_newer_format_says_so_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file_of(dir.path(), FORMATS);
    let connection = Connection::open(&path).expect("opens");
    connection
        .execute_batch("DROP TABLE boot; PRAGMA user_version = 99")
        .expect("what a newer version may do");
    drop(connection);
    let before = std::fs::read(&path).expect("readable");
    for error in [Store::open_to_read(&path), Store::open(&path)] {
        let error = error.expect_err("newer").to_string();
        assert!(
            error.contains("format 99") && error.contains("use the newer"),
            "{error}"
        );
    }
    let after = std::fs::read(&path).expect("readable");
    assert!(before == after, "it was written to");
}

#[test]
fn what_is_no_store_is_not_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("other.db");
    for version in [0, 1, 3, -1, 99] {
        let connection = Connection::open(&path).expect("a file");
        let sql = "CREATE TABLE IF NOT EXISTS death (x); PRAGMA user_version = ";
        connection
            .execute_batch(&format!("{sql}{version}"))
            .expect("written");
        drop(connection);
        let before = std::fs::read(&path).expect("readable");
        for opened in [Store::open_to_read(&path), Store::open(&path)] {
            let error = opened.expect_err("somebody else's").to_string();
            assert!(
                error.contains("is no store of lastgasp"),
                "{version}: {error}"
            );
        }
        assert!(
            before == std::fs::read(&path).expect("readable"),
            "{version}"
        );
    }
    let path = dir.path().join("empty.db");
    std::fs::write(&path, "").expect("written");
    let error = Store::open_to_read(&path).expect_err("empty").to_string();
    assert!(error.contains("nothing is in it yet"), "{error}");
    let error = Store::open_to_read(&dir.path().join("a.db")).expect_err("not there");
    assert!(
        error.to_string().contains("cannot read the store"),
        "{error}"
    );
    assert!(!dir.path().join("a.db").exists());
}

#[test]
fn the_address_of_a_file_that_does_not_change_is_that_of_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let odd = dir.path().join("a b?c#d%20é");
    std::fs::create_dir(&odd).expect("made");
    let path = file_of(&odd, FORMATS);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = connect(&unchanging(&path), flags).expect("opens");
    let count = connection.query_row("SELECT count(*) FROM death", [], |row| row.get(0));
    assert_eq!(count, Ok(1_i64));
    assert!(!has_log(&path));
    let mut log = path.into_os_string();
    log.push("-wal");
    assert!(!Path::new(&log).exists(), "nothing is made beside it");
}
