//! Who had a node stopped in an orderly way.

use agent_core::engine::{Engine, Limits, Output, stopped};
use agent_core::model::{Asker, Body, Means, PodRef, Process, Stop, Told};

use super::*;

fn told() -> Told {
    Told {
        means: Means::Signal(39),
        by: Some(Asker {
            process: Process {
                pid: 812,
                comm: "kured".to_owned(),
            },
            uid: 0,
            parents: Vec::new(),
            cgroups: Vec::new(),
            pod: Some(PodRef {
                namespace: "kube-system".to_owned(),
                name: "kured-\u{1b}x".to_owned(),
                uid: "u".to_owned(),
            }),
        }),
        before_ns: 3_000_000_000,
        command: String::new(),
    }
}

fn stops(story: Vec<Input>) -> Vec<Stop> {
    let mut engine = Engine::new(Limits::default());
    let outputs = story
        .into_iter()
        .flat_map(|input| engine.step(Timestamp(1_700_000_000_000), input));
    outputs
        .filter_map(|output| match output {
            Output::Stopped(stop) => Some(*stop),
            _ => None,
        })
        .collect()
}

#[test]
fn a_goodbye_tells_who_had_the_boot_that_runs_stopped() {
    let goodbye = |boot, mono_s, told| gasp(boot, mono_s, Body::Goodbye(told));
    let by = || Some(Box::new(told()));
    let beat = |boot, mono_s| gasp(boot, mono_s, Body::Heartbeat);
    assert_eq!(stops(vec![beat(1, 1), goodbye(1, 2, None)]), []);

    let found = stops(vec![beat(1, 1), goodbye(1, 2, by())]);
    let [stop] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(stop.told, told());
    assert_eq!(
        stopped(stop),
        "stopped in an orderly way, told to by SIGRTMIN+5 from kured (pid 812, uid 0) in pod \
         kube-system/kured-\\u{1b}x"
    );
    let late = vec![beat(1, 1), beat(2, 1), goodbye(1, 2, by())];
    assert_eq!(stops(late), [], "of a boot that another one has followed");
    let old = vec![beat(1, 9), goodbye(1, 2, by())];
    assert_eq!(stops(old), [], "the boot has spoken since");
}
