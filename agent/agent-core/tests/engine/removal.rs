//! Node objects that are deleted: who, why, and how the machine was.

use agent_core::engine::{removed, shows_more};
use agent_core::model::{
    Channel, Deleted, Machine, Manager, NodeEvent, NodeObject, Removal, Taint,
};

use super::*;

fn deleted(object: NodeObject, events: Vec<NodeEvent>) -> Input {
    gone(None, object, events)
}

fn gone(seen: Option<Timestamp>, object: NodeObject, events: Vec<NodeEvent>) -> Input {
    Input::NodeDeleted(Box::new(Deleted {
        node: node(0),
        at: Timestamp(1_700_000_000_000),
        seen,
        object: NodeObject {
            uid: "0a1b2c3d-4e5f".to_owned(),
            ..object
        },
        events,
    }))
}

fn taint(key: &str) -> NodeObject {
    NodeObject {
        taints: vec![
            Taint {
                key: "node.kubernetes.io/unschedulable".to_owned(),
                value: String::new(),
            },
            Taint {
                key: key.to_owned(),
                value: "1700000000".to_owned(),
            },
        ],
        managers: vec![Manager {
            name: "kubelet".to_owned(),
            at: Some(Timestamp(1_700_000_000_000)),
        }],
        ..NodeObject::default()
    }
}

fn event(reason: &str, by: &str, note: &str) -> NodeEvent {
    NodeEvent {
        at: Some(Timestamp(1_700_000_000_000)),
        reason: reason.to_owned(),
        by: by.to_owned(),
        note: note.to_owned(),
    }
}

fn record(engine: &mut Engine, input: Input) -> Removal {
    let outputs = engine.step(Timestamp(1_700_000_100_000), input);
    let record = outputs.iter().find_map(|output| match output {
        Output::Removed(removal) => Some(removal.as_ref().clone()),
        _ => None,
    });
    record.expect("each has a record")
}

#[test]
fn who_and_why_are_read_from_what_is_left() {
    let manager = |name: &str| NodeObject {
        managers: vec![
            Manager {
                name: "kubelet".to_owned(),
                at: Some(Timestamp(1_800_000_000_000)),
            },
            Manager {
                name: "before-first-apply".to_owned(),
                at: Some(Timestamp(1_800_000_000_000)),
            },
            Manager {
                name: name.to_owned(),
                at: Some(Timestamp(1_700_000_000_000)),
            },
        ],
        ..NodeObject::default()
    };
    let karpenter = NodeObject {
        finalizers: vec!["karpenter.sh/termination".to_owned()],
        deletion: Some(Timestamp(1)),
        ..NodeObject::default()
    };
    let gone = "Deleting node w00 because it does not exist in the cloud provider";
    let nobody = "nobody who left a mark on the object; the API server's audit log knows";
    let rows: Vec<(NodeObject, Vec<NodeEvent>, &str, Option<&str>)> = vec![
        (NodeObject::default(), vec![], nobody, None),
        (
            taint("ToBeDeletedByClusterAutoscaler"),
            vec![],
            "the cluster autoscaler, which scaled down (taint ToBeDeletedByClusterAutoscaler)",
            None,
        ),
        (
            NodeObject::default(),
            vec![event("ScaleDown", "cluster-autoscaler", "node removed")],
            "the cluster autoscaler, which scaled down (event ScaleDown by cluster-autoscaler: \
             node removed)",
            None,
        ),
        (
            taint("karpenter.sh/disrupted"),
            vec![event("SpotInterrupted", "karpenter", "2 minutes")],
            "Karpenter (taint karpenter.sh/disrupted)",
            Some("a spot interruption (event SpotInterrupted by karpenter: 2 minutes)"),
        ),
        (
            karpenter,
            vec![],
            "Karpenter, by itself or asked by somebody (finalizer karpenter.sh/termination)",
            None,
        ),
        (
            taint("aws-node-termination-handler/spot-itn"),
            vec![event(
                "DeletingNode",
                "cloud-node-lifecycle-controller",
                gone,
            )],
            "the cloud controller, because the machine does not exist there any more (event \
             DeletingNode by cloud-node-lifecycle-controller: Deleting node w00 because it does \
             not exist in the cloud provider)",
            Some("a spot interruption (taint aws-node-termination-handler/spot-itn)"),
        ),
        (
            taint("cloud.google.com/impending-node-termination"),
            vec![],
            nobody,
            Some(
                "a termination or preemption announced by the cloud (taint \
                 cloud.google.com/impending-node-termination)",
            ),
        ),
        (
            // On machines that are stopped and there.
            taint("node.cloudprovider.kubernetes.io/shutdown"),
            vec![],
            nobody,
            Some(
                "a machine that the cloud had shut down (taint \
                 node.cloudprovider.kubernetes.io/shutdown)",
            ),
        ),
        (
            manager("kubectl-cordon"),
            vec![],
            "a person or a tool: kubectl-cordon changed the object last, at \
             2023-11-14T22:13:20.000Z",
            None,
        ),
    ];
    for (object, events, who, why) in rows {
        let mut engine = Engine::new(Limits::default());
        let record = record(&mut engine, deleted(object, events));
        assert_eq!((record.who.as_str(), record.why.as_deref()), (who, why));
        assert_eq!(record.machine, Machine::Unheard);
        assert_eq!(record.name, "w00-removed-0a1b2c3d");
    }
}

