//! A lab machine: one kernel under QEMU's software emulation.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::arch::Arch;
use crate::autopsy;
use crate::host::{Wait, Waits};
use crate::priority;
use crate::progress;
use crate::qmp::{self, Qmp};
use crate::wire::{Datagram, Wire};

/// The card that leads outside. Going on from a snapshot is to QEMU what moving to another
/// host is, upon which a guest announces itself: and 6.18 hangs for ever if the card is
/// switched off meanwhile (`virtnet_close` waits for what waits for the lock that it has).
const UPLINK: &str = "virtio-net-pci,guest_announce=off";

/// What a machine that hangs still has to say comes within this.
const ANSWER: Duration = Duration::from_secs(2);

/// A machine that was given so long, and has not ended, hangs.
const HANGS: Duration = Duration::from_secs(5);

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its processor.
    pub arch: Arch,
    /// Bootable image.
    pub image: PathBuf,
    /// What it boots into (`initramfs::archive`); `/init` is PID 1.
    pub initramfs: Arc<[u8]>,
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Added to the kernel's command line.
    pub append: String,
    /// Where datagrams go on to, beside the test, by the port they were sent to.
    pub forward: Vec<(u16, SocketAddr)>,
    /// What outlives it: an image of a disk (`disk::empty`).
    pub disk: Option<PathBuf>,
    /// Arguments of QEMU for what else it has.
    pub devices: Vec<String>,
    /// Network devices whose cable ends nowhere, found before the real one.
    pub decoys: u32,
    /// The machine's whole life may take this long.
    pub limit: Duration,
}

/// A line of the console, and when it came.
pub type ConsoleLine = (Instant, String);

/// A machine that runs.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    qmp: Qmp,
    control: UnixStream,
    answers: BufReader<UnixStream>,
    console: Arc<Mutex<Vec<ConsoleLine>>>,
    console_thread: Option<JoinHandle<()>>,
    /// What left the machine.
    pub datagrams: Receiver<Datagram>,
    deadline: Instant,
    started: Instant,
    wire: Wire,
    // Dropped last: the sockets of all the others are in there.
    _dir: TempDir,
}

/// How a machine ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether QEMU ended by itself, as it does when the guest resets.
    pub ended: bool,
    /// All of the console.
    pub console: Vec<ConsoleLine>,
    /// All datagrams that were not taken before.
    pub datagrams: Vec<Datagram>,
    /// From start to end.
    pub wall: Duration,
    /// For how long its threads had no CPU of the host while its end was waited for, in
    /// milliseconds, if that is known. Four virtual CPUs on two always wait a little.
    pub waited_ms: Option<u64>,
    /// The longest of that.
    pub waits: Vec<Wait>,
    /// If it had to be ended after all that time: where its CPUs were (`autopsy::look`).
    pub autopsy: Vec<String>,
}

