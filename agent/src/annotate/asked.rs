//! Whose pod the process belongs to that asked for an end: the node gives uids,
//! its boot's hello has the names. The name is part of the record from then on.

use agent_core::model::{Asker, Body, Gasp, PodRef};

use crate::store::{Change, SeenNode};

/// Those who asked, and belong to a pod whose name is not known yet.
pub(super) fn unnamed(gasp: &mut Gasp) -> Vec<(String, &mut Asker)> {
    let askers: Vec<&mut Asker> = match &mut gasp.body {
        Body::Word(word) => {
            let asked = word.asked.iter_mut();
            asked.flat_map(|asked| asked.askers_mut()).collect()
        }
        Body::Goodbye(Some(told)) => told.by.iter_mut().collect(),
        _ => return Vec::new(),
    };
    askers
        .into_iter()
        .filter_map(|asker| Some((asker.pod_uid()?, asker)))
        .collect()
}

/// The pods of a boot whose hello is not in the store yet.
pub(super) fn fresh_pods<'a>(change: &'a Change, gasp: &Gasp) -> Option<&'a [PodRef]> {
    let of_boot = |seen: &&SeenNode| seen.node == gasp.node && seen.boot == gasp.boot;
    let mut seen = change.nodes.iter().rev().filter(of_boot);
    let inventory = seen.find_map(|seen| seen.inventory.as_ref())?;
    Some(&inventory.pods)
}

/// Gives each its pod.
pub(super) fn name(askers: Vec<(String, &mut Asker)>, pods: &[PodRef]) {
    for (uid, asker) in askers {
        asker.pod = pods.iter().find(|pod| pod.uid == uid).cloned();
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{
        Asked, BootId, Context, HoldPoint, Inventory, NodeName, Notice, Process, Word,
    };

    use super::*;

    const UID: &str = "0f6f1a6e-4a2b-4c5e-9d0f-2f1e3d4c5b6a";

    fn word(cgroup: &str) -> Gasp {
        let by = Asker {
            process: Process {
                pid: 812,
                comm: "reboot".to_owned(),
            },
            uid: 0,
            parents: Vec::new(),
            cgroups: vec!["c.scope".to_owned(), cgroup.to_owned()],
            pod: None,
        };
        Gasp {
            node: NodeName::new("w01").expect("a DNS name"),
            node_uid: None,
            boot: BootId([3; 16]),
            session: 1,
            mono_ns: 1,
            wall_ns: 1,
            body: Body::Word(Word {
                notice: Notice::Restart,
                cpu: 0,
                pid: 812,
                comm: "reboot".to_owned(),
                context: Context::Process,
                line: String::new(),
                at_ns: 1,
                held_ns: 0,
                held_at: HoldPoint::None,
                holds_expired: 0,
                asked: Some(Box::new(Asked { by, told: None })),
                packet: None,
            }),
        }
    }

    #[test]
    fn a_pod_is_named_by_the_hello_of_the_same_boot() {
        let pod = PodRef {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            uid: UID.to_owned(),
        };
        let mut gasp = word(&format!("kubepods-pod{}.slice", UID.replace('-', "_")));
        let seen = |boot, pods: &[PodRef]| SeenNode {
            node: gasp.node.clone(),
            uid: None,
            boot: BootId([boot; 16]),
            inventory: Some(Box::new(Inventory {
                pods: pods.to_vec(),
                ..Inventory::default()
            })),
            stopped: false,
            up_ms: 0,
        };
        let change = Change {
            nodes: vec![seen(3, std::slice::from_ref(&pod)), seen(4, &[])],
            ..Change::default()
        };
        let pods = fresh_pods(&change, &gasp).expect("its hello");
        name(unnamed(&mut gasp), pods);
        let Body::Word(word) = gasp.body else {
            panic!("a word")
        };
        let asked = word.asked.expect("who asked");
        assert_eq!(asked.by.pod, Some(pod));
    }

    #[test]
    fn what_is_no_pods_is_not_looked_for() {
        assert!(unnamed(&mut word("session-3.scope")).is_empty());
    }
}