#[test]
fn how_the_machine_was_stands_in_the_record() {
    let ca = || deleted(taint("ToBeDeletedByClusterAutoscaler"), vec![]);
    let after = |story: Vec<Input>| {
        let mut engine = Engine::new(Limits::default());
        tell(&mut engine, story);
        let record = record(&mut engine, ca());
        (record.machine.clone(), removed(&record))
    };
    let beat = || gasp(1, 1, Body::Heartbeat);
    let (machine, text) = after(vec![beat()]);
    assert!(matches!(machine, Machine::Lives { heard: Some(_) }));
    assert_eq!(
        text,
        "Node object deleted while its machine lives, by the cluster autoscaler, which scaled \
         down (taint ToBeDeletedByClusterAutoscaler)"
    );
    let quiet = std::iter::repeat_n(Input::Tick, 15);
    let (machine, text) = after([vec![beat()], quiet.collect()].concat());
    assert!(matches!(machine, Machine::Silent { .. }));
    assert!(
        text.starts_with("Node object deleted while silent since 2023-11-14T22:13:3"),
        "{text}"
    );
    let (machine, _) = after(vec![beat(), gasp(1, 2, Body::Goodbye(None))]);
    assert_eq!(machine, Machine::Stopped);
    let (machine, text) = after(vec![gasp(1, 100, word(Notice::Panic, 100))]);
    assert!(matches!(machine, Machine::Dead(_)));
    assert!(text.contains("after its death w00-01010101, by "), "{text}");
}

#[test]
fn a_removal_is_evidence_of_the_death_that_was_or_that_comes() {
    let panic = || gasp(1, 100, word(Notice::Panic, 100));
    let ca = || deleted(taint("ToBeDeletedByClusterAutoscaler"), vec![]);
    for story in [
        vec![panic(), ca()],
        vec![gasp(1, 99, Body::Heartbeat), ca(), panic()],
    ] {
        let mut engine = Engine::new(Limits::default());
        let told = tell(&mut engine, story);
        let death = engine.deaths().next().expect("a death");
        let said: Vec<&str> = death
            .evidence
            .iter()
            .filter(|e| e.channel == Channel::NodeObject)
            .map(|e| e.text.as_str())
            .collect();
        assert_eq!(said.len(), 1, "{told:?}");
        assert_eq!(death.proof, Proof::P2, "nobody died of it");
    }
    let mut engine = Engine::new(Limits::default());
    assert_eq!(
        tell(&mut engine, vec![panic(), ca()])[3..],
        ["Dead P2", "UpdateRecord"],
        "and the NodeDeath says so"
    );
}

