//! Somebody on the wire who says by netconsole that a node died.

use super::*;

/// Sends from this address, as often as given.
fn spoof(to: &Annotator, from: &str, datagrams: &[&str]) {
    let socket = UdpSocket::bind((from, 0)).expect("a loopback address");
    for datagram in datagrams {
        socket
            .send_to(datagram.as_bytes(), &to.netconsole)
            .expect("loopback takes it");
    }
}

/// Waits until so many datagrams came to this.
fn counted(annotator: &Annotator, outcome: &str, count: u64) {
    let line = format!("lastgasp_netconsole_datagrams_total{{result=\"{outcome}\"}} {count}\n");
    eventually(&line, || {
        get(&annotator.url, "/metrics")
            .contains(&line)
            .then_some(())
    });
}

#[test]
fn a_spoofer_gets_a_record_without_proof_and_nothing_done() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    annotator.knows_nodes(1);
    let panic = "0,900,5000000,-;Kernel panic - not syncing: spoofed\n";

    // From an address that is no node's, or in another node's name.
    spoof(&annotator, "127.0.0.2", &[panic; 50]);
    counted(&annotator, "unknown_source", 50);
    let elsewhere = "0,901,5000001,-;Kernel panic - not syncing: spoofed\n node=w02\n";
    spoof(&annotator, "127.0.0.1", &[elsewhere]);
    counted(&annotator, "wrong_source", 1);

    // From the node's own address: the most that it can get.
    spoof(&annotator, "127.0.0.1", &[panic; 50]);
    counted(&annotator, "accepted", 1);
    counted(&annotator, "duplicate", 49);
    let said = annotator.death("the record", |d| d["death"]["proof"] == "P0");
    assert_eq!(said["death"]["state"], "Suspected");
    assert_eq!(said["pods_annotated"], 0);
    // Nothing of what came before it.
    let evidence = said["death"]["evidence"].as_array();
    assert_eq!(evidence.map(Vec::len), Some(1), "{said}");
    assert_eq!(
        said["reason"],
        "Unauthenticated text: Kernel panic: spoofed"
    );
    let why = text(&annotator.ask(&["why", "node/w01"]));
    assert!(why.contains("P0, unauthenticated text"), "{why}");
    let metrics = get(&annotator.url, "/metrics");
    assert!(!metrics.contains("lastgasp_actions_total{"), "{metrics}");
    assert!(
        !metrics.contains("lastgasp_pod_patches_total{"),
        "{metrics}"
    );

    // The node dies indeed, of something else.
    node.loses_init(&annotator);
    let dead = annotator.death("the pods to be written", |d| d["pods_annotated"] == 2);
    assert_eq!(dead["reason_code"], "InitExited");
    spoof(
        &annotator,
        "127.0.0.1",
        &["0,902,95000000,-;BUG: kernel NULL pointer dereference, address: 0\n"],
    );
    let dead = annotator.death("both in one timeline", |d| {
        let evidence = d["death"]["evidence"].as_array();
        let own = |e: &&Value| e["channel"] == "Netconsole";
        evidence.is_some_and(|all| all.iter().filter(own).count() == 2)
    });
    assert_eq!(dead["death"]["proof"], "P2");
    assert_eq!(dead["reason_code"], "InitExited");
    annotator.stop();
}

/// The last lines of the only node, with their times; `?` where nothing is proven.
fn last_lines(annotator: &Annotator) -> Vec<String> {
    let answer = annotator.ask(&["why", "node/w01", "-o", "json", "--lines", "100"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    let lines = answer["lines"].as_array().cloned().unwrap_or_default();
    let brief = |line: &Value| {
        let mark = if line["unproven"] == true { "?" } else { "" };
        format!("{mark}{}", line["text"].as_str().unwrap_or_default())
    };
    lines.iter().map(brief).collect()
}

#[test]
fn its_lines_around_a_death_stand_among_those_that_are_proven() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    node.send(&annotator, 99, Kind::Heartbeat, |_| {});
    annotator.knows_nodes(1);
    annotator.settled(2);
    let panic = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b";
    let record = |seq: u64, text: &str| format!("0,{seq},{},-;{text}\n", 100_000_000 + seq);
    let said = |all: &[(u64, &str)]| -> Vec<String> {
        all.iter().map(|(seq, text)| record(*seq, text)).collect()
    };
    let send = |all: &[String]| {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        spoof(&annotator, "127.0.0.1", &all);
    };

    // Only netconsole speaks.
    send(&said(&[(7, "before"), (8, panic), (9, "Call Trace:")]));
    let alone = ["?before", &format!("?{panic}"), "?Call Trace:"];
    eventually("its lines", || {
        (last_lines(&annotator) == alone).then_some(())
    });
    let why = text(&annotator.ask(&["why", "node/w01"]));
    let marked = format!("] (netconsole, unproven) {panic}\n");
    assert!(why.contains(&marked), "{why}");

    // The same comes by the gasp, and each of the two has a line more.
    node.lines(&annotator, 100, &[panic, "Call Trace:", "Rebooting"]);
    node.loses_init(&annotator);
    send(&said(&[(9, "Call Trace:"), (10, " panic+0x1/0x2")]));
    let both = [
        "?before",
        panic,
        "Call Trace:",
        "? panic+0x1/0x2",
        "Rebooting",
    ];
    eventually("both in one", || {
        (last_lines(&annotator) == both).then_some(())
    });

    // What names a boot that nobody knows is of none, nor what another clock shows.
    let other = format!("0,11,100000011,-;other\n boot={}\n", BootId([9; 16]));
    let young = "[    5.000000] Kernel panic - not syncing: young\n".to_owned();
    send(&[other, young]);
    let lost = "\"netconsole_lines_of_no_known_boot\"} ";
    eventually(lost, || {
        get(&annotator.url, "/metrics").contains(lost).then_some(())
    });
    assert_eq!(last_lines(&annotator), both);
    annotator.stop();
}
