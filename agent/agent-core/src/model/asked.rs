//! Who asked for an end on purpose, as far as the kernel knew.

use serde::{Deserialize, Serialize};

use super::{BootId, NodeName, PodRef, Timestamp};

/// Longest uid of a pod that is looked for, in bytes. Mostly it is a UUID; that of
/// a pod from a file is a hash.
const POD_UID_MAX: usize = 64;

/// `pid` of the thread that starts all other threads of the kernel.
const KTHREADD: u32 = 2;

/// Digits of a container's id.
const CONTAINER_ID: usize = 64;

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked the kernel.
    pub by: Asker,
    /// Who had told that one, if it acts for others and anybody was seen to.
    #[serde(default)]
    pub told: Option<Told>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, as the machine counts.
    pub pid: u32,
    /// Its name (`comm` of its first thread). Any bytes, with invalid UTF-8 replaced.
    pub comm: String,
}

/// A process and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Itself.
    pub process: Process,
    /// Its user id.
    pub uid: u32,
    /// Who started it, who started that one, and so on. Bounded.
    #[serde(default)]
    pub parents: Vec<Process>,
    /// Its cgroup's name, then those around it. Bounded; empty where not known.
    #[serde(default)]
    pub cgroups: Vec<String>,
    /// The pod that it belongs to, where its name is known.
    #[serde(default)]
    pub pod: Option<PodRef>,
}

/// Somebody told a service manager, or the kernel by sysrq.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// By which means.
    pub means: Means,
    /// Who did; absent where it was no process: the kernel by itself, a key.
    #[serde(default)]
    pub by: Option<Asker>,
    /// How long before the order, in nanoseconds.
    pub before_ns: u64,
    /// The command line, cut; empty for other means.
    #[serde(default)]
    pub command: String,
}

/// A boot whose agent was stopped in an orderly way, shortly after somebody had told
/// PID 1 to stop the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The node.
    pub node: NodeName,
    /// The boot.
    pub boot: BootId,
    /// When its goodbye came.
    pub at: Timestamp,
    /// Who told; its time is before the goodbye.
    pub told: Told,
}

/// How somebody told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Means {
    /// This signal to PID 1: what follows is its consequence.
    Signal(u8),
    /// A command that asks for it was started shortly before: probably that.
    Command,
    /// This key of sysrq.
    Sysrq(u8),
}

impl Means {
    /// What has this number on the wire, with its own number.
    pub fn from_wire(means: u8, number: u8) -> Option<Self> {
        match means {
            1 => Some(Self::Signal(number)),
            2 => Some(Self::Command),
            3 => Some(Self::Sysrq(number)),
            _ => None,
        }
    }
}

impl Asked {
    /// Where it began: who told, else who asked.
    pub fn origin(&self) -> Option<&Asker> {
        match &self.told {
            Some(told) => told.by.as_ref(),
            None => Some(&self.by),
        }
    }

    /// Everybody who is named.
    pub fn askers_mut(&mut self) -> impl Iterator<Item = &mut Asker> {
        let told = self.told.iter_mut().filter_map(|told| told.by.as_mut());
        std::iter::once(&mut self.by).chain(told)
    }
}

impl Asker {
    /// The end of its cgroup's path; empty where not known.
    pub fn cgroup(&self) -> String {
        let names: Vec<&str> = self.cgroups.iter().rev().map(String::as_str).collect();
        names.join("/")
    }

    /// Whether it is known to be of the machine: PID 1, a kernel thread, or in a
    /// cgroup that is neither a pod's nor a container's. Only a few cgroups are told,
    /// and a pod's may be around those; a cgroup v1 is not told at all.
    pub fn is_of_the_machine(&self) -> bool {
        let kernels = self.parents.first().is_some_and(|p| p.pid == KTHREADD);
        let hosts = !self.cgroups.is_empty()
            && self.pod_uid().is_none()
            && !self.cgroups.iter().any(|name| has_container_id(name));
        self.process.pid == 1 || kernels || hosts
    }

