//! What recurs, from datagrams to the page: by HTTP, and from the file after.

use super::*;

const TELLS: &[&str] = &[
    "kernel BUG at net/core/skbuff.c:4230!",
    "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.12.48-cloud #1",
    "RIP: 0010:skb_segment+0x2b2/0x930",
    "Call Trace:",
    " <IRQ>",
    " tcp_gso_segment+0x13a/0x160",
    " inet_gso_segment+0x34/0xf0",
    " </IRQ>",
    "Kernel panic - not syncing: Fatal exception in interrupt",
];

#[test]
fn deaths_that_recur_are_counted_with_the_nodes_that_live() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let nothing = annotator.ask(&["fleet"]);
    assert_eq!(nothing.status.code(), Some(3), "{nothing:?}");

    for boot in 1..=2 {
        let mut node = Node::new(&dir, boot);
        node.hello(&annotator);
        node.lines(&annotator, 100, TELLS);
        let panic = (Notice::Panic, Context::Softirq);
        node.word(&annotator, panic, 100, TELLS[TELLS.len() - 1]);
    }
    let mut lives = Node::new(&dir, 3);
    lives.hello(&annotator);
    let fleet = eventually("both deaths with their fingerprint", || {
        let asked = annotator.ask(&["fleet", "-o", "json"]);
        let fleet: Value = serde_json::from_slice(&asked.stdout).ok()?;
        let done = fleet["deaths"] == 2 && fleet["groups"][0]["deaths"] == 2;
        done.then_some(fleet)
    });
    let group = &fleet["groups"][0];
    assert_eq!(group["code"], "KernelBug");
    assert_eq!(group["kernels"][0]["release"], "6.12.48-cloud");
    assert_eq!(fleet["nodes"], 1);

    let fingerprint = group["fingerprint"].as_str().expect("one");
    let why = text(&annotator.ask(&["why", "node/w01"]));
    let recurs = "second death of this fingerprint on this node in ";
    assert!(why.contains(recurs), "{why}");
    let next = format!("lastgasp fleet --fingerprint {fingerprint}\n");
    assert!(why.contains(&next), "{why}");
    let deaths = text(&annotator.ask(&["deaths", "-o", "wide"]));
    assert_eq!(deaths.matches(fingerprint).count(), 2, "{deaths}");
    for (args, code) in [
        (vec!["fleet", "--fingerprint", &fingerprint[..6]], 0),
        (vec!["fleet", "--fingerprint", "kernelbug"], 0),
        (vec!["fleet", "--fingerprint", "none"], 3),
        (vec!["fleet", "--since", "2020-01-01"], 0),
        (vec!["fleet", "--node", "w01", "--since", "1h"], 0),
        (vec!["fleet", "--node", "w02"], 3),
        (vec!["fleet", "--node", "no node"], 1),
        (vec!["fleet", "--since", "soon"], 1),
    ] {
        let asked = annotator.ask(&args);
        assert_eq!(asked.status.code(), Some(code), "{args:?}: {asked:?}");
    }
    let by_http = text(&annotator.ask(&["fleet", "-o", "wide"]));
    annotator.stop();

    let store = dir.join("store.db");
    let from_file = Command::new(BIN)
        .args(["fleet", "-o", "wide", "--store"])
        .arg(&store)
        .output()
        .expect("the binary runs");
    assert_eq!(text(&from_file), by_http);
    assert!(
        by_http.contains("2 of 2 deaths on 6.12.48-cloud; no other kernel was seen alive"),
        "{by_http}"
    );
}
