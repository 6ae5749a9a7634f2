//! Whose a network namespace is, by the cgroup of a process in it.

use serde::Serialize;

use crate::model::{container_of, pod_uid_of};

/// A process, and what it belongs to.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The uid of its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The id of its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The unit of the service manager that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl Owner {
    /// What a process with this `/proc/PID/cgroup` belongs to.
    pub fn of(pid: u32, comm: String, cgroups: &str) -> Self {
        let mut owner = Self {
            pid,
            comm,
            ..Self::default()
        };
        for line in cgroups.lines() {
            let Some(path) = line.splitn(3, ':').nth(2) else {
                continue;
            };
            let names: Vec<String> = path.rsplit('/').map(ToOwned::to_owned).collect();
            owner.pod = owner.pod.or_else(|| pod_uid_of(&names));
            owner.container = owner.container.or_else(|| container_of(&names));
            let unit = |name: &&String| {
                let kind = name.rsplit_once('.').map(|(_, kind)| kind);
                matches!(kind, Some("service" | "scope"))
            };
            owner.unit = owner.unit.or_else(|| names.iter().find(unit).cloned());
        }
        owner
    }

    /// What to call it: the pod before the container before the unit before the process.
    pub fn name(&self) -> String {
        let of = |what: &str, name: &str| format!("{what}/{name} ({})", self.comm);
        match self {
            Self { pod: Some(pod), .. } => of("pod", pod),
            // As many digits as the tools of container runtimes show.
            Self {
                container: Some(id),
                ..
            } => of("container", id.get(..12).unwrap_or(id)),
            Self {
                unit: Some(unit), ..
            } => of("unit", unit),
            _ => format!("{} ({})", self.comm, self.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_innermost_that_has_a_name() {
        let id = "0123456789abcdef".repeat(4);
        let uid = "0f6f1a6e-4a2b-4c5e-9d0f-2f1e3d4c5b6a";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        for (cgroups, name) in [
            (
                format!("0::/kubepods.slice/{slice}/cri-containerd-{id}.scope\n"),
                format!("pod/{uid} (app)"),
            ),
            (
                format!("11:cpu:/kubepods/pod{uid}/{id}\n1:name=systemd:/\n"),
                format!("pod/{uid} (app)"),
            ),
            (
                format!("0::/docker/{id}\n"),
                "container/0123456789ab (app)".to_owned(),
            ),
            (
                "0::/system.slice/sshd.service\n".to_owned(),
                "unit/sshd.service (app)".to_owned(),
            ),
            ("0::/\n".to_owned(), "app (7)".to_owned()),
            (String::new(), "app (7)".to_owned()),
        ] {
            assert_eq!(Owner::of(7, "app".to_owned(), &cgroups).name(), name);
        }
    }
}
