//! Who asked for a restart, as it is told, stored and explained.

use agent_common::asked::{Asked, Asker, CGROUP_MAX, Process, Told, means};
use agent_common::{COMM_MAX, asked::COMMAND_MAX};

use super::*;

fn text_of<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn process(pid: u32, comm: &str) -> Process {
    Process {
        pid,
        comm: text_of::<COMM_MAX>(comm),
    }
}

fn asker(pid: u32, comm: &str, cgroups: [&str; 3]) -> Asker {
    Asker {
        process: process(pid, comm),
        uid: 0,
        parents: [process(1, "systemd"), process(0, ""), process(0, "")],
        cgroups: cgroups.map(text_of::<CGROUP_MAX>),
    }
}

#[test]
fn the_pod_that_had_a_node_restarted_is_named_across_kills() {
    let (_dir, dir) = place();
    let annotator = Annotator::start(&dir);
    let mut node = Node::new(&dir, 1);
    node.hello(&annotator);
    annotator.knows_nodes(1);
    annotator.kill();

    // This process knows the node's pods out of the store alone.
    let annotator = Annotator::start(&dir);
    let pod = [
        "cri-containerd-1.scope",
        "kubepods-poduid_web_1.slice",
        "kubepods.slice",
    ];
    let asked = Asked {
        by: asker(1, "systemd-shutdow", ["init.scope", "", ""]),
        told: Told {
            at_ns: 99 * SECOND,
            means: means::SIGNAL,
            number: 39,
            command_len: 0,
            by: asker(812, "kured", pod),
            command: [0; COMMAND_MAX],
        },
    };
    node.send(&annotator, 100, Kind::Word, |draft| {
        draft.word(&WordParts {
            notice: Notice::Restart,
            context: Context::Process,
            cpu: 0,
            pid: 1,
            at_ns: 100 * SECOND,
            held_ns: 0,
            held_at: HoldPoint::Order,
            holds_expired: 0,
            asked: Some(&asked),
            packet: None,
            comm: b"systemd-shutdow",
            line: b"",
        });
    });
    let reason = "Restart without an orderly stop, asked for by systemd-shutdow (pid 1, uid 0), \
                  told to by SIGRTMIN+5 from kured (pid 812, uid 0) in pod shop/web-1";
    let dead = annotator.death("the pods to be written", |d| d["pods_annotated"] == 2);
    assert_eq!(dead["reason"], reason);
    assert_eq!(dead["retry"], "Unknown");
    annotator.kill();

    let annotator = Annotator::start(&dir);
    let again = annotator.death("the death to be there still", |d| d["pods_annotated"] == 2);
    assert_eq!(again["reason"], reason);
    assert_eq!(again["death"]["word"], dead["death"]["word"]);
    let answer = text(&annotator.ask(&["why", "w01"]));
    for part in [
        reason,
        "asked by",
        "started by systemd (pid 1)",
        "kubepods.slice/kubepods-poduid_web_1.slice/cri-containerd-1.scope",
        "retry     unknown",
    ] {
        assert!(answer.contains(part), "no {part:?} in\n{answer}");
    }
    annotator.stop();
}
