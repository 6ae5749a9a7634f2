//! Network namespaces: what they are called, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agent_core::drops::Owner;

/// Where `ip netns` and network plugins keep names.
const NAMED: &str = "/run/netns";

/// What is known of one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Its name in `/run/netns`, or `host`.
    pub name: Option<String>,
    /// The oldest process in it.
    pub owner: Option<Owner>,
}

impl Namespace {
    /// What to call it: a pod or container before a name, a name before a process.
    pub fn label(&self) -> Option<String> {
        let owner = self.owner.as_ref();
        let of_container = owner.filter(|owner| owner.pod.is_some() || owner.container.is_some());
        match (&self.name, of_container.or(owner)) {
            (Some(name), _) if name == HOST => Some(name.clone()),
            (Some(name), _) if of_container.is_none() => Some(name.clone()),
            (_, owner) => owner.map(Owner::name),
        }
    }
}

/// What the first namespace is called.
pub const HOST: &str = "host";

/// All that are known. Those that are gone are remembered.
#[derive(Debug)]
pub struct Namespaces {
    proc: PathBuf,
    named: PathBuf,
    found: BTreeMap<u32, Namespace>,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::below(Path::new("/proc"), Path::new(NAMED))
    }
}

impl Namespaces {
    fn below(proc: &Path, named: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            named: named.to_owned(),
            found: BTreeMap::new(),
        }
    }

    /// Looks at every process and every name.
    pub fn scan(&mut self) {
        let mut pids: Vec<u32> = entries(&self.proc)
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect();
        // The oldest of a container is what it was started for.
        pids.sort_unstable();
        let mut met = BTreeSet::new();
        let mut host = None;
        for pid in pids {
            let of = self.proc.join(pid.to_string());
            let Ok(link) = fs::read_link(of.join("ns/net")) else {
                continue;
            };
            let Some(number) = number(&link.to_string_lossy()) else {
                continue;
            };
            if met.contains(&number) {
                continue;
            }
            let text = |file| fs::read_to_string(of.join(file)).unwrap_or_default();
            let comm = text("comm").trim_end().to_owned();
            // Threads of the kernel are in its first namespace, and have no command line.
            // Who does not see them sees process 1.
            let is_kernels = text("cmdline").is_empty();
            if pid == 1 || pid == 2 && is_kernels {
                host = Some(number);
            }
            if !is_kernels {
                met.insert(number);
                let namespace = self.found.entry(number).or_default();
                namespace.owner = Some(Owner::of(pid, comm, &text("cgroup")));
            }
        }
        if let Some(host) = host {
            let namespace = self.found.entry(host).or_default();
            namespace.name = Some(HOST.to_owned());
        }
        for path in entries(&self.named) {
            let (Ok(file), Some(name)) = (fs::metadata(&path), path.file_name()) else {
                continue;
            };
            let namespace = self.found.entry(file.ino() as u32).or_default();
            let name = name.to_string_lossy().into_owned();
            namespace.name.get_or_insert(name);
        }
    }

    /// What is known of this one.
    pub fn get(&self, number: u32) -> Option<&Namespace> {
        self.found.get(&number)
    }

    /// The number of one that is called so; a number is one already.
    pub fn number(&self, name: &str) -> Option<u32> {
        if let Some(number) = name.parse().ok().or_else(|| number(name)) {
            return Some(number);
        }
        let called = |namespace: &Namespace| namespace.name.as_deref() == Some(name);
        let found = self.found.iter().find(|(_, namespace)| called(namespace));
        found.map(|(number, _)| *number)
    }

    /// The names of all that have one.
    pub fn names(&self) -> Vec<&str> {
        let names = self.found.values().filter_map(|n| n.name.as_deref());
        names.collect()
    }

    /// The device of this index in a namespace in which a process is: seen from outside,
    /// the kernel tells the names of those that have addresses.
    pub fn device(&self, number: u32, index: u32) -> Option<String> {
        let pid = self.get(number)?.owner.as_ref()?.pid;
        let net = self.proc.join(pid.to_string()).join("net");
        let text = |file| fs::read_to_string(net.join(file)).unwrap_or_default();
        in_igmp(&text("igmp"), index).or_else(|| in_inet6(&text("if_inet6"), index))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.flatten().map(|entry| entry.path())
}

