//! How long old records take to go, and how long anybody waits for that.
//!
//! Makes a store with more deaths than are kept, each with lines, pods and notes, and
//! drops what is too much, while somebody commits: how long that one waits is what is measured.
//!
//! Small under `cargo test`; `cargo bench -p lastgasp --bench prune -- DIR DEATHS` makes
//! DIR/prune.db of about 65 KB a death, 10,000 of which stay. Prints two JSON lines.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use agent_core::model::{BootId, NodeName, Timestamp};
use lastgasp::store::{Change, Round, SeenNode, Store};
use rusqlite::Connection;

/// Deaths that are made unless the caller says: a few more than are kept.
const DEFAULT: i64 = 10_100;
/// Deaths that are kept.
const KEPT: i64 = 10_000;
/// Commits without pruning.
const RUNS: usize = 1_000;
/// From one commit to the next; between two turns, as the annotator has it.
const EACH: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_millis(20);
const DAY_MS: u64 = 86_400_000;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Boots `:n` by number. Their nodes are in no order, as in life.
const BOOTS: &str = "
CREATE TEMP TABLE boots AS
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
SELECT i, printf('w%04d', i * 7919 % 3000) AS node,
    printf('%08x-0000-4000-8000-%012x', i * 2654435761 % 4294967296, i) AS boot
FROM n";

const ROWS: &str = "
INSERT INTO death (name, node, boot, state, proof, code, detected_ms, body)
SELECT node || '-' || substr(boot, 1, 8), node, boot, 'Returned', 'P4', 'KernelBug', :now + i,
    printf('{\"report\":{\"fingerprint\":\"%016x\"},\"pad\":\"%s\"}', i % 50,
        hex(zeroblob(2000)))
FROM boots;
WITH RECURSIVE k (j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM k WHERE j + 1 < :lines)
INSERT INTO line (node, boot, session, seq, mono_ns, cpu, level, continues, text)
SELECT node, boot, 7, j, j * 1000, 1, 4, 0, printf('%d %s', j, hex(zeroblob(50)))
FROM boots CROSS JOIN k;
WITH RECURSIVE k (j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM k WHERE j + 1 < :pods)
INSERT INTO note (death, namespace, name, uid, owner_kind, owner_name, outcome, at_ms, content)
SELECT node || '-' || substr(boot, 1, 8), 'shop', 'web-' || j, printf('%036d', j), 'Job', 'web',
    'annotated', :now + i, hex(zeroblob(200))
FROM boots CROSS JOIN k;
WITH RECURSIVE k (j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM k WHERE j + 1 < :pods)
INSERT INTO pod (node, boot, namespace, name, uid, seen_ms)
SELECT node, boot, 'shop', 'web-' || j, printf('%036d', j), :now + i
FROM boots CROSS JOIN k;
INSERT INTO boot (node, boot, platform, seen_ms, up_ms, alive_ms)
SELECT node, boot, NULL, :now + i, 0, 0 FROM boots;
";

fn fill(path: &Path, deaths: i64, lines: i64, pods: i64) -> rusqlite::Result<()> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "synchronous", "off")?;
    db.execute(BOOTS, [deaths])?;
    let rows = [(":now", NOW.0 as i64), (":lines", lines), (":pods", pods)]
        .iter()
        .fold(ROWS.to_owned(), |sql, (name, value)| {
            sql.replace(name, &value.to_string())
        });
    db.execute_batch(&format!(
        "BEGIN; {rows} COMMIT; PRAGMA wal_checkpoint(TRUNCATE)"
    ))
}

fn main() {
    let said: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let scratch = tempfile::tempdir().expect("a directory");
    let (dir, deaths, lines, pods) = match said.as_slice() {
        [dir, deaths] => {
            let deaths = deaths.parse().expect("a number of deaths");
            (Path::new(dir), deaths, 200, 30)
        }
        _ => (scratch.path(), DEFAULT, 3, 2),
    };
    std::fs::create_dir_all(dir).expect("a directory");
    let path = dir.join("prune.db");
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("prune.db{end}")));
    }
    drop(Store::open(&path).expect("a new store"));
    let started = Instant::now();
    fill(&path, deaths, lines, pods).expect("room for it");
    let bytes = std::fs::metadata(&path).expect("it is there").len();
    eprintln!("made {} MB in {:.1?}", bytes >> 20, started.elapsed());

    let store = Store::open(&path).expect("opens");
    let many = if deaths > DEFAULT { RUNS } else { 20 };
    let alone = waits(&store, |so_far| so_far < many);
    // The second finds nothing to drop.
    for case in ["drops", "looks"] {
        let (started, ended) = (Instant::now(), AtomicBool::new(false));
        let (round, turns, waited) = std::thread::scope(|scope| {
            let pruning = scope.spawn(|| {
                let (mut round, mut turns) = (Round::new(NOW.plus(DAY_MS)), 1);
                while store.prune_turn(&mut round).expect("there is room") {
                    turns += 1;
                    std::thread::sleep(PAUSE);
                }
                ended.store(true, Relaxed);
                (round, turns)
            });
            let waited = waits(&store, |_| !ended.load(Relaxed));
            let (round, turns) = pruning.join().expect("no turn panics");
            (round, turns, waited)
        });
        let took = started.elapsed();
        let dropped = round.dropped;
        let want = if case == "drops" { deaths - KEPT } else { 0 };
        assert_eq!(dropped.deaths as i64, want);
        assert_eq!(dropped.lines as i64, want * lines);
        assert_eq!(dropped.notes as i64, want * pods);
        assert_eq!((dropped.boots, dropped.pods, dropped.records), (0, 0, 0));
        let rows: u64 = dropped.named().iter().map(|(_, rows)| rows).sum();
        println!(
            "{}",
            serde_json::json!({
                "bench": "prune", "metric": "99 of 100 commits wait no longer", "unit": "ms",
                "case": {"round": case, "deaths": deaths, "mb": bytes >> 20, "turns": turns,
                    "took_ms": took.as_millis() as u64, "rows": rows},
                "value": ms(&waited, 0.99), "runs": waited.len(), "min": ms(&waited, 0.0),
                "p50": ms(&waited, 0.5), "max": ms(&waited, 1.0),
                "yardstick": {"no pruning": ms(&alone, 0.99), "no pruning, p50": ms(&alone, 0.5),
                    "no pruning, max": ms(&alone, 1.0)},
            })
        );
    }
}

/// How long small commits take, in order of that, for as long as `more` says; one each 5 ms.
fn waits(store: &Store, more: impl Fn(usize) -> bool) -> Vec<Duration> {
    let node = NodeName::new("w9999").expect("a DNS label");
    let mut all = Vec::new();
    while more(all.len()) {
        let seen = SeenNode {
            node: node.clone(),
            uid: None,
            boot: BootId([9; 16]),
            inventory: None,
            stopped: false,
            up_ms: 0,
        };
        let change = Change {
            nodes: vec![seen],
            ..Change::default()
        };
        let at = NOW.plus(2 * DAY_MS + all.len() as u64);
        let started = Instant::now();
        store.commit(at, &change).expect("there is room");
        all.push(started.elapsed());
        std::thread::sleep(EACH);
    }
    all.sort();
    all
}

/// The value that a share of all is no longer than.
fn ms(sorted: &[Duration], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    let found = sorted.get(at.min(sorted.len().saturating_sub(1)));
    found.map_or(0.0, |one| (one.as_secs_f64() * 1e5).round() / 100.0)
}
