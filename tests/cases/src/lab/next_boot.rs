//! What the next boot finds of a death from which nothing got out: the cable is
//! pulled before the kernel dies, and a real annotator is told by what was left.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_core::engine;
use agent_core::model::{Body, Channel, DeathState, Evidence, HoldPoint, Proof, ReasonCode};
use anyhow::{Context as _, Result, ensure};
use harness::arch::Arch;
use harness::cache::Cache;
use harness::kernels::Kernel;
use harness::tool::Skip;
use harness::vm::{Machine, Vm};
use harness::{disk, firmware, initramfs, kdump as crash_kernel};
use lastgasp::gasp::protocol::Frame;

use super::verdict;
use super::ways::Way;
use crate::annotator::Annotator;
use crate::node;

/// A kernel that dies is gone within this.
const END: Duration = Duration::from_secs(30);

/// What is there is found, sent and written down within this.
const TOLD: Duration = Duration::from_secs(20);

/// Where the kernel keeps the log of its death.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keeper {
    /// RAM that a reset leaves as it is.
    Ramoops,
    /// The firmware's store of errors (ACPI ERST).
    Erst,
    /// Variables of the EFI firmware.
    Efi,
}

/// What came of one death by the next boot.
#[derive(Clone, Debug)]
pub struct NextBoot {
    /// From the next boot's agent being ready until the annotator had written
    /// the reason down, in milliseconds.
    pub ms: u64,
    /// The reason.
    pub reason: ReasonCode,
    /// The death in one line.
    pub line: String,
    /// Where the kernel was held while it died, in order.
    pub held_at: Vec<HoldPoint>,
}

impl Keeper {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ramoops, Self::Erst, Self::Efi];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ramoops => "ramoops",
            Self::Erst => "erst",
            Self::Efi => "efi",
        }
    }

    /// Gives it to a machine; what it keeps is in files in `dir`.
    fn equip(self, cache: &Cache, machine: &mut Machine, dir: &Path) -> Result<()> {
        let file = |name: &str| dir.join(name).display().to_string();
        match self {
            Self::Ramoops => {
                machine.devices.extend([
                    "-object".into(),
                    format!(
                        "memory-backend-file,id=ram,share=on,size={}M,mem-path={}",
                        machine.memory,
                        file("ram")
                    ),
                    "-machine".into(),
                    "memory-backend=ram".into(),
                ]);
                machine.append.push_str(" memmap=2M$0x1e000000");
            }
            Self::Erst => machine.devices.extend([
                "-object".into(),
                format!(
                    "memory-backend-file,id=erst,share=on,size=0x80000,mem-path={}",
                    file("erst")
                ),
                "-device".into(),
                "acpi-erst,memdev=erst".into(),
            ]),
            Self::Efi => {
                let (code, variables) = firmware::efi(cache, dir)?;
                let flash = |options: &str, path: &Path| {
                    format!("if=pflash,format=raw{options},file={}", path.display())
                };
                machine.devices.extend([
                    "-drive".into(),
                    flash(",readonly=on", &code),
                    "-drive".into(),
                    flash("", &variables),
                ]);
            }
        }
        Ok(())
    }

    /// Has the booted kernel use it.
    fn prepare(self, vm: &mut Vm) -> Result<()> {
        let insert = "/bin/busybox insmod /modules";
        match self {
            Self::Ramoops => vm.ask(&format!(
                "sh {insert}/reed_solomon.ko; {insert}/ramoops.ko mem_address=0x1e000000 \
                 mem_size=0x100000 record_size=0x20000"
            ))?,
            Self::Erst => String::new(),
            // Built in where there is no such file.
            Self::Efi => vm.ask(&format!(
                "sh if [ -e /modules/efi_pstore.ko ]; then {insert}/efi_pstore.ko; fi"
            ))?,
        };
        vm.ask("sh /bin/busybox mount -t pstore pstore /sys/fs/pstore")?;
        Ok(())
    }
}

/// Dies this way, and has the next boot tell of it by pstore. With `delete`, its
/// agent lets go of the record, and only when the annotator has it.
pub fn pstore(
    cache: &Cache,
    kernel: &Kernel,
    keeper: Keeper,
    way: &Way,
    delete: bool,
) -> Result<NextBoot> {
    if kernel.arch != Arch::Amd64 {
        return Err(Skip("the lab has pstore for x86 only".to_owned()).into());
    }
    let dir = tempfile::Builder::new()
        .prefix("lastgasp-pstore-")
        .tempdir()?;
    let annotator = Annotator::start(dir.path(), None)?;
    let mut machine = node::machine(cache, kernel, 2)?;
    keeper.equip(cache, &mut machine, dir.path())?;
    let image = dir.path().join("disk");
    disk::empty(&image)?;
    machine.disk = Some(image);
    machine.forward.clone_from(&annotator.listen);

    let mut vm = Vm::boot(&machine)?;
    keeper.prepare(&mut vm)?;
    start(&mut vm)?;
    vm.cable(false)?;
    die(vm, way)?;

    let mut vm = Vm::boot(&machine)?;
    keeper.prepare(&mut vm)?;
    let found = vm.ask("list /sys/fs/pstore")?;
    ensure!(found.contains("dmesg-"), "pstore has nothing: {found:?}");
    // A machine that found something says which of its directories it was in.
    node::start_agent(&mut vm, if delete { "--pstore-delete" } else { "" })?;
    let told = told(&annotator, way, Channel::Pstore, Vec::new())?;
    // The receipt is noted before anything is deleted.
    vm.ask("wait /var/lib/lastgasp/records.json 10000")?;
    let gone = gone(&mut vm, delete)?;
    ensure!(gone == delete, "deleted: {gone}, wanted: {delete}");
    Ok(told)
}

