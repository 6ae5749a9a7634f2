//! Somebody on the wire who has kept what a node said, and says it again.

use super::*;

/// A boot that dies; gives all that was on the wire.
fn dies(dir: &Path, annotator: &Annotator) -> (Node, Vec<Vec<u8>>) {
    let mut node = Node::new(dir, 1);
    let mut kept = vec![node.hello(annotator)];
    for at_s in [2, 3] {
        kept.push(node.send(annotator, at_s, Kind::Heartbeat, |_| {}));
    }
    annotator.knows_nodes(1);
    kept.push(node.word(
        annotator,
        (Notice::Panic, Context::Process),
        100,
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
    ));
    annotator.death("the pods to be written", |d| d["pods_annotated"] == 2);
    (node, kept)
}

/// What was done so far, and what is known of the one death.
fn state(annotator: &Annotator) -> (Vec<String>, Value) {
    let metrics = get(&annotator.url, "/metrics");
    let done = metrics
        .lines()
        .filter(|line| line.starts_with("lastgasp_actions_total"));
    let done = done.map(str::to_owned).collect();
    (done, annotator.death("the death", |_| true))
}

#[test]
fn who_says_again_what_a_node_said_is_counted_and_changes_nothing() {
    const AGAIN: usize = 50;
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let (attacker, kept) = dies(&dir, &annotator);
    let mut next = Node::new(&dir, 2);
    next.hello(&annotator);
    annotator.death("the next boot", |d| d["death"]["state"] == "Returned");
    annotator.settled(kept.len() as u64 + 1);
    let before = state(&annotator);

    for _ in 0..AGAIN {
        for frame in &kept {
            attacker.resend(&annotator, frame);
        }
    }
    let line = "lastgasp_collector_datagrams_total{result=\"duplicate\"}";
    annotator.reaches(line, (AGAIN * kept.len()) as u64);
    assert_eq!(state(&annotator), before);

    // Another process has forgotten which numbers it had seen, not what they said.
    annotator.stop();
    let annotator = Annotator::start(&dir);
    let (_, known) = state(&annotator);
    assert_eq!(known, before.1);
    for frame in &kept {
        attacker.resend(&annotator, frame);
    }
    annotator.settled(kept.len() as u64);
    next.send(&annotator, 20, Kind::Heartbeat, |_| {});
    annotator.settled(kept.len() as u64 + 1);
    assert_eq!(state(&annotator), (Vec::new(), known));
    annotator.stop();
}