impl Vm {
    /// Boots, and waits until PID 1 answers.
    ///
    /// Software emulation with several CPUs sometimes trips over a kernel that
    /// patches its own code while it boots (`sync_core`, `iretq`), about once in
    /// a hundred boots: what dies before PID 1 runs is tried again, and said.
    pub fn boot(machine: &Machine) -> Result<Self> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let mut vm = Self::start(machine, None)?;
            match vm.expect_ok() {
                Ok(_) => return Ok(vm),
                Err(error) if tries == 0 => {
                    return Err(error.context("the machine did not come up"));
                }
                Err(_) => progress::say("a machine died while it booted; trying again"),
            }
        }
    }

    /// Goes on from a snapshot of the same machine.
    pub fn restore(machine: &Machine, snapshot: &Path) -> Result<Self> {
        let mut vm = Self::start(machine, Some(snapshot))?;
        let deadline = vm.deadline;
        vm.qmp
            .wait_for("query-status", "status", "paused", deadline)?;
        vm.qmp.execute("cont", &json!({}))?;
        Ok(vm)
    }

    fn start(machine: &Machine, snapshot: Option<&Path>) -> Result<Self> {
        let started = Instant::now();
        let deadline = started + machine.limit;
        let dir = tempfile::Builder::new().prefix("lab-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("initramfs"), &machine.initramfs)?;
        let (wire, datagrams, cable) = Wire::new(&machine.forward)?;
        let socket = |id: &str, name: &str| {
            format!(
                "socket,id={id},server=on,wait=off,path={}",
                path(name).display()
            )
        };
        let mut command = machine.arch.qemu().command()?;
        command
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi"])
            .args(machine.arch.machine())
            .args([
                "-m",
                &machine.memory.to_string(),
                "-smp",
                &machine.cpus.to_string(),
            ])
            .arg("-kernel")
            .arg(&machine.image)
            .arg("-initrd")
            .arg(path("initramfs"))
            .args([
                "-append",
                &format!(
                    "console={} panic=-1 {}",
                    machine.arch.console(),
                    machine.append
                ),
            ])
            .args([
                "-chardev",
                &socket("console", "console"),
                "-serial",
                "chardev:console",
            ])
            .args([
                "-chardev",
                &socket("qmp", "qmp"),
                "-mon",
                "chardev=qmp,mode=control",
            ])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", &socket("ctl", "ctl")])
            .args(["-device", "virtserialport,chardev=ctl,name=lastgasp.ctl"])
            .args((0..machine.decoys).flat_map(|i| {
                let port = format!("hubport,id=decoy{i},hubid={i}");
                let device = format!("virtio-net-pci,netdev=decoy{i},romfile=");
                ["-netdev".to_owned(), port, "-device".to_owned(), device]
            }))
            // The cable is standard input: the one descriptor that a child
            // is given without unsafe code.
            .args(["-netdev", "dgram,id=net,local.type=fd,local.str=0"])
            .args(["-device", &format!("{UPLINK},netdev=net,romfile=")])
            .stdin(Stdio::from(OwnedFd::from(cable)))
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("stderr"))?);
        if let Some(disk) = &machine.disk {
            let drive = format!("id=disk,if=none,format=raw,file={}", disk.display());
            command.args(["-drive", &drive]);
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        command.args(&machine.devices);
        if let Some(snapshot) = snapshot {
            command.args(["-incoming", &format!("exec:cat {}", snapshot.display())]);
        }
        let mut qemu = command.spawn().context("cannot start QEMU")?;
        let connected = connect(&dir, deadline);
        let (console_stream, qmp, control) = match connected {
            Ok(all) => all,
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                let said = fs::read_to_string(path("stderr")).unwrap_or_default();
                return Err(error.context(format!("QEMU said: {}", said.trim())));
            }
        };
        control.set_read_timeout(Some(machine.limit))?;
        let console = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&console);
        // Never stops reading: a full serial port would hold the guest up.
        let console_thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || read_console(console_stream, &kept))?;
        // Its first thread is the devices.
        priority::like_hardware(qemu.id());
        Ok(Self {
            qemu,
            qmp,
            answers: BufReader::new(control.try_clone()?),
            control,
            console,
            console_thread: Some(console_thread),
            datagrams,
            deadline,
            started,
            wire,
            _dir: dir,
        })
    }

    /// Has PID 1 do something, and gives its answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.expect_ok()
            .with_context(|| format!("`{command}` in the machine"))
    }

    /// Tells PID 1 something without waiting for the answer.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.control, "{command}")?;
        Ok(())
    }

    fn expect_ok(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if !matches!(read, Ok(n) if n > 0) {
            let console = self.console.lock().map(|c| c.clone()).unwrap_or_default();
            let end: Vec<String> = console
                .iter()
                .rev()
                .take(15)
                .rev()
                .map(|(_, l)| l.clone())
                .collect();
            bail!("no answer; the console ends:\n  {}", end.join("\n  "));
        }
        match line.trim_end().split_once(' ') {
            Some(("ok", answer)) => Ok(answer.to_owned()),
            _ if line.trim_end() == "ok" => Ok(String::new()),
            _ => bail!("{}", line.trim_end()),
        }
    }

    /// Has QEMU's monitor do something to the machine.
    pub fn monitor(&mut self, command: &str) -> Result<()> {
        match monitor(&mut self.qmp, command)?.trim() {
            "" => Ok(()),
            complaint => bail!("`{command}`: {complaint}"),
        }
    }

    /// Stands still as a whole, clocks and all, until [`Vm::go_on`].
    pub fn freeze(&mut self) -> Result<()> {
        self.qmp.execute("stop", &json!({})).map(drop)
    }

    /// Goes on after [`Vm::freeze`].
    pub fn go_on(&mut self) -> Result<()> {
        self.qmp.execute("cont", &json!({})).map(drop)
    }

    /// Pulls the network cable, or plugs it in.
    pub fn cable(&mut self, plugged: bool) -> Result<()> {
        let arguments = json!({ "name": "net", "up": plugged });
        self.qmp.execute("set_link", &arguments).map(drop)
    }

    /// From now on nobody on the network answers ARP.
    pub fn deafen(&mut self) {
        self.wire.deafen();
    }

    /// Saves the machine as it is now, and ends it.
    pub fn save(mut self, to: &Path) -> Result<()> {
        self.qmp.execute("stop", &json!({}))?;
        let uri = format!("exec:cat > {}", to.display());
        self.qmp.execute("migrate", &json!({ "uri": uri }))?;
        let deadline = self.deadline;
        self.qmp
            .wait_for("query-migrate", "status", "completed", deadline)?;
        Ok(())
    }

    /// The console so far.
    pub fn console(&self) -> Vec<ConsoleLine> {
        self.console
            .lock()
            .map(|console| console.clone())
            .unwrap_or_default()
    }

    /// Waits for the end, or `at_most`; what is still there then is ended.
    pub fn finish(mut self, at_most: Duration) -> Result<Outcome> {
        let until = (Instant::now() + at_most).min(self.deadline);
        let mut waits = Waits::default();
        let ended = loop {
            waits.look(self.qemu.id());
            if self.qemu.try_wait()?.is_some() {
                break true;
            }
            if Instant::now() > until {
                break false;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let wall = self.started.elapsed();
        // Who waits for nothing does not want to know.
        let autopsy = if ended || at_most < HANGS {
            Vec::new()
        } else {
            let seen = autopsy::look(&mut |command| monitor(&mut self.qmp, command));
            // Its CPUs may be idle because everybody waits for something: if PID 1 still
            // listens, the kernel says on the console who waits, and where.
            if self
                .tell("sh echo 8 > /proc/sys/kernel/printk; echo w > /proc/sysrq-trigger")
                .is_ok()
            {
                std::thread::sleep(ANSWER);
            }
            seen.unwrap_or_else(|error| vec![format!("{error:#}")])
        };
        self.end();
        // Both have all that QEMU wrote before it ended.
        self.wire.close();
        if let Some(thread) = self.console_thread.take() {
            let _ = thread.join();
        }
        Ok(Outcome {
            ended,
            console: self.console(),
            datagrams: self.datagrams.try_iter().collect(),
            wall,
            waited_ms: waits.all_ms(),
            waits: waits.long,
            autopsy,
        })
    }

    fn end(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end();
    }
}

/// What QEMU's monitor for people says to a command.
fn monitor(qmp: &mut Qmp, command: &str) -> Result<String> {
    let arguments = json!({ "command-line": command });
    let said = qmp.execute("human-monitor-command", &arguments)?;
    Ok(said.as_str().unwrap_or_default().to_owned())
}

fn connect(dir: &TempDir, deadline: Instant) -> Result<(UnixStream, Qmp, UnixStream)> {
    let deadline = deadline.min(Instant::now() + Duration::from_secs(20));
    let console = qmp::connect(&dir.path().join("console"), deadline)?;
    let control = qmp::connect(&dir.path().join("ctl"), deadline)?;
    let qmp = Qmp::connect(&dir.path().join("qmp"), deadline)?;
    Ok((console, qmp, control))
}

fn read_console(mut stream: UnixStream, lines: &Mutex<Vec<ConsoleLine>>) {
    priority::self_like_hardware();
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    let keep = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line)
            .trim_end_matches('\r')
            .to_owned();
        line.clear();
        if let Ok(mut lines) = lines.lock() {
            lines.push((Instant::now(), text));
        }
    };
    while let Ok(len) = stream.read(&mut buffer) {
        if len == 0 {
            break;
        }
        for byte in &buffer[..len] {
            if *byte == b'\n' {
                keep(&mut line);
            } else {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        keep(&mut line);
    }
}
