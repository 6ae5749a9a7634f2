//! What this boot is made of. Whatever cannot be read is left empty.

use std::fs;
use std::path::Path;

use agent_core::model::{Inventory, Mitigation, PodRef, PreviousBoot};

/// Most pods and modules that are listed; the rest is left out.
const LIST_MAX: usize = 1024;

/// Reads everything. `pod_logs` is the kubelet's `/var/log/pods`; `previous`
/// what [`super::marker`] found, `mitigations` what [`super::mitigate`] does.
pub fn collect(
    pod_logs: &Path,
    probes: Vec<(String, String)>,
    previous: Option<&PreviousBoot>,
    mitigations: Vec<Mitigation>,
) -> Inventory {
    let kernel = |name| line(&format!("/proc/sys/kernel/{name}"));
    let dmi = |name: &str| line(&format!("/sys/class/dmi/id/{name}"));
    let join = |parts: &[String]| {
        parts
            .iter()
            .filter(|p| !p.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    Inventory {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel("osrelease"),
        kernel_version: kernel("version"),
        machine: std::env::consts::ARCH.to_owned(),
        os: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        hardware: join(&[dmi("sys_vendor"), dmi("product_name")]),
        firmware: join(&[dmi("bios_vendor"), dmi("bios_version"), dmi("bios_date")]),
        microcode: line("/sys/devices/system/cpu/cpu0/microcode/version"),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        panic_on_oops: kernel("panic_on_oops").parse::<u8>().ok().map(|n| n != 0),
        network_drivers: network_drivers(Path::new("/sys/class/net")),
        modules: modules(&fs::read_to_string("/proc/modules").unwrap_or_default()),
        pods: pods(pod_logs),
        probes,
        uptime_ms: uptime_ms(&line("/proc/uptime")),
        previous: previous.cloned(),
        mitigations,
    }
}

/// The first line of a small file, or nothing.
fn line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim()
        .chars()
        .take(256)
        .collect()
}

fn os_name(os_release: &str) -> String {
    let value = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value
        .unwrap_or_default()
        .trim_matches('"')
        .chars()
        .take(256)
        .collect()
}

fn modules(proc_modules: &str) -> Vec<String> {
    let names = proc_modules.lines().filter_map(|l| l.split(' ').next());
    let mut names: Vec<String> = names.take(LIST_MAX).map(str::to_owned).collect();
    names.sort();
    names
}

/// What drives the devices that the kernel lists; a bridge, a tunnel or a veth is
/// driven by nothing.
fn network_drivers(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let driver = |entry: fs::DirEntry| {
        let driver = fs::read_link(entry.path().join("device/driver")).ok()?;
        Some(driver.file_name()?.to_str()?.to_owned())
    };
    let mut names: Vec<String> = entries
        .flatten()
        .take(LIST_MAX)
        .filter_map(driver)
        .collect();
    names.sort();
    names.dedup();
    names
}

pub(super) fn uptime_ms(proc_uptime: &str) -> u64 {
    let seconds = proc_uptime
        .split(' ')
        .next()
        .and_then(|s| s.parse::<f64>().ok());
    seconds.map_or(0, |s| (s * 1000.0) as u64)
}

/// The pods whose logs the kubelet keeps: directories
/// `<namespace>_<name>_<uid>` (pkg/kubelet/kuberuntime/helpers.go).
fn pods(dir: &Path) -> Vec<PodRef> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut pods: Vec<PodRef> = names.filter_map(|n| pod(&n)).take(LIST_MAX).collect();
    pods.sort();
    pods
}

fn pod(directory: &str) -> Option<PodRef> {
    // Neither a namespace nor a pod's name may hold an underscore.
    let mut parts = directory.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let complete = parts.next().is_none() && !namespace.is_empty() && !name.is_empty();
    complete.then(|| PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_read_from_the_names_of_their_log_directories() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in [
            "default_web-1_u1",
            "jobs_etl-x_u2",
            "not-a-pod",
            "a_b_c_d",
            "__x",
        ] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        let names: Vec<String> = pods(dir.path())
            .into_iter()
            .map(|p| format!("{}/{}/{}", p.namespace, p.name, p.uid))
            .collect();
        assert_eq!(names, ["default/web-1/u1", "jobs/etl-x/u2"]);
        assert!(pods(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn drivers_are_those_of_devices_with_hardware() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (device, driver) in [
            ("eth1", Some("virtio_net")),
            ("eth0", Some("ena")),
            ("eth2", Some("virtio_net")),
            ("cni0", None),
        ] {
            let device = dir.path().join(device).join("device");
            fs::create_dir_all(&device).expect("mkdir");
            if let Some(driver) = driver {
                let target = format!("../../../bus/virtio/drivers/{driver}");
                std::os::unix::fs::symlink(target, device.join("driver")).expect("symlink");
            }
        }
        assert_eq!(network_drivers(dir.path()), ["ena", "virtio_net"]);
        assert!(network_drivers(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        assert_eq!(modules("b 1 0 - Live 0x0\na 1 0 - Live 0x0\n"), ["a", "b"]);
        assert_eq!(uptime_ms("12.34 20.00"), 12_340);
        assert_eq!(
            os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        assert_eq!(os_name(""), "");
    }
}