#[test]
fn nobody_waits_for_a_node_whose_object_is_gone() {
    let mut engine = Engine::new(Limits::default());
    let quiet = || vec![Input::Tick; 15];
    tell(
        &mut engine,
        [vec![gasp(1, 1, Body::Heartbeat)], quiet()].concat(),
    );
    assert_eq!(engine.stats().silent, 1);
    let out = engine.step(
        Timestamp(1_700_000_100_000),
        deleted(NodeObject::default(), vec![]),
    );
    assert!(out.contains(&Output::SilenceOver(node(0))), "{out:?}");
    tell(&mut engine, quiet());
    assert_eq!(engine.stats().silent, 0);
    // Its machine lives, and falls silent later.
    engine.step(Timestamp(1_700_000_200_000), gasp(1, 2, Body::Heartbeat));
    tell(&mut engine, quiet());
    assert_eq!(engine.stats().silent, 1);
}

#[test]
fn what_went_while_no_annotator_ran_is_told_as_that() {
    let seen = Timestamp(1_699_999_000_000);
    let unseen = |object, events| gone(Some(seen), object, events);
    let audit = "somebody unknown, as no annotator ran then; the API server's audit log knows";
    let karpenter = NodeObject {
        finalizers: vec!["karpenter.sh/termination".to_owned()],
        ..NodeObject::default()
    };
    let cordoned = NodeObject {
        managers: vec![Manager {
            name: "kubectl-cordon".to_owned(),
            at: Some(Timestamp(1_699_998_000_000)),
        }],
        ..NodeObject::default()
    };
    let rows: Vec<(NodeObject, Vec<NodeEvent>, &str)> = vec![
        (NodeObject::default(), vec![], audit),
        (
            cordoned,
            vec![],
            "somebody unknown, as no annotator ran then; as far as it was seen, kubectl-cordon \
             changed the object last, at 2023-11-14T21:40:00.000Z",
        ),
        (
            taint("ToBeDeletedByClusterAutoscaler"),
            vec![],
            "the cluster autoscaler, which scaled down (taint ToBeDeletedByClusterAutoscaler)",
        ),
        (
            NodeObject::default(),
            vec![event("DeletingNode", "cloud", "gone")],
            "the cloud controller, because the machine does not exist there any more (event \
             DeletingNode by cloud: gone)",
        ),
        (
            karpenter,
            vec![],
            "Karpenter, by itself or asked by somebody (finalizer karpenter.sh/termination)",
        ),
    ];
    for (object, events, who) in rows {
        let mut engine = Engine::new(Limits::default());
        let record = record(&mut engine, unseen(object, events));
        assert_eq!((record.who.as_str(), record.seen), (who, Some(seen)));
    }

    // Its machine may have died long ago, unless it speaks to this annotator.
    let mut engine = Engine::new(Limits::default());
    engine.restore([known(node(0), BootId([1; 16]))], []);
    let removal = record(&mut engine, unseen(NodeObject::default(), vec![]));
    assert_eq!(removal.machine, Machine::Unknown);
    assert_eq!(
        removed(&removal),
        format!(
            "Node object deleted between 2023-11-14T21:56:40.000Z and 2023-11-14T22:13:20.000Z; \
             its machine was not heard since, by {audit}"
        )
    );
    let mut engine = Engine::new(Limits::default());
    engine.restore([known(node(0), BootId([1; 16]))], []);
    tell(&mut engine, vec![gasp(1, 1, Body::Heartbeat)]);
    let removal = record(&mut engine, unseen(NodeObject::default(), vec![]));
    assert!(matches!(removal.machine, Machine::Lives { heard: Some(_) }));
}

#[test]
fn what_keeps_a_node_up_to_date_shows_no_more_of_it() {
    let managed = |manager: &str, at| NodeObject {
        managers: vec![Manager {
            name: manager.to_owned(),
            at: Some(Timestamp(at)),
        }],
        ..NodeObject::default()
    };
    let empty = NodeObject::default();
    for (before, now, more) in [
        (&empty, &empty, false),
        (&managed("kubelet", 1), &managed("kubelet", 2), false),
        (&empty, &managed("kubelet", 2), false),
        (&empty, &managed("kubectl-cordon", 2), true),
        (
            &managed("kubectl-cordon", 1),
            &managed("kubectl-cordon", 2),
            true,
        ),
        (&empty, &taint("karpenter.sh/disrupted"), true),
        (&taint("karpenter.sh/disrupted"), &empty, true),
    ] {
        assert_eq!(shows_more(before, now), more, "{before:?} {now:?}");
    }
}
