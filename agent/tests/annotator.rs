//! The real annotator, told by real sealed datagrams over loopback, killed
//! and started again, and asked by the real commands.

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use agent_core::model::{
    BootId, Channel, Context, HoldPoint, Inventory, NodeName, Notice, PodRef, Record, RecordKind,
};
use lastgasp::gasp::protocol::{Identity, Key, KeyRing, Kind, MAX_FRAME, Sealer, Stamp, WordParts};
use lastgasp::gasp::receipt::{self, RecordId};
use serde_json::Value;

#[path = "annotator/asked.rs"]
mod asked;
#[path = "annotator/fleet.rs"]
mod fleet;
#[path = "annotator/mitigate.rs"]
mod mitigate;
#[path = "annotator/netconsole.rs"]
mod netconsole;
#[path = "annotator/replay.rs"]
mod replay;

const BIN: &str = env!("CARGO_BIN_EXE_lastgasp");
const SECOND: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `ready` gives something.
fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Annotator {
    child: Child,
    listen: String,
    netconsole: String,
    url: String,
}

impl Annotator {
    fn start(dir: &Path) -> Self {
        let log = dir.join("log");
        let child = Command::new(BIN)
            .args(["annotator", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--netconsole-listen", "127.0.0.1:0"])
            .arg("--store")
            .arg(dir.join("store.db"))
            .arg("--key-file")
            .arg(dir.join("key"))
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the binary runs");
        let fields = eventually("the annotator to be ready", || {
            let text = std::fs::read_to_string(&log).ok()?;
            let lines = text
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok());
            let mut ready = lines.filter(|l| l["fields"]["message"] == "ready");
            Some(ready.next()?["fields"].clone())
        });
        let text = |name: &str| fields[name].as_str().expect("an address").to_owned();
        Self {
            child,
            listen: text("listen"),
            netconsole: text("netconsole"),
            url: format!("http://{}", text("http")),
        }
    }

    fn ask(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BIN);
        let asked = command.args(args).args(["--annotator", &self.url]);
        asked.output().expect("the binary runs")
    }

    /// The only death there is, once `ready` holds of it.
    fn death(&self, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let output = self.ask(&["deaths", "-o", "json"]);
            let deaths: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
            assert!(deaths.len() <= 1, "one boot dies once: {deaths:?}");
            deaths.into_iter().next().filter(|death| ready(death))
        })
    }

    /// Waits until the receiver has taken so many datagrams.
    fn settled(&self, accepted: u64) {
        let line = "lastgasp_collector_datagrams_total{result=\"accepted\"}";
        self.reaches(line, accepted);
    }

    /// Waits until the store has so many nodes: the loop counts them behind the commit.
    fn knows_nodes(&self, count: u64) {
        self.reaches("lastgasp_nodes", count);
    }

    fn reaches(&self, metric: &str, least: u64) {
        eventually(metric, || {
            let text = get(&self.url, "/metrics");
            let value = text.lines().find_map(|line| line.strip_prefix(metric))?;
            (value.trim().parse::<u64>().ok()? >= least).then_some(())
        });
    }

    fn kill(self) {
        drop(self);
    }

    fn stop(mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "an orderly end: {status}");
    }
}

/// Nothing is left of it, also where a test fails.
impl Drop for Annotator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(url: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let host = url.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(host).expect("it listens");
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text
}

/// One boot of a node, as its agent speaks.
struct Node {
    sealer: Sealer,
    socket: UdpSocket,
    seq: u64,
}

impl Node {
    fn new(dir: &Path, boot: u8) -> Self {
        let identity = Identity {
            node: NodeName::new("w01").expect("a DNS label"),
            node_uid: None,
            boot: BootId([boot; 16]),
            session: u64::from(boot),
            key_id: 0,
        };
        let key = Key::read(&dir.join("key")).expect("the key is there");
        Self {
            sealer: Sealer::new(&identity, &key),
            socket: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            seq: 0,
        }
    }

