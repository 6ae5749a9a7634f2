//! Whether to run the work again, also where somebody asked for the end.

use agent_core::model::{Asked, Asker, KnownBug, Means, PodRef, Process, Told};

use super::*;

const POD: &str = "kubepods-pod0f6f1a6e_4a2b_4c5e_9d0f_2f1e3d4c5b6a.slice";

fn asker(pid: u32, comm: &str, cgroup: &str) -> Asker {
    Asker {
        process: Process {
            pid,
            comm: comm.into(),
        },
        uid: 0,
        parents: Vec::new(),
        cgroups: vec!["inner.scope".into(), cgroup.into()],
        pod: (cgroup == POD).then(|| PodRef {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "0f6f1a6e-4a2b-4c5e-9d0f-2f1e3d4c5b6a".into(),
        }),
    }
}

fn restart(by: Asker, told: Option<Asker>) -> Body {
    let Body::Word(word) = word(Notice::Restart, 100) else {
        unreachable!("a word")
    };
    let told = told.map(|by| Told {
        means: Means::Signal(39),
        by: Some(by),
        before_ns: SECOND,
        command: String::new(),
    });
    Body::Word(Word {
        asked: Some(Box::new(Asked { by, told })),
        ..word
    })
}

fn death(body: Body) -> Death {
    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![gasp(1, 100, body)]);
    engine.deaths().next().expect("one death").clone()
}

fn bug(id: &str, likely: bool, fixed_in: Option<&str>) -> KnownBug {
    KnownBug {
        id: id.to_owned(),
        title: "it breaks".to_owned(),
        likely,
        fixed_in: fixed_in.map(str::to_owned),
        workaround: None,
        reference: None,
    }
}

#[test]
fn known_bugs_are_named_behind_the_reason_as_soon_as_they_are_likely() {
    let likely = bug("cve-2024-42281", true, Some("6.1.103"));
    let other = bug("cve-2022-50365", true, Some("6.1.2"));
    let possible = bug("gso", false, None);
    for (bugs, ends) in [
        (
            vec![likely.clone()],
            "; known bug cve-2024-42281, fixed in 6.1.103",
        ),
        (vec![possible.clone()], "; may be known bug gso"),
        (
            vec![other, likely.clone(), possible.clone()],
            "; may be one of these known bugs: cve-2022-50365, fixed in 6.1.2; \
             cve-2024-42281, fixed in 6.1.103; gso",
        ),
    ] {
        let mut engine = Engine::new(Limits::default());
        tell(&mut engine, vec![gasp(1, 100, word(Notice::Panic, 100))]);
        let mut say = |known_bugs: Vec<KnownBug>| {
            let mut decoded = decoded(1, ReasonCode::NullPointerDereference);
            if let Input::Decoded { report, .. } = &mut decoded {
                report.known_bugs = known_bugs;
            }
            tell(&mut engine, vec![decoded]);
            reason(engine.deaths().next().expect("one death"))
        };
        let _ = say(vec![]);
        assert!(say(bugs.clone()).ends_with(ends), "{bugs:?}");
        // A log that goes on may no longer be whole; what was known stays.
        assert!(say(vec![possible.clone()]).ends_with(ends), "{bugs:?}");
    }
}

