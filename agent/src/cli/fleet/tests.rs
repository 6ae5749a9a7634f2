//! From a store's file to what people read.

use agent_core::model::{BootId, Death, DeathState, Inventory, Notice, Proof, Report, Timestamp};

use super::*;
use crate::cli::known;
use crate::store::{Change, SeenNode, Store};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const DAY: u64 = 86_400_000;
const WIDE: Look = Look {
    wide: true,
    colour: false,
    columns: None,
};
const OLD: &str = "6.1.1-1.el9.elrepo.x86_64";

/// The reporter's crash, as a log of that kernel has it.
fn report(release: &str) -> Report {
    let log = format!(
        "kernel BUG at net/core/skbuff.c:4230!\n\
         invalid opcode: 0000 [#1] PREEMPT SMP NOPTI\n\
         CPU: 3 PID: 29 Comm: ksoftirqd/3 Not tainted {release} #1\n\
         RIP: 0010:skb_segment+0x2b2/0x930\n\
         Call Trace:\n <TASK>\n tcp_gso_segment+0x13a/0x160\n inet_gso_segment+0x34/0xf0\n </TASK>\n\
         Kernel panic - not syncing: Fatal exception in interrupt\n"
    );
    agent_decode::decode_text(&log).expect("a report")
}

fn crash(node: &NodeName, boot: BootId, at: Timestamp, release: &str) -> Death {
    let mut death = Death::opened(at, node, boot, Proof::P2, Some(Notice::Panic), at);
    death.state = DeathState::Dead;
    death.report = Some(report(release));
    death
}

/// A node's boots, each two hellos and a death if it died.
struct Life {
    name: String,
    release: &'static str,
    firmware: &'static str,
    boots: u8,
    died: u8,
    /// Milliseconds of one boot.
    each_ms: u64,
}

fn live(store: &Store, life: &Life) {
    let node = NodeName::new(&life.name).expect("a DNS label");
    let inventory = Inventory {
        kernel_release: life.release.into(),
        firmware: life.firmware.into(),
        network_drivers: vec!["virtio_net".into()],
        modules: vec!["overlay".into()],
        ..Inventory::default()
    };
    for n in 0..life.boots {
        let boot = BootId([n + 1; 16]);
        let from = NOW.plus(u64::from(n) * life.each_ms);
        let until = from.plus(life.each_ms);
        for (at, up_ms) in [(from, 20_000), (until, 20_000 + life.each_ms)] {
            let seen = SeenNode {
                node: node.clone(),
                uid: None,
                boot,
                inventory: Some(Box::new(inventory.clone())),
                stopped: false,
                up_ms,
            };
            let died = n < life.died && at == until;
            let change = Change {
                nodes: vec![seen],
                deaths: died
                    .then(|| crash(&node, boot, at, life.release))
                    .into_iter()
                    .collect(),
                ..Change::default()
            };
            store.commit(at, &change).expect("fits");
        }
    }
}

/// What is told of a store with these lives.
fn told_of(lives: &[Life], asked: &Asked, look: Look) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let store = Store::open(&path).expect("opens");
    for life in lives {
        live(&store, life);
    }
    drop(store);
    let store = Store::open_to_read(&path).expect("opens");
    let fleet = store.fleet(None, asked, &known::has_bug).expect("readable");
    told(&fleet, asked, look).expect("text")
}

fn reporters_fleet() -> Vec<Life> {
    let pool = |prefix: &str, release, count: u8, boots: u8, each_ms| {
        let life = |n| Life {
            name: format!("{prefix}{n}"),
            release,
            firmware: "SeaBIOS 1.16.2",
            boots,
            died: if n < 5 { boots - 1 } else { 0 },
            each_ms,
        };
        (1..=count).map(life).collect::<Vec<_>>()
    };
    // Four that died three times each, and one that did not.
    let mut all = pool("w", OLD, 5, 4, 3 * DAY / 2);
    all.extend(pool("v", "6.1.81-1.el9.elrepo.x86_64", 10, 1, 4 * DAY));
    all
}

#[test]
fn the_reporters_fleet_is_told_with_who_never_died_and_why_that_is_no_comfort() {
    let told = told_of(&reporters_fleet(), &Asked::default(), Look::default());
    let want = "\
12 deaths in all; 15 nodes seen alive for 70 node-days, 11 of them never died

12 deaths of 4 nodes: Kernel panic: Kernel BUG at net/core/skbuff.c:4230 in skb_segment; \
may be one of these known bugs: cve-2022-50365, fixed in 6.1.2; cve-2024-42281, fixed in \
6.1.103; gro-list-nested-gso
  12 of 12 deaths on 6.1.1-1.el9.elrepo.x86_64; 0 on 6.1.81-1.el9.elrepo.x86_64 over 40 \
node-days, but 6.1.81-1.el9.elrepo.x86_64 has one of the bugs that it may be: \
cve-2024-42281, fixed in 6.1.103
  fingerprint  cbf7e923b4b2dcec
  code         KernelBug
  when         2023-11-16T10:13:20.000Z to 2023-11-19T10:13:20.000Z
  nodes        w1 (3), w2 (3), w3 (3), w4 (3)

  KERNEL                      FIRMWARE        DRIVER      DEATHS  NODES    NODE-DAYS  EXPECTED
  6.1.1-1.el9.elrepo.x86_64   SeaBIOS 1.16.2  virtio_net  12      4 of 5   30.0       -
  6.1.81-1.el9.elrepo.x86_64  SeaBIOS 1.16.2  virtio_net  0       0 of 10  40.0       16.0
";
    assert_eq!(told, want);
}

