//! Who asked for an end, in words.

use std::fmt::Write;

use super::text::escaped;
use crate::model::{Asked, Asker, Means, Stop, Told};

/// `SIGRTMIN` as the C library of service managers counts.
const SIGRTMIN: u8 = 34;

/// Longest line on a stop, in bytes.
const TEXT_MAX: usize = 1_024;

/// `asked for by reboot (pid 812, uid 0) in pod shop/web-1`. Not escaped yet.
pub(super) fn asked_text(asked: &Asked) -> String {
    let mut text = format!("asked for by {}", asker_text(&asked.by));
    if let Some(told) = &asked.told {
        let _ = write!(text, ", {}", told_text(told));
    }
    text
}

/// `reboot (pid 812, uid 0) in pod shop/web-1`, or `of session-3.scope`.
pub fn asker_text(asker: &Asker) -> String {
    process_text(&asker.process.comm, asker)
}

fn process_text(name: &str, asker: &Asker) -> String {
    let mut text = format!("{name} (pid {}, uid {})", asker.process.pid, asker.uid);
    let own = asker.cgroups.first().filter(|_| asker.process.pid != 1);
    // Writing to a String cannot fail.
    let _ = match (&asker.pod, asker.pod_uid(), own) {
        (Some(pod), ..) => write!(text, " in pod {}/{}", pod.namespace, pod.name),
        (None, Some(uid), _) => write!(text, " in the pod with uid {uid}"),
        (None, None, Some(own)) => write!(text, " of {own}"),
        (None, None, None) => Ok(()),
    };
    text
}

/// `told to by SIGRTMIN+5 from kured (pid 9, uid 0) in pod kube-system/kured-x`.
pub fn told_text(told: &Told) -> String {
    let from = |who: &Option<Asker>, nobody: &str| {
        who.as_ref().map_or(nobody.to_owned(), |asker| {
            format!("from {}", asker_text(asker))
        })
    };
    match told.means {
        Means::Signal(number) => {
            let signal = signal_name(number);
            format!("told to by {signal} {}", from(&told.by, "from the kernel"))
        }
        Means::Sysrq(key) => {
            let key = char::from(key);
            format!("told to by sysrq {key} {}", from(&told.by, "on a console"))
        }
        Means::Command => {
            let who = told.by.as_ref();
            let who = who.map_or_else(String::new, |asker| {
                let name = format!("`{}`", told.command);
                process_text(&name, asker)
            });
            let seconds = told.before_ns / 1_000_000_000;
            format!("probably told to by {who}, started {seconds} s before")
        }
    }
}

/// One line for people on an orderly stop.
pub fn stopped(stop: &Stop) -> String {
    let text = format!("stopped in an orderly way, {}", told_text(&stop.told));
    escaped(&text, TEXT_MAX)
}

fn signal_name(number: u8) -> String {
    match number {
        2 => "SIGINT".to_owned(),
        10 => "SIGUSR1".to_owned(),
        12 => "SIGUSR2".to_owned(),
        15 => "SIGTERM".to_owned(),
        30 => "SIGPWR".to_owned(),
        SIGRTMIN.. => format!("SIGRTMIN+{}", number - SIGRTMIN),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PodRef, Process};

    fn asker(comm: &str, pid: u32, cgroup: &str) -> Asker {
        Asker {
            process: Process {
                pid,
                comm: comm.to_owned(),
            },
            uid: 0,
            parents: Vec::new(),
            cgroups: vec![cgroup.to_owned()],
            pod: None,
        }
    }

    fn asked(by: Asker, told: Option<Told>) -> String {
        asked_text(&Asked { by, told })
    }

    #[test]
    fn an_asker_is_named_with_where_it_belongs() {
        let uid = "0f6f1a6e-4a2b-4c5e-9d0f-2f1e3d4c5b6a";
        let in_pod = asker("reboot", 812, &format!("pod{uid}"));
        let named = Asker {
            pod: Some(PodRef {
                namespace: "shop".to_owned(),
                name: "web-1".to_owned(),
                uid: uid.to_owned(),
            }),
            ..in_pod.clone()
        };
        for (by, expected) in [
            (
                named,
                "asked for by reboot (pid 812, uid 0) in pod shop/web-1".to_owned(),
            ),
            (
                in_pod,
                format!("asked for by reboot (pid 812, uid 0) in the pod with uid {uid}"),
            ),
            (
                asker("reboot", 812, "session-3.scope"),
                "asked for by reboot (pid 812, uid 0) of session-3.scope".to_owned(),
            ),
            (
                asker("systemd-shutdow", 1, "init.scope"),
                "asked for by systemd-shutdow (pid 1, uid 0)".to_owned(),
            ),
        ] {
            assert_eq!(asked(by, None), expected);
        }
    }

    #[test]
    fn who_told_is_said_with_how_sure_that_is() {
        let told = |means, by: Option<Asker>, command: &str| {
            Some(Told {
                means,
                by,
                before_ns: 3_500_000_000,
                command: command.to_owned(),
            })
        };
        let kured = || Some(asker("kured", 9, "kured.service"));
        for (told, expected) in [
            (
                told(Means::Signal(39), kured(), ""),
                "told to by SIGRTMIN+5 from kured (pid 9, uid 0) of kured.service",
            ),
            (
                told(Means::Signal(2), None, ""),
                "told to by SIGINT from the kernel",
            ),
            (
                told(
                    Means::Command,
                    Some(asker("systemctl", 812, "session-3.scope")),
                    "systemctl reboot",
                ),
                "probably told to by `systemctl reboot` (pid 812, uid 0) of session-3.scope, started 3 s before",
            ),
            (
                told(Means::Sysrq(b'o'), None, ""),
                "told to by sysrq o on a console",
            ),
        ] {
            let text = asked(asker("systemd-shutdow", 1, ""), told);
            assert_eq!(
                text,
                format!("asked for by systemd-shutdow (pid 1, uid 0), {expected}")
            );
        }
    }
}