/// Dies this way on a machine with a crash kernel, which takes over before or after
/// the panic notifiers; the gasp gets out, and the next boot tells of the same death
/// by the log that the crash kernel saved.
pub fn kdump(cache: &Cache, kernel: &Kernel, way: &Way, after_notifiers: bool) -> Result<NextBoot> {
    if kernel.arch != Arch::Amd64 {
        return Err(Skip("the lab has crash kernels for x86 only".to_owned()).into());
    }
    let dir = tempfile::Builder::new()
        .prefix("lastgasp-kdump-")
        .tempdir()?;
    let annotator = Annotator::start(dir.path(), None)?;
    let guest = node::binary("LASTGASP_GUEST")?;
    let init = initramfs::File::copy("/init", 0o755, &guest)?;
    let (files, append) = crash_kernel::files(cache, kernel, &[init], after_notifiers)?;
    let mut machine = node::machine_with(cache, kernel, 2, files)?;
    machine.append.push_str(&append);
    machine.memory = 768;
    let image = dir.path().join("disk");
    disk::empty(&image)?;
    machine.disk = Some(image);
    machine.forward.clone_from(&annotator.listen);

    let mut vm = Vm::boot(&machine)?;
    vm.ask("crash-kernel")?;
    start(&mut vm)?;
    let (held_at, console) = die(vm, way)?;

    let mut vm = Vm::boot(&machine)?;
    let saved = vm.ask("list /var/lib/lastgasp/crash/127.0.0.1-now");
    let saved = saved.with_context(|| format!("the crash kernel saved nothing:\n  {console}"))?;
    ensure!(
        saved == "vmcore-dmesg.txt",
        "the crash kernel saved {saved:?}"
    );
    node::start_agent(&mut vm, "--crash-dir /var/lib/lastgasp/crash")?;
    let told = told(&annotator, way, Channel::Vmcore, held_at)?;
    vm.ask("wait /var/lib/lastgasp/records.json 10000")?;
    Ok(told)
}

/// Kills the machine; gives where it was held meanwhile, as far as that got out, and
/// the end of its console.
fn die(mut vm: Vm, way: &Way) -> Result<(Vec<HoldPoint>, String)> {
    node::die(&mut vm, way, Duration::ZERO, 0)?;
    let outcome = vm.finish(END)?;
    let lines: Vec<&str> = outcome.console.iter().map(|(_, l)| l.as_str()).collect();
    let console = lines[lines.len().saturating_sub(12)..].join("\n  ");
    ensure!(outcome.ended, "the machine hung:\n  {console}");
    let mut held_at = Vec::new();
    for datagram in &outcome.datagrams {
        let body = Frame::parse(&datagram.payload).map(|frame| frame.body());
        if let Ok(Ok(Body::Word(word))) = body {
            held_at.push(word.held_at);
        }
    }
    Ok((verdict::held(held_at), console))
}

/// Starts the agent, and waits for a heartbeat behind its hello.
fn start(vm: &mut Vm) -> Result<()> {
    node::start_agent(vm, "")?;
    node::until_heartbeat(vm, Instant::now() + TOLD).map(drop)
}

/// Waits until the one death has its reason by this channel.
fn told(
    annotator: &Annotator,
    way: &Way,
    by: Channel,
    held_at: Vec<HoldPoint>,
) -> Result<NextBoot> {
    let start = Instant::now();
    let told = loop {
        let mut deaths = annotator.deaths()?;
        let is_by = |e: &Evidence| e.channel == by;
        if let [one] = &mut deaths[..]
            && one.death.evidence.iter().any(is_by)
        {
            break deaths.swap_remove(0);
        }
        ensure!(
            start.elapsed() < TOLD,
            "the next boot told nothing by {by:?}: {:?}",
            deaths.iter().map(|d| &d.death.evidence).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let ms = start.elapsed().as_millis() as u64;
    let death = &told.death;
    ensure!(
        (death.state, death.proof) == (DeathState::Returned, Proof::P4),
        "{:?} {:?}",
        death.state,
        death.proof
    );
    let reason = engine::reason_code(death);
    ensure!(reason == way.code, "reason {reason:?}, not {:?}", way.code);
    let gasped = death.evidence.iter().any(|e| e.channel == Channel::Gasp);
    let should = by == Channel::Vmcore;
    ensure!(gasped == should, "the gasp got out: {gasped}");
    Ok(NextBoot {
        ms,
        reason,
        line: told.reason.clone(),
        held_at,
    })
}

/// Whether the records leave pstore; `wanted` is how long that is waited for.
fn gone(vm: &mut Vm, wanted: bool) -> Result<bool> {
    let patience = Duration::from_secs(if wanted { 10 } else { 1 });
    let until = Instant::now() + patience;
    loop {
        let left = vm.ask("list /sys/fs/pstore")?;
        if !left.contains("dmesg-") {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