/// The number of the one that this process is in.
pub fn own() -> Option<u32> {
    let file = fs::metadata("/proc/self/ns/net").ok()?;
    u32::try_from(file.ino()).ok()
}

/// Out of `net:[4026531840]`.
fn number(link: &str) -> Option<u32> {
    let rest = link.strip_prefix("net:[")?;
    rest.strip_suffix(']')?.parse().ok()
}

/// `1       lo        :     1      V3`, and lines of groups that begin with a tab.
fn in_igmp(text: &str, index: u32) -> Option<String> {
    text.lines()
        .find_map(|line| {
            let (number, rest) = line.split_once('\t')?;
            (number.parse() == Ok(index)).then(|| rest.split([' ', ':']).next())?
        })
        .map(ToOwned::to_owned)
}

/// `00000000000000000000000000000001 01 80 10 80       lo`
fn in_inet6(text: &str, index: u32) -> Option<String> {
    text.lines()
        .find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let number = u32::from_str_radix(words.nth(1)?, 16).ok()?;
            (number == index).then(|| words.last())?
        })
        .map(ToOwned::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use super::*;

    const IN: &str = "LASTGASP_TEST_IN_NETNS";

    /// Runs the test of this name once more, alone, in a network namespace that is made for
    /// it, with two ends of a veth, `up0` and `out0`; there it runs `test`.
    pub(crate) fn with_a_veth(name: &str, test: impl FnOnce()) {
        if std::env::var_os(IN).is_some() {
            let link = ["link", "add", "up0", "type", "veth", "peer", "name", "out0"];
            let made = Command::new("ip").args(link).status();
            if made.is_ok_and(|status| status.success()) {
                test();
            } else {
                println!("SKIPPED: no iproute2, or a kernel without veth");
            }
            return;
        }
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: a network namespace needs root");
            return;
        }
        let again = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().expect("the test's own program"))
            .args(["--exact", name, "--nocapture"])
            .env(IN, "1")
            .output();
        let Ok(again) = again else {
            println!("SKIPPED: no unshare (util-linux)");
            return;
        };
        let said = String::from_utf8_lossy(&again.stdout);
        println!("{said}{}", String::from_utf8_lossy(&again.stderr));
        assert!(again.status.success() && said.contains("1 passed"));
    }

    #[test]
    fn own_namespace_is_found_by_its_processes() {
        let mut all = Namespaces::default();
        all.scan();
        let link = fs::read_link("/proc/self/ns/net").expect("procfs");
        let own = number(&link.to_string_lossy()).expect("a number");
        assert_eq!(super::own(), Some(own));
        let namespace = all.get(own).expect("this process is in it");
        assert!(namespace.owner.is_some() && namespace.label().is_some());
        assert_eq!(all.number(&own.to_string()), Some(own));
        assert_eq!(all.number(&format!("net:[{own}]")), Some(own));
        assert_eq!(all.number("no such name"), None);
    }

    #[test]
    fn devices_are_read_from_what_the_kernel_tells() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    12\teth0      :     2      V3\n";
        assert_eq!(in_igmp(igmp, 12).as_deref(), Some("eth0"));
        assert_eq!(in_igmp(igmp, 1).as_deref(), Some("lo"));
        assert_eq!(in_igmp(igmp, 2), None);
        let inet6 = "fe800000000000000000000000000001 0a 40 20 80     eth1\n";
        assert_eq!(in_inet6(inet6, 10).as_deref(), Some("eth1"));
        assert_eq!(in_inet6("broken\n", 10), None);
    }

    #[test]
    fn what_people_know_it_by_comes_first() {
        let id = "0123456789abcdef".repeat(4);
        let owner = |cgroup: &str| Some(Owner::of(7, "app".to_owned(), cgroup));
        let name = |name: &str| Some(name.to_owned());
        for (name, owner, label) in [
            (name(HOST), owner("0::/docker/x\n"), Some("host")),
            (
                name("cni-1"),
                owner(&format!("0::/docker/{id}\n")),
                Some("container/0123456789ab (app)"),
            ),
            (name("blue"), owner("0::/\n"), Some("blue")),
            (None, owner("0::/\n"), Some("app (7)")),
            (None, None, None),
        ] {
            let namespace = Namespace { name, owner };
            assert_eq!(namespace.label().as_deref(), label);
        }
    }
}
