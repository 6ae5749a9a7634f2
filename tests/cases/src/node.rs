//! A lab machine that is a node: the shipped agent runs in it, as it would on a
//! real one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::arch::Arch;
use harness::busybox;
use harness::cache::Cache;
use harness::initramfs::{self, File};
use harness::kernels::Kernel;
use harness::module;
use harness::tool::Skip;
use harness::vm::{Machine, Vm};
use harness::wire::Datagram;
use lastgasp::gasp::protocol::{Frame, Kind};
use sha2::{Digest as _, Sha256};
use ways::Way;

/// The node's name.
pub const NAME: &str = "w01";

/// The key that agent and annotator share in the lab.
pub const KEY: &[u8] = b"no secret: the key of the lab\n";

/// The port that the agent sends to.
pub const COLLECTOR_PORT: u16 = 9618;

/// The port that its kernel's netconsole sends to.
pub const NETCONSOLE_PORT: u16 = 6666;

/// Keeps the kernel from changing its clock. Emulated time jumps at a restore; the
/// clocksource watchdog then gives the TSC up, and the change stops every CPU
/// (`timekeeping_notify`, `stop_machine`). If one of them is just dying with its
/// interrupts off, the other waits for it for ever and sends nothing: about one
/// death in a hundred on kernels that had begun with the TSC.
const STEADY_CLOCK: &str = "tsc=reliable clocksource=tsc";

/// A machine's whole life, boot included.
const LIMIT: Duration = Duration::from_secs(60);

/// A static binary built by `cargo xtask`, from the environment variable that
/// names it.
pub fn binary(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    path.ok_or_else(|| {
        Skip(format!(
            "{variable} names no file; `cargo xtask lab`, `demo` and `test` set it"
        ))
        .into()
    })
}

/// Which build of agents and guests dies here: a hash of them, so that deaths of others
/// are not taken for deaths of it.
pub fn build() -> Result<String> {
    let mut hash = Sha256::new();
    let own = ["LASTGASP_BINARY", "LASTGASP_GUEST"];
    let arm64 = ["LASTGASP_BINARY_ARM64", "LASTGASP_GUEST_ARM64"];
    let is_set = |variable: &&str| std::env::var_os(variable).is_some();
    for variable in own.into_iter().chain(arm64.into_iter().filter(is_set)) {
        let path = binary(variable)?;
        hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let mut name = String::new();
    for byte in hash.finalize().iter().take(6) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

/// The machine, with everything that it needs to live as a node and to die in
/// any of the guest's ways.
pub fn machine(cache: &Cache, kernel: &Kernel, cpus: u32) -> Result<Machine> {
    let mut files = initramfs::modules(kernel)?;
    let (guest, agent) = match kernel.arch {
        Arch::Amd64 => ("LASTGASP_GUEST", "LASTGASP_BINARY"),
        Arch::Arm64 => ("LASTGASP_GUEST_ARM64", "LASTGASP_BINARY_ARM64"),
    };
    files.push(File::copy("/init", 0o755, &binary(guest)?)?);
    files.push(File::copy("/lastgasp", 0o755, &binary(agent)?)?);
    files.push(File::copy(
        "/bin/busybox",
        0o755,
        &busybox::get(cache, kernel.arch)?,
    )?);
    if let Some(module) = module::boom(cache, kernel)? {
        files.push(File::copy(::ways::MODULE, 0o644, &module)?);
    }
    files.push(File {
        path: "/key".into(),
        mode: 0o600,
        bytes: KEY.to_vec(),
    });
    let clock = match kernel.arch {
        Arch::Amd64 => STEADY_CLOCK,
        Arch::Arm64 => "",
    };
    Ok(Machine {
        arch: kernel.arch,
        image: kernel.image.clone(),
        initramfs: initramfs::archive(&files).into(),
        cpus,
        memory: 512,
        append: format!("quiet {clock}"),
        forward: Vec::new(),
        disk: None,
        devices: Vec::new(),
        decoys: 0,
        limit: LIMIT,
    })
}

/// A machine takes steps that are only preparations within this.
const STEPS: Duration = Duration::from_secs(5);

/// Kills the machine this way after a delay, by an order to this CPU.
pub fn die(vm: &mut Vm, way: &Way, delay: Duration, on_cpu: u32) -> Result<()> {
    vm.ask(&format!("die {} {} {on_cpu}", way.name, delay.as_micros()))?;
    for command in way.monitor() {
        written(vm, way)?;
        // Not upon the answer: PID 1 goes to sleep just then, with the runqueue of its
        // CPU locked, and a machine check there stops all who would wake somebody on it.
        std::thread::sleep(delay);
        vm.monitor(command)?;
    }
    Ok(())
}

/// Waits until the machine has written what it writes in this way.
fn written(vm: &mut Vm, way: &Way) -> Result<()> {
    let until = Instant::now() + STEPS;
    for (path, text) in way.writes() {
        while vm.ask(&format!("read {path}"))? != text {
            ensure!(
                Instant::now() < until,
                "the machine does not write {text} into {path}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Receives datagrams up to a heartbeat; all of them.
pub fn until_heartbeat(vm: &Vm, until: Instant) -> Result<Vec<Datagram>> {
    let mut heard = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let datagram = vm.datagrams.recv_timeout(left);
        let datagram = datagram.context("the node gives no sign of life")?;
        let kind = Frame::parse(&datagram.payload).map(|frame| frame.kind());
        heard.push(datagram);
        if kind == Ok(Kind::Heartbeat) {
            return Ok(heard);
        }
    }
}

/// The ways in which the machine cannot die, and why.
pub fn impossible(vm: &mut Vm) -> Result<BTreeMap<&'static str, String>> {
    let mut reasons = BTreeMap::new();
    for way in ::ways::ALL {
        let why = vm.ask(&format!("missing {}", way.name))?;
        if !why.is_empty() {
            reasons.insert(way.name, why);
        }
    }
    Ok(reasons)
}

/// What the machine reads the time from; fails if that is not the same on both
/// CPUs.
pub fn clock(vm: &mut Vm) -> Result<String> {
    vm.ask("clock 200").context("the machine's clock")?;
    vm.ask("read /sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// What `lastgasp doctor` says in the machine.
pub fn doctor(vm: &mut Vm) -> Result<String> {
    let said = vm.ask("output 30000 /lastgasp doctor")?;
    Ok(said.replace('\x1e', "\n"))
}

/// Starts the agent in the machine, waits until it is ready, and gives its PID. `flags` are
/// added to what every node has.
pub fn start_agent(vm: &mut Vm, flags: &str) -> Result<u32> {
    // An agent that was killed leaves it.
    vm.ask("sh /bin/busybox rm -f /run/ready")?;
    let pid = vm.ask(&format!(
        "run /lastgasp agent --collector 10.0.2.2:{COLLECTOR_PORT} --key-file /key \
         --node-name {NAME} --ready-file /run/ready {flags}"
    ))?;
    // Before 5.17 the verifier walks through every turn of the hold, for seconds here.
    vm.ask("wait /run/ready 60000")
        .context("the agent did not become ready")?;
    pid.parse().context("the machine answered no PID")
}