#[test]
fn who_asked_decides_whether_to_run_the_work_again() {
    let init = || asker(1, "systemd", "init.scope");
    let somewhere = Asker {
        cgroups: Vec::new(),
        ..asker(812, "reboot", "")
    };
    for (by, told, advice, reason_ends) in [
        (
            asker(812, "reboot", POD),
            None,
            RetryAdvice::Unknown,
            "asked for by reboot (pid 812, uid 0) in pod shop/web-1",
        ),
        (
            asker(812, "reboot", "user.slice"),
            None,
            RetryAdvice::Safe,
            "asked for by reboot (pid 812, uid 0) of inner.scope",
        ),
        (
            somewhere,
            None,
            RetryAdvice::Unknown,
            "asked for by reboot (pid 812, uid 0)",
        ),
        (
            init(),
            None,
            RetryAdvice::Safe,
            "asked for by systemd (pid 1, uid 0)",
        ),
        (
            init(),
            Some(asker(9, "kured", POD)),
            RetryAdvice::Unknown,
            "told to by SIGRTMIN+5 from kured (pid 9, uid 0) in pod shop/web-1",
        ),
        (
            init(),
            Some(asker(9, "kill", "ssh.service")),
            RetryAdvice::Safe,
            "told to by SIGRTMIN+5 from kill (pid 9, uid 0) of inner.scope",
        ),
    ] {
        let death = death(restart(by, told));
        assert_eq!(retry(&death).advice, advice, "{reason_ends}");
        let reason = reason(&death);
        assert!(reason.starts_with("Restart without an orderly stop"));
        assert!(reason.ends_with(reason_ends), "{reason}");
    }
}

#[test]
fn the_record_says_the_same_after_the_annotator_is_restarted() {
    let before = death(restart(asker(812, "reboot", POD), None));
    let stored = serde_json::to_string(&before).expect("JSON");
    let read: Death = serde_json::from_str(&stored).expect("a death");
    let mut engine = Engine::new(Limits::default());
    engine.restore([], [read]);
    // The same word comes once more, from before its pod had a name.
    let mut unnamed = asker(812, "reboot", POD);
    unnamed.pod = None;
    tell(&mut engine, vec![gasp(1, 100, restart(unnamed, None))]);
    let after = engine.deaths().next().expect("one death");
    assert_eq!(reason(after), reason(&before));
    assert_eq!(after.word, before.word);
}

#[test]
fn hostile_names_are_escaped_and_bounded() {
    let comm = "\u{1b}[2J\u{202e}evil";
    let mut by = asker(7, comm, &"\u{1b}".repeat(96));
    by.cgroups[0] = "\u{1b}]0;x".repeat(90);
    let death = death(restart(by, None));
    for text in annotations(&death, &Keys::default()).values() {
        assert!(text.len() <= VALUE_MAX);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }
}

#[test]
fn retry_advice_follows_the_cause() {
    use DeathState::{Dead, Survived};
    use ReasonCode::{
        HardLockup, KernelBug, MachineCheck, OutOfMemory, Restart, SoftLockup, SysrqCrash,
    };

    let mut engine = Engine::new(Limits::default());
    tell(&mut engine, vec![gasp(1, 100, word(Notice::Panic, 100))]);
    let death = engine.deaths().next().expect("one death").clone();
    let with = |code, context, state| {
        let mut death: Death = death.clone();
        death.state = state;
        if let (Some(report), Some(word)) = (&mut death.report, &mut death.word) {
            report.code = code;
            word.context = context;
        }
        retry(&death).advice
    };
    for (code, context, state, want) in [
        (MachineCheck, Context::Process, Dead, RetryAdvice::Safe),
        // Nobody knows who asked, or it was no process.
        (Restart, Context::Process, Dead, RetryAdvice::Unknown),
        (SysrqCrash, Context::Process, Dead, RetryAdvice::Unknown),
        (SysrqCrash, Context::Hardirq, Dead, RetryAdvice::Safe),
        (KernelBug, Context::Softirq, Dead, RetryAdvice::Safe),
        (KernelBug, Context::Process, Dead, RetryAdvice::Unknown),
        (KernelBug, Context::Unknown, Dead, RetryAdvice::Unknown),
        (OutOfMemory, Context::Hardirq, Dead, RetryAdvice::Unknown),
        (SoftLockup, Context::Hardirq, Dead, RetryAdvice::Unknown),
        (HardLockup, Context::Hardirq, Dead, RetryAdvice::Unknown),
        (MachineCheck, Context::Nmi, Survived, RetryAdvice::Unknown),
    ] {
        assert_eq!(
            with(code, context, state),
            want,
            "{code:?} {context:?} {state:?}"
        );
    }
}