#[test]
fn a_node_is_told_what_it_died_of() {
    let asked = Asked {
        node: NodeName::new("w2"),
        fingerprint: None,
    };
    let told = told_of(&reporters_fleet(), &asked, Look::default());
    for part in [
        "w2: 3 deaths, 4 boots seen over 6.0 node-days\n",
        "w2 died of it 3 times in 3 days; 9 more deaths on 3 other nodes\n",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
}

#[test]
fn what_has_no_fingerprint_is_told_by_its_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("a.db")).expect("opens");
    let node = NodeName::new("w1").expect("a DNS label");
    for n in 1..=2 {
        let mut death = crash(&node, BootId([n; 16]), NOW.plus(u64::from(n)), OLD);
        (death.notice, death.report) = (Some(Notice::Restart), None);
        let change = Change {
            deaths: vec![death],
            ..Change::default()
        };
        store.commit(NOW, &change).expect("fits");
    }
    let asked = Asked::default();
    let fleet = store.fleet(None, &asked, &known::has_bug);
    let told = told(&fleet.expect("readable"), &asked, Look::default()).expect("text");
    let want = "\
2 deaths in all; no node was seen alive

2 deaths of 1 node with code Restart, the newest: Restart without an orderly stop
  Ended by order: nothing is compared
  code         Restart
  when         2023-11-14T22:13:20.001Z to 2023-11-14T22:13:20.002Z
  nodes        w1 (2)

  KERNEL  FIRMWARE  DRIVER  DEATHS  NODES   NODE-DAYS  EXPECTED
  -       -         -       2       1 of 1  0.0        -
";
    assert_eq!(told, want);
}

#[test]
fn what_nodes_say_moves_no_cursor() {
    let lives = [Life {
        name: "w1".into(),
        release: "6.1\u{1b}[2J",
        firmware: "\u{9b}31m\u{202e}x\ny",
        boots: 2,
        died: 1,
        each_ms: DAY,
    }];
    let told = told_of(&lives, &Asked::default(), WIDE);
    let is_plain = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
    assert!(told.chars().all(is_plain), "{told:?}");
    assert!(told.contains("6.1\\u{1b}[2J"), "{told}");
}

#[test]
fn nothing_known_is_said() {
    let asked = Asked {
        node: NodeName::new("w9"),
        fingerprint: None,
    };
    assert_eq!(
        told_of(&[], &asked, WIDE),
        "nothing is known of w9\n0 deaths in all; no node was seen alive\n"
    );
    let asked = Asked {
        fingerprint: Some("3f2a".into()),
        node: None,
    };
    let told = told_of(&reporters_fleet(), &asked, Look::default());
    let said = "never died\nnone of them is of what was asked for\n";
    assert!(told.ends_with(said), "{told}");
}

#[test]
fn a_narrow_terminal_gets_lines_that_fit_and_a_wide_look_all_of_it() {
    let mut lives = reporters_fleet();
    for life in &mut lives {
        life.firmware = "American Megatrends International, LLC. 3.10 01/15/2024";
    }
    let told = |columns, wide| {
        let columns = Some(columns);
        let look = Look {
            wide,
            columns,
            ..Look::default()
        };
        told_of(&lives, &Asked::default(), look)
    };
    for columns in [76, 80, 100, 132] {
        let text = told(columns, false);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(
            longest <= Some(columns),
            "{longest:?} of {columns}:\n{text}"
        );
        assert!(text.contains("4 of 5") && text.contains("16.0"), "{text}");
    }
    assert!(
        told(80, false).contains("American …"),
        "{}",
        told(80, false)
    );
    let row = format!("{OLD}   {}  virtio_net", lives[0].firmware);
    assert!(told(80, true).contains(&row), "{}", told(80, true));
}

#[test]
fn durations_and_times_are_read_as_people_write_them() {
    let now: jiff::Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
    for (text, wanted) in [
        ("30d", 30 * 86_400),
        ("12h", 12 * 3_600),
        ("2w", 14 * 86_400),
        ("1d 6h", 30 * 3_600),
        ("1.5h", 5_400),
        ("90s", 90),
        ("2026-11-22", 10 * 3_600),
        ("2026-11-21T10:00", 86_400),
        ("2026-11-21 10:00:30", 86_370),
        ("2026-11-21T10:00Z", 86_400),
        ("2026-11-21T10:00:00.5+02:00", 93_599),
    ] {
        assert_eq!(seconds(text, now).expect("a time"), wanted, "{text}");
    }
    for text in [
        "",
        "30",
        "-30d",
        "0d",
        "1mo",
        "1y",
        "soon",
        "30d ago",
        "2026-11-23",
        "2026-13-01",
        "11-01",
    ] {
        let error = seconds(text, now).expect_err(text).to_string();
        assert!(
            error.contains("30d, 12h") && error.contains("2026-11-01"),
            "{text}: {error}"
        );
    }
}