    fn send(
        &mut self,
        to: &Annotator,
        mono_s: u64,
        kind: Kind,
        fill: impl Fn(&mut lastgasp::gasp::protocol::Draft<'_>),
    ) -> Vec<u8> {
        self.seq += 1;
        let mut buf = [0; MAX_FRAME];
        let mut draft = self.sealer.begin(&mut buf, kind);
        fill(&mut draft);
        let length = draft.seal(Stamp {
            seq: self.seq,
            mono_ns: mono_s * SECOND,
            wall_ns: (1_700_000_000 + mono_s) * SECOND,
            fragment: (0, 1),
            below_udp: false,
        });
        let frame = buf[..length].to_vec();
        self.resend(to, &frame);
        frame
    }

    fn resend(&self, to: &Annotator, frame: &[u8]) {
        self.socket
            .send_to(frame, &to.listen)
            .expect("loopback takes it");
    }

    fn hello(&mut self, to: &Annotator) -> Vec<u8> {
        let pod = |name: &str| PodRef {
            namespace: "shop".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
        };
        let inventory = Inventory {
            kernel_release: "6.12.48-cloud".into(),
            pods: vec![pod("web-1"), pod("web-2")],
            ..Inventory::default()
        };
        let json = serde_json::to_vec(&inventory).expect("serializes");
        self.send(to, 1, Kind::Hello, |draft| {
            assert_eq!(draft.bytes(&json), json.len(), "fits one frame");
        })
    }

    /// Words from an interrupt, which nobody survives, or from a process.
    /// A death that comes long after the others.
    fn loses_init(&mut self, to: &Annotator) {
        let line = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b";
        self.word(to, (Notice::Panic, Context::Process), 900, line);
    }

    fn word(
        &mut self,
        to: &Annotator,
        (notice, context): (Notice, Context),
        at_s: u64,
        line: &str,
    ) -> Vec<u8> {
        self.send(to, at_s, Kind::Word, |draft| {
            draft.word(&WordParts {
                notice,
                context,
                cpu: 1,
                pid: 7,
                at_ns: at_s * SECOND,
                held_ns: 0,
                held_at: HoldPoint::None,
                holds_expired: 0,
                asked: None,
                packet: None,
                comm: b"swapper/1",
                line: line.as_bytes(),
            });
        })
    }

    fn lines(&mut self, to: &Annotator, at_s: u64, lines: &[&str]) {
        self.send(to, at_s, Kind::Lines, |draft| {
            for (i, line) in lines.iter().enumerate() {
                draft.line(i as u64, at_s * SECOND + i as u64, 1, 1, 0, line.as_bytes());
            }
        });
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("key");
    std::fs::write(&key, [7; 32]).expect("writable");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("ours");
    let path = dir.path().to_owned();
    (dir, path)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn a_death_is_told_written_and_explained_across_a_kill() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let nothing = annotator.ask(&["why", "shop/web-1"]);
    assert_eq!(nothing.status.code(), Some(3), "{nothing:?}");

    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    node.send(&annotator, 99, Kind::Heartbeat, |_| {});
    node.word(
        &annotator,
        (Notice::Oops, Context::Softirq),
        100,
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    );
    node.lines(
        &annotator,
        100,
        &[
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "#PF: supervisor write access in kernel mode",
            "Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 6.12.48-cloud #1",
            "RIP: 0010:boom_timer+0x9/0x20 [boom]",
            "\u{1b}[31mnot a colour",
            "Kernel panic - not syncing: Fatal exception in interrupt",
        ],
    );
    let panic = node.word(
        &annotator,
        (Notice::Panic, Context::Softirq),
        100,
        "Kernel panic - not syncing: Fatal exception in interrupt",
    );
    let dead = annotator.death("the pods to be written", |d| d["pods_annotated"] == 2);
    assert_eq!(dead["death"]["state"], "Dead");
    assert_eq!(dead["death"]["proof"], "P2");
    assert_eq!(dead["retry"], "Safe");

    annotator.kill();
    let annotator = Annotator::start(&dir);
    // A copy that a new process cannot know from a new frame.
    node.resend(&annotator, &panic);
    annotator.settled(1);
    let again = annotator.death("the death to be there still", |d| d["pods_annotated"] == 2);
    assert_eq!(again["death"]["state"], "Dead");

    for asked in ["shop/web-1", "web-2", "pod/web-1", "node/w01", "w01"] {
        let answer = annotator.ask(&["why", asked]);
        assert!(answer.status.success(), "{asked}: {answer:?}");
        let answer = text(&answer);
        for part in [
            "Kernel panic: ",
            "6.12.48-cloud",
            "retry     safe",
            "swapper/1",
            "Last lines",
        ] {
            assert!(answer.contains(part), "{asked}: no {part:?} in\n{answer}");
        }
        assert!(
            !answer.contains('\u{1b}'),
            "kernel text is escaped: {answer}"
        );
    }
    let yaml = text(&annotator.ask(&["why", "w01", "-o", "yaml"]));
    assert!(
        yaml.contains("reason: 'Kernel panic: ") || yaml.contains("reason: "),
        "{yaml}"
    );

    let mut next = Node::new(&dir, 2);
    next.send(&annotator, 5, Kind::Heartbeat, |_| {});
    annotator.death("the return to be seen", |d| {
        d["death"]["state"] == "Returned"
    });
    assert!(get(&annotator.url, "/readyz").starts_with("HTTP/1.0 200"));
    annotator.stop();

    let store = dir.join("store.db");
    let table = Command::new(BIN)
        .args(["deaths", "-o", "wide", "--store"])
        .arg(&store)
        .output()
        .expect("the binary runs");
    let table = text(&table);
    for part in ["Returned", "P4", "w01-01010101", "Kernel panic: "] {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
}

#[test]
fn a_record_has_its_receipt_when_it_is_stored_and_is_the_reason_of_one_death() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    Node::new(&dir, 1).hello(&annotator);
    let mut node = Node::new(&dir, 2);
    node.hello(&annotator);
    annotator.death("the end of the first boot", |d| {
        d["reason_code"] == "Unknown"
    });

    let left = |channel, source: &str, text: &str| Record {
        boot: Some(BootId([1; 16])),
        ..Record::new(channel, source.into(), RecordKind::Panic, text.into())
    };
    // What somebody put into the directory of crash kernels.
    let other = left(Channel::Vmcore, "/var/crash/1/dmesg.txt", "all is well\n");
    let record = left(
        Channel::Pstore,
        "erst",
        "<0>[    9.000000] Kernel panic - not syncing: sysrq triggered crash\n",
    );
    let own = Identity {
        node: NodeName::new("w01").expect("a DNS label"),
        node_uid: None,
        boot: BootId([2; 16]),
        session: 2,
        key_id: 0,
    };
    let keys = KeyRing::pre_shared(Key::read(&dir.join("key")).expect("the key"));
    let mut sent = |annotator: &Annotator, record: &Record| {
        let json = serde_json::to_vec(record).expect("serializes");
        node.send(annotator, 5, Kind::Record, |draft| {
            assert_eq!(draft.bytes(&json), json.len(), "fits one frame");
        });
        let mut datagram = [0; MAX_FRAME];
        node.socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        let length = node.socket.recv(&mut datagram).expect("a receipt");
        let id = receipt::read(&datagram[..length], &own, &keys);
        assert_eq!(id, Some(RecordId::of(record)));
    };
    sent(&annotator, &other);
    sent(&annotator, &record);
    // What has a receipt outlives the annotator.
    let metrics = get(&annotator.url, "/metrics");
    let dropped = "lastgasp_losses_total{result=\"vmcore_without_crash\"} 1\n";
    assert!(metrics.contains(dropped), "{metrics}");
    annotator.kill();
    let annotator = Annotator::start(&dir);
    let told = |d: &Value| d["reason_code"] == "SysrqCrash" && d["pods_annotated"] == 2;
    let death = annotator.death("the reason", told);
    assert_eq!(death["death"]["proof"], "P4");
    sent(&annotator, &record);
    let again = annotator.death("the same", told);
    assert_eq!(death, again);
    let why = annotator.ask(&["why", "node/w01"]);
    assert!(
        text(&why).contains("sysrq triggered crash"),
        "{}",
        text(&why)
    );
    annotator.stop();
}

#[test]
fn an_oops_that_the_node_survives_reaches_no_pod() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    node.word(
        &annotator,
        (Notice::Oops, Context::Process),
        100,
        "BUG: unable to handle page fault",
    );
    node.send(&annotator, 102, Kind::Survived, |_| {});
    let report = annotator.death("the report", |d| d["death"]["state"] == "Survived");
    assert_eq!(report["death"]["proof"], "P1");
    assert_eq!(report["pods_annotated"], 0);

    // Much later it dies of something else.
    node.loses_init(&annotator);
    let dead = annotator.death("the pods to be written", |d| d["pods_annotated"] == 2);
    assert_eq!(dead["reason_code"], "InitExited", "{dead}");
    annotator.stop();
}

#[test]
fn what_cannot_be_proven_is_counted_and_changes_nothing() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    let (_other, forged_dir) = place();
    std::fs::write(forged_dir.join("key"), [8; 32]).expect("writable");
    let mut forger = Node::new(&forged_dir, 1);
    forger.word(
        &annotator,
        (Notice::Panic, Context::Process),
        100,
        "Kernel panic - not syncing: not at all",
    );
    node.send(&annotator, 101, Kind::Heartbeat, |_| {});
    annotator.settled(2);
    let metrics = get(&annotator.url, "/metrics");
    assert!(
        metrics.contains("lastgasp_collector_datagrams_total{result=\"wrong_key\"} 1"),
        "{metrics}"
    );
    assert_eq!(annotator.ask(&["deaths"]).status.code(), Some(3));
    annotator.stop();
}
