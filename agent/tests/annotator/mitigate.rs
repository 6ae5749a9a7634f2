//! A node that died of packets that GRO made: its next boot is advised, and what that does
//! is shown.

use agent_core::model::{Mitigation, MitigationCause, MitigationMode, MitigationState, Switched};
use lastgasp::gasp::advice::{self, Advice};

use super::*;

const RELEASE: &str = "6.1.1-1.el9.elrepo.x86_64";

impl Node {
    fn hello_with(&mut self, to: &Annotator, release: &str, mitigations: Vec<Mitigation>) {
        let inventory = Inventory {
            kernel_release: release.to_owned(),
            mitigations,
            ..Inventory::default()
        };
        let json = serde_json::to_vec(&inventory).expect("serializes");
        self.send(to, 1, Kind::Hello, |draft| {
            assert_eq!(draft.bytes(&json), json.len(), "fits one frame");
        });
    }

    fn dies_of_it(&mut self, to: &Annotator, word: (Notice, Context)) {
        self.word(to, word, 100, "kernel BUG at net/core/skbuff.c:4230!");
        self.lines(
            to,
            100,
            &[
                "------------[ cut here ]------------",
                "kernel BUG at net/core/skbuff.c:4230!",
                "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
                "CPU: 3 PID: 29 Comm: ksoftirqd/3 Not tainted 6.1.1-1.el9.elrepo.x86_64 #1",
                "RIP: 0010:skb_segment+0x2b2/0x930",
                "Call Trace:",
                " <TASK>",
                " tcp_gso_segment+0x13a/0x160",
                " inet_gso_segment+0x34/0xf0",
                " skb_mac_gso_segment+0x16d/0x530",
                " </TASK>",
                "---[ end trace 0000000000000000 ]---",
                "Kernel panic - not syncing: Fatal exception in interrupt",
            ],
        );
    }

    /// What comes back within a second, if anything does.
    fn advice(&self, own: &Identity, keys: &KeyRing) -> Option<Advice> {
        let patience = Some(Duration::from_secs(1));
        self.socket.set_read_timeout(patience).expect("a timeout");
        let mut buffer = [0; MAX_FRAME];
        let length = self.socket.recv(&mut buffer).ok()?;
        let read = advice::read(&buffer[..length], own, keys);
        Some(read.expect("nothing but advice for this agent"))
    }
}

fn own(boot: u8) -> Identity {
    Identity {
        node: NodeName::new("w01").expect("a DNS label"),
        node_uid: None,
        boot: BootId([boot; 16]),
        session: u64::from(boot),
        key_id: 0,
    }
}

fn mitigation(state: MitigationState) -> Mitigation {
    Mitigation {
        action: "gso-off".into(),
        mode: MitigationMode::Apply,
        state,
        ..Mitigation::default()
    }
}

#[test]
fn the_next_boot_on_the_kernel_that_died_is_advised_until_it_has_a_reason() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let keys = KeyRing::pre_shared(Key::read(&dir.join("key")).expect("the key is there"));
    let mut node = Node::new(&dir, 1);
    node.hello_with(
        &annotator,
        RELEASE,
        vec![mitigation(MitigationState::Ready)],
    );
    assert_eq!(node.advice(&own(1), &keys), None, "nobody died");
    node.dies_of_it(&annotator, (Notice::Oops, Context::Softirq));
    annotator.death("the known bug", |death| {
        let bugs = death["death"]["report"]["known_bugs"].as_array();
        bugs.is_some_and(|bugs| bugs.iter().any(|bug| bug["likely"] == true))
    });

    // Of another kernel, of one that is not to look, and of the boot itself: none.
    for (boot, release, said) in [
        (
            2,
            "6.1.103-1.el9.elrepo.x86_64",
            vec![mitigation(MitigationState::Ready)],
        ),
        (3, RELEASE, vec![]),
        (4, RELEASE, vec![mitigation(MitigationState::Undone)]),
    ] {
        let mut node = Node::new(&dir, boot);
        node.hello_with(&annotator, release, said);
        assert_eq!(node.advice(&own(boot), &keys), None, "boot {boot}");
    }
    // The same boot asks again until it has one.
    let mut node = Node::new(&dir, 5);
    for _ in 0..2 {
        node.hello_with(
            &annotator,
            RELEASE,
            vec![mitigation(MitigationState::Ready)],
        );
        let advice = node.advice(&own(5), &keys).expect("advice");
        assert_eq!(advice.action, "gso-off");
        assert_eq!(advice.death, "w01-01010101");
        let listed = ["cve-2024-42281", "cve-2022-50365", "cve-2022-49872"];
        let known = listed.contains(&advice.bug.as_str()) || advice.bug.starts_with("gso-");
        assert!(known, "{advice:?}");
    }
    let mut applied = mitigation(MitigationState::Applied);
    applied.devices = vec![Switched {
        device: "eth0".into(),
        features: vec!["rx-gro".into(), "tx-generic-segmentation".into()],
    }];
    applied.cause = Some(MitigationCause {
        death: Some("w01-01010101".into()),
        bug: Some("cve-2024-42281".into()),
        ..MitigationCause::default()
    });
    node.hello_with(&annotator, RELEASE, vec![applied]);
    assert_eq!(node.advice(&own(5), &keys), None, "it has a reason");

    annotator.reaches(
        "lastgasp_mitigations{action=\"gso-off\",state=\"applied\"}",
        1,
    );
    let told = text(&annotator.ask(&["why", "node/w01"]));
    for part in [
        "switched off: GRO, GSO on eth0, as death w01-01010101 on this kernel looks like",
        "applied, as the agent's mode is apply",
        "lastgasp mitigate undo",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let json = annotator.ask(&["why", "node/w01", "-o", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let commands = &json["mitigations"][0]["commands"];
    assert_eq!(commands[0], "ethtool -K eth0 gro on gso on");

    // It is gone, and so is what was said of it.
    node.hello_with(&annotator, RELEASE, vec![]);
    let line = "lastgasp_mitigations{action=\"gso-off\",state=\"applied\"} 0";
    eventually("it to be gone", || {
        get(&annotator.url, "/metrics").contains(line).then_some(())
    });
    let told = text(&annotator.ask(&["why", "node/w01"]));
    assert!(!told.contains("mitigate undo"), "{told}");
    annotator.stop();
}

#[test]
fn the_hello_that_proves_a_death_is_already_advised() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let keys = KeyRing::pre_shared(Key::read(&dir.join("key")).expect("the key is there"));
    let mut node = Node::new(&dir, 1);
    node.hello_with(&annotator, RELEASE, vec![]);
    // In a process it may be survived.
    node.dies_of_it(&annotator, (Notice::Oops, Context::Process));
    annotator.death("not sure yet", |death| {
        let report = &death["death"]["report"];
        death["death"]["state"] == "Suspected" && !report["known_bugs"].is_null()
    });
    let mut node = Node::new(&dir, 2);
    node.hello_with(
        &annotator,
        RELEASE,
        vec![mitigation(MitigationState::Ready)],
    );
    let advice = node.advice(&own(2), &keys).expect("advice");
    assert_eq!(advice.death, "w01-01010101");
    annotator.stop();
}
