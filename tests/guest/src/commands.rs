//! What the host can have PID 1 do.
//!
//! | command | does |
//! |---|---|
//! | `write PATH TEXT` | writes a file or a sysctl |
//! | `mkdir PATH` | makes a directory and its parents |
//! | `run PROGRAM ARGUMENTS…` | starts a program in the background; answers with its PID |
//! | `sh SCRIPT` | has a shell do it; fails with what it says if it fails |
//! | `networks` | loads the modules for VLANs, bonds, bridges, veths and VXLAN |
//! | `crash-kernel` | loads the crash kernel, which takes over when this one dies |
//! | `wait PATH MS` | waits until the file exists |
//! | `output MS PROGRAM ARGUMENTS…` | runs a program to its end; answers with what it says, newlines as U+001E |
//! | `stop PROGRAM MS` | SIGTERM to what `run` started, and waits for its end |
//! | `ask COMMAND` | has somebody in the pod run a command of this name, which does nothing |
//! | `missing WAY` | answers why this machine cannot die that way; nothing if it can |
//! | `die WAY US CPU` | dies that way after this many microseconds, by an order to this CPU |
//! | `busy CPU` | keeps a CPU busy from now on |
//! | `churn CPU` | maps and unmaps memory on a CPU from now on |
//! | `still CPU` | has a CPU stand still, with its interrupts off, for some seconds from now on |
//! | `pour ADDRESS:PORT THREADS` | sends UDP as fast as that goes, from now on |
//! | `open-road ADDRESS` | makes the devices of the traffic that kills (`traffic.rs`) before there is any; the one it comes in by has this address |
//! | `mangled` | sends that traffic; answers if the kernel lives on |
//! | `merged PACKETS` | has GRO merge packets and sends them on by a device that has them taken apart; answers with how many segments that made |
//! | `between-pods KIND MS` | has one pod send to another, `tcp`, `vxlan` (TCP in a tunnel) or `udp`, through devices that take nothing apart; answers with how many bytes arrived |
//! | `empty-probe FUNCTION` | has an empty BPF program run at the entry of a function of the kernel from now on |
//! | `bpf-runs` | answers with `NAME:NANOSECONDS:RUNS` of every BPF program, as far as the kernel counts them |
//! | `lose PORT PACKETS` | sends this many packets to a port of this machine |
//! | `overfill PORT PACKETS` | sends them to a socket that has room for a few; answers with how many it had room for |
//! | `flood LINES MS` | writes this many lines to the kernel log, evenly over this time |
//! | `wake US MS` | wakes two threads this often for this time, for nothing |
//! | `clock MS` | compares the clock of two CPUs for this long |
//! | `read PATH [START]` | answers with the first line of a file that starts so |
//! | `last PATH TEXT` | answers with the last line of a file that has this in it |
//! | `symbols ADDRESS…` | answers with the function of the kernel that each is in |
//! | `list PATH` | answers with the names in a directory |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{bpf, clock, crash, flood, lose, machine, orders, roads, traffic, ways};

/// What a machine that has a shell has it in.
const SHELL: &str = "/bin/busybox";

/// No function of the kernel is longer, in bytes.
const FUNCTION_MAX: u64 = 0x8000;

/// Held from a command until it is answered.
pub(crate) static ANSWERING: Mutex<()> = Mutex::new(());

/// What `run` started, by program.
pub(crate) type Children = BTreeMap<String, Child>;

