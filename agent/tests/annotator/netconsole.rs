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