    /// The uid of the pod that it belongs to, by its cgroups' names. The outermost
    /// counts: inside a container anybody may give names.
    pub fn pod_uid(&self) -> Option<String> {
        pod_uid_of(&self.cgroups)
    }
}

/// The pod whose cgroup is the outermost of these.
pub(crate) fn pod_uid_of(cgroups: &[String]) -> Option<String> {
    cgroups.iter().rev().find_map(|name| pod_uid(name))
}

/// The pod whose cgroup has this name: `pod<uid>`, or with systemd
/// `kubepods-burstable-pod<uid>.slice`, where `_` stands for `-`.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (parents, uid) = slice.rsplit_once("-pod")?;
            parents.contains("kubepods").then_some(uid)?
        }
        None => name.strip_prefix("pod")?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let fits = (8..=POD_UID_MAX).contains(&uid.len()) && uid.bytes().all(plain);
    fits.then(|| uid.replace('_', "-"))
}

/// Whether a cgroup has the name of a container, as all runtimes give it: 64 hex
/// digits among other words.
fn has_container_id(name: &str) -> bool {
    container_id(name).is_some()
}

fn container_id(name: &str) -> Option<&str> {
    let mut words = name.split(|c: char| !c.is_ascii_hexdigit());
    words.find(|word| word.len() >= CONTAINER_ID)
}

/// The id of the container whose cgroup is the innermost of these.
pub(crate) fn container_of(cgroups: &[String]) -> Option<String> {
    let id = cgroups.iter().find_map(|name| container_id(name));
    id.map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Asker, Process, pod_uid};

    #[test]
    fn who_is_of_the_machine_is_told_by_its_cgroups() {
        let id = "0f6f1a6e4a2b4c5e9d0f2f1e3d4c5b6a".repeat(2);
        let container = format!("cri-containerd-{id}.scope");
        let docker = ["app", id.as_str()];
        let process = |pid| Process {
            pid,
            comm: "reboot".to_owned(),
        };
        for (pid, parent, cgroups, expected) in [
            (1, 0, &[][..], true),
            (99, 2, &[], true),
            (812, 1, &[], false),
            (
                812,
                1,
                &["session-3.scope", "user-0.slice", "user.slice"],
                true,
            ),
            (812, 1, &["kubelet.service", "system.slice"], true),
            // A service manager in a container; the pod's is one further out.
            (812, 1, &["cron.service", "system.slice", &container], false),
            (812, 1, &docker, false),
        ] {
            let asker = Asker {
                process: process(pid),
                uid: 0,
                parents: vec![process(parent)],
                cgroups: cgroups.iter().map(|&name| name.to_owned()).collect(),
                pod: None,
            };
            assert_eq!(asker.is_of_the_machine(), expected, "{asker:?}");
        }
    }

    #[test]
    fn a_pod_is_known_by_its_cgroup() {
        let uid = "0f6f1a6e-4a2b-4c5e-9d0f-2f1e3d4c5b6a";
        let escaped = uid.replace('-', "_");
        for (name, expected) in [
            (format!("kubepods-burstable-pod{escaped}.slice"), Some(uid)),
            (format!("kubepods-pod{escaped}.slice"), Some(uid)),
            (
                format!("kubelet-kubepods-besteffort-pod{escaped}.slice"),
                Some(uid),
            ),
            (format!("pod{uid}"), Some(uid)),
            // From a file on the node.
            (
                "pod3b1f8f5a9f2f4f0d8c7b6a5948372615".to_owned(),
                Some("3b1f8f5a9f2f4f0d8c7b6a5948372615"),
            ),
            (format!("cri-containerd-{escaped}.scope"), None),
            (format!("user-pod{escaped}.slice"), None),
            ("podman-1234.scope".to_owned(), None),
            ("pod\u{1b}[31m12345678".to_owned(), None),
            ("system.slice".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), expected, "{name}");
        }
    }
}