/// Does what a line says, and gives the answer.
pub(crate) fn obey(line: &str, children: &mut Children) -> Result<String> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    match command {
        "write" => fs::write(first, second).with_context(|| format!("cannot write {first}"))?,
        "mkdir" => fs::create_dir_all(first)?,
        "read" => {
            let text = fs::read_to_string(first)?;
            let mut lines = text.lines().filter(|line| line.starts_with(second));
            return Ok(lines.next().unwrap_or_default().to_owned());
        }
        "last" => {
            let text = fs::read_to_string(first)?;
            let mut lines = text.lines().filter(|line| line.contains(second));
            return Ok(lines.next_back().unwrap_or_default().to_owned());
        }
        "list" => return list(Path::new(first)),
        "symbols" => return symbols(rest),
        "run" => return run(first, second, children),
        "ask" => orders::run_by_pod(rest)?,
        "output" => return output(Duration::from_millis(first.parse()?), second),
        "sh" => shell(rest)?,
        "crash-kernel" => crash::load()?,
        "networks" => machine::load(machine::NETWORKS)?,
        "wait" => wait(Path::new(first), Duration::from_millis(second.parse()?))?,
        "stop" => {
            let child = children.get_mut(first).context("was not started")?;
            stop(child, Duration::from_millis(second.parse()?))?;
        }
        "busy" => {
            let cpu = first.parse()?;
            std::thread::spawn(move || machine::burn(cpu));
        }
        "churn" => {
            let cpu = first.parse()?;
            std::thread::spawn(move || machine::churn(cpu));
        }
        "still" => {
            let cpu = first.parse()?;
            std::thread::spawn(move || {
                machine::pin(cpu);
                if let Err(error) = ways::boom("spin", "hardirq") {
                    eprintln!("guest: CPU {cpu} does not stand still: {error:#}");
                }
            });
        }
        "pour" => {
            let to: SocketAddr = first.parse()?;
            for _ in 0..second.parse()? {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                std::thread::spawn(move || flood::pour(&socket, to));
            }
        }
        "open-road" => traffic::open(first.parse::<Ipv4Addr>()?.octets())?,
        "mangled" => traffic::mangled()?,
        "merged" => return Ok(traffic::merged(first.parse()?)?.to_string()),
        "between-pods" => {
            let time = Duration::from_millis(second.parse()?);
            return Ok(roads::between_pods(first, time)?.to_string());
        }
        "lose" => lose::send(first.parse()?, second.parse()?)?,
        "overfill" => {
            return Ok(lose::overfill(first.parse()?, second.parse()?)?.to_string());
        }
        "empty-probe" => std::mem::forget(bpf::empty(bpf::At::Entry(first))?),
        "bpf-runs" => {
            let each = |(name, ns, runs)| format!("{name}:{ns}:{runs}");
            let all: Vec<String> = bpf::runs()?.into_iter().map(each).collect();
            return Ok(all.join(" "));
        }
        "flood" => return flood::flood(first.parse()?, Duration::from_millis(second.parse()?)),
        "clock" => return clock::check(Duration::from_millis(first.parse()?)),
        "wake" => {
            let every = Duration::from_micros(first.parse()?);
            return flood::wake(every, Duration::from_millis(second.parse()?));
        }
        "missing" => return Ok(ways::missing(way(first)?).unwrap_or_default()),
        "die" => {
            let way = way(first)?;
            if let Some(why) = ways::missing(way) {
                bail!("not possible: {why}");
            }
            let (delay, cpu) = second.split_once(' ').context("which CPU?")?;
            let delay = Duration::from_micros(delay.parse()?);
            let cpu = cpu.parse()?;
            std::thread::spawn(move || {
                // The answer leaves before the machine does.
                drop(ANSWERING.lock());
                machine::pin(cpu);
                std::thread::sleep(delay);
                if let Err(error) = ways::die(way) {
                    eprintln!("guest: cannot die by {}: {error:#}", way.name);
                }
                // To end would give its stack back, and who does that waits for every
                // CPU, also for one that dies by the host's hand at this very moment.
                loop {
                    std::thread::park();
                }
            });
        }
        _ => bail!("no such command"),
    }
    Ok(String::new())
}

fn way(name: &str) -> Result<&'static ::ways::Way> {
    ::ways::named(name).with_context(|| format!("no way {name}"))
}

/// What may be done where this is not PID 1.
pub(crate) fn by_hand(line: &str) -> Result<String> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match (command, rest.split_once(' ')) {
        ("flood" | "wake", _) => obey(line, &mut Children::default()),
        ("empty-tracepoint", Some(("btf", name))) => empty_until_told(bpf::At::Typed(name)),
        ("empty-tracepoint", Some(("raw", name))) => empty_until_told(bpf::At::Raw(name)),
        _ => bail!(
            "this is PID 1 of a lab machine; elsewhere: guest flood LINES MS, guest wake US MS, \
             guest empty-tracepoint btf|raw NAME"
        ),
    }
}

/// Has an empty program run there until its standard input ends.
fn empty_until_told(at: bpf::At<'_>) -> Result<String> {
    let _attached = bpf::empty(at)?;
    println!("attached");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok("detached".to_owned())
}

fn list(directory: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.join(" "))
}

/// `NAME+0xOFFSET` for every address that is in a function (kernel/kallsyms.c).
fn symbols(addresses: &str) -> Result<String> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    let mut functions = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(at), Some("t" | "T"), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        functions.insert(u64::from_str_radix(at, 16)?, name);
    }
    let mut found = Vec::new();
    for address in addresses.split(' ') {
        let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        let before = functions.range(..=address).next_back();
        // Behind the last function there is data.
        let within = before.filter(|(at, _)| address - **at < FUNCTION_MAX);
        found.extend(within.map(|(at, name)| format!("{name}+{:#x}", address - at)));
    }
    Ok(found.join(" "))
}

fn run(program: &str, arguments: &str, children: &mut Children) -> Result<String> {
    let log = File::create("/run/agent.log")?;
    let child = Command::new(program)
        .args(arguments.split(' ').filter(|a| !a.is_empty()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let pid = child.id();
    children.insert(program.to_owned(), child);
    Ok(pid.to_string())
}

/// What a program says, whatever its end, in one line.
fn output(at_most: Duration, command: &str) -> Result<String> {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let mut children = Children::new();
    run(program, arguments, &mut children)?;
    let child = children.get_mut(program).context("just started")?;
    ended(child, at_most)?;
    let said = fs::read_to_string("/run/agent.log")?;
    Ok(said.replace('\n', "\x1e"))
}

fn shell(script: &str) -> Result<()> {
    let output = Command::new(SHELL)
        .args(["sh", "-e", "-c", script])
        .output()
        .context("this machine has no shell")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim().replace('\n', " | "));
    }
    Ok(())
}

fn stop(child: &mut Child, at_most: Duration) -> Result<()> {
    machine::signal(child.id() as libc::pid_t, libc::SIGTERM)?;
    ended(child, at_most)
}

fn ended(child: &mut Child, at_most: Duration) -> Result<()> {
    let deadline = Instant::now() + at_most;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            bail!("did not end in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn wait(path: &Path, at_most: Duration) -> Result<()> {
    let deadline = Instant::now() + at_most;
    while !path.exists() {
        if Instant::now() > deadline {
            let log = fs::read_to_string("/run/agent.log").unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(5).collect();
            bail!(
                "{} did not come; the log ends: {}",
                path.display(),
                end.join(" | ")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
