//! Loading the eBPF object and attaching its programs to what this kernel has.
//!
//! A [`Role`] is a thing that must be seen; its [`Candidate`]s are the ways to
//! see it, best first. One that fails is a status with a reason, never an exit.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use agent_core::model::NOT_ATTACHED;
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{
    BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, ProgramType, RawTracePoint,
    TracePoint,
};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader, util::nr_cpus};
use tokio::io::unix::AsyncFd;

use super::fits::{Kernel, Plan};
use super::ring::CrashRing;
use super::role::{Candidate, How, Role};
use super::sched;
use super::segments::SegmentCounts;
use super::told::Tellers;

/// The object built from `agent-ebpf` (`cargo xtask build-ebpf`).
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LASTGASP_EBPF_PATH"));
/// The same for kernels before 5.17.
static BASIC_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LASTGASP_EBPF_BASIC_PATH"));

/// The kernel's own "operation is not supported" (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// How one candidate fared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Attempt {
    /// `fentry`, `kprobe`, ...
    pub how: &'static str,
    /// The function or tracepoint.
    pub target: &'static str,
    /// Why it does not attach; `None` if it does.
    pub refused: Option<String>,
}

/// How one role fared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// The role's name.
    pub role: &'static str,
    /// What is lost without it.
    pub without: &'static str,
    /// What was tried, in order; the last one is attached, if any is.
    pub attempts: Vec<Attempt>,
    /// The program that is attached.
    #[serde(skip)]
    program: Option<&'static str>,
}

impl Status {
    /// The way it is attached, if it is.
    pub fn attached(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.refused.is_none())
    }

    /// One line: `fentry oops_enter`, or why not.
    pub fn summary(&self) -> String {
        if let Some(attempt) = self.attached() {
            return format!("{} {}", attempt.how, attempt.target);
        }
        let why = |a: &Attempt| {
            format!(
                "{} {}: {}",
                a.how,
                a.target,
                a.refused.as_deref().unwrap_or_default()
            )
        };
        format!(
            "{NOT_ATTACHED} ({})",
            self.attempts.iter().map(why).collect::<Vec<_>>().join("; ")
        )
    }
}

/// Why nothing can be attached at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary holds no object.
    #[error("this binary was built without its eBPF object; build it with `cargo xtask build`")]
    NoObject,
    /// The object was refused.
    #[error(
        "the kernel refused the eBPF object ({0}); the agent needs CAP_BPF and CAP_PERFMON, or root"
    )]
    Load(String),
    /// A map that the agent needs is not in the object.
    #[error("the eBPF object has no map {0}: binary and object do not belong together")]
    NoMap(&'static str),
    /// A map cannot be used.
    #[error("cannot map the eBPF array {0} into memory")]
    Mapping(&'static str, #[source] io::Error),
    /// The kernel does not say how many CPUs it may have.
    #[error("cannot read how many CPUs there may be from {0}; is sysfs mounted?")]
    Cpus(&'static str, #[source] io::Error),
    /// A bell cannot be used.
    #[error("cannot open the eBPF ring buffer {0}")]
    Bell(&'static str, #[source] aya::maps::MapError),
}

/// A ring buffer that only wakes.
pub struct Bell {
    ring: RingBuf<MapData>,
    ringing: Ringing,
}

impl Bell {
    /// Waits until it rings, at most this long, and silences it.
    ///
    /// A program that was interrupted while it rang leaves the buffer readable and
    /// nothing to read. Then it is waited for by the clock, as that program may run on
    /// this very CPU, and would never get to its end.
    pub fn wait(&mut self, at_most: Duration) {
        if !sched::wait_readable(self.ring.as_raw_fd(), at_most) || self.silence() {
            self.ringing = Ringing::default();
        } else {
            sched::sleep(self.ringing.pause(at_most));
        }
    }

    /// Whether it had rung.
    fn silence(&mut self) -> bool {
        std::iter::from_fn(|| self.ring.next().map(drop)).count() > 0
    }
}

/// Waits, one after the other, for a program that rings and has not rung yet.
#[derive(Debug, Default)]
struct Ringing(u32);

impl Ringing {
    /// How long a program needs to ring, and much more than that. It tells of a death: with
    /// one CPU the network is gone a few milliseconds later.
    const PAUSE: Duration = Duration::from_micros(200);

    /// One that has not rung after so many of them never will.
    const PAUSES: u32 = 100;

    /// How long the next one is.
    fn pause(&mut self, at_most: Duration) -> Duration {
        if self.0 == Self::PAUSES {
            return at_most;
        }
        self.0 += 1;
        at_most.min(Self::PAUSE)
    }
}

/// The loaded object. Dropping it detaches everything.
pub struct Attached {
    /// Keeps the links.
    ebpf: Ebpf,
    /// Per role, what was tried.
    pub statuses: Vec<Status>,
    /// Whether marks tell their context.
    pub knows_context: bool,
}

/// The memory and the bells of a loaded object.
pub struct Shared {
    /// The crash ring.
    pub ring: CrashRing,
    /// One bell for each drain thread.
    pub bells: [Bell; 2],
    /// Who told PID 1 to stop the machine.
    pub tellers: Tellers,
    /// What was seen of packets that are taken apart.
    pub segments: SegmentCounts,
}

/// Loads the object and attaches every role.
pub fn attach(roles: &[&'static Role], verbose: bool) -> Result<(Attached, Shared), Error> {
    if OBJECT.is_empty() || BASIC_OBJECT.is_empty() {
        return Err(Error::NoObject);
    }
    // Gone before the loader reads its own copy of the type information: both at
    // once would be the most memory that the agent ever takes.
    let (globals, knows_context, plans) = {
        let kernel = Kernel::running();
        let plans: Vec<Plan> = roles.iter().filter_map(|r| kernel.plan(r)).collect();
        (kernel.globals(), kernel.knows_context(), plans)
    };
    let btf = aya::Btf::from_sys_fs().ok();
    let object = if loops() { OBJECT } else { BASIC_OBJECT };
    let verbose = u32::from(verbose);
    let mut loader = EbpfLoader::new();
    loader.override_global("VERBOSE", &verbose, true);
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    // Numbered from zero, those included that may be plugged in later.
    let cpus = nr_cpus().map_err(|(path, error)| Error::Cpus(path, error))?;
    loader.map_max_entries("SEGMENTS", cpus.get());
    let mut ebpf = loader
        .load(object)
        .map_err(|error| Error::Load(last_words(&error.to_string())))?;

    let ring = {
        let control = array(&ebpf, "CONTROL")?;
        let slots = array(&ebpf, "RING")?;
        CrashRing::map(control.fd(), slots.fd()).map_err(|e| Error::Mapping("RING", e))?
    };
    let tellers = Tellers::map(array(&ebpf, "TOLD")?.fd());
    let tellers = tellers.map_err(|e| Error::Mapping("TOLD", e))?;
    let segments = SegmentCounts::map(array(&ebpf, "SEGMENTS")?.fd(), cpus.get());
    let segments = segments.map_err(|e| Error::Mapping("SEGMENTS", e))?;
    let bells = [bell(&mut ebpf, "BELL_A")?, bell(&mut ebpf, "BELL_B")?];

    let statuses = plans.into_iter().map(|plan| {
        let (attempts, program) = fill(&mut ebpf, plan.ways, btf.as_ref());
        Status {
            role: plan.role.name,
            without: plan.role.without,
            attempts,
            program,
        }
    });
    let statuses = statuses.collect();
    let attached = Attached {
        ebpf,
        statuses,
        knows_context,
    };
    let shared = Shared {
        ring,
        bells,
        tellers,
        segments,
    };
    Ok((attached, shared))
}

impl Attached {
    /// Takes the program of a role away for good, and says why in its status.
    pub fn turn_off(&mut self, role: &str, why: String) {
        let Some(status) = self.statuses.iter_mut().find(|s| s.role == role) else {
            return;
        };
        let program = status.program.take();
        let program = program.and_then(|name| self.ebpf.program_mut(name));
        // Its links go with it. What cannot be unloaded is not loaded.
        let _ = match program {
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            // Not attached, or of a kind that is never turned off.
            _ => return,
        };
        if let Some(attempt) = status.attempts.last_mut() {
            attempt.refused = Some(why);
        }
    }

    /// Passes the programs' own diagnostics on to the agent's log. Must be
    /// called inside a tokio runtime.
    pub fn log(&mut self) -> Result<(), aya_log::Error> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf)?;
        // SAFETY: the logger owns the descriptor it gives, and lives in the AsyncFd.
        let fd = unsafe { AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) };
        let Ok(mut fd) = fd else { return Ok(()) };
        tokio::spawn(async move {
            while let Ok(mut guard) = fd.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }
}

fn array<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, Error> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(Error::NoMap(name)),
    }
}

fn bell(ebpf: &mut Ebpf, name: &'static str) -> Result<Bell, Error> {
    let map = ebpf.take_map(name).ok_or(Error::NoMap(name))?;
    RingBuf::try_from(map)
        .map(|ring| Bell {
            ring,
            ringing: Ringing::default(),
        })
        .map_err(|source| Error::Bell(name, source))
}

/// Whether the kernel has `bpf_loop`, and so all else that the full object needs.
fn loops() -> bool {
    let asked = is_helper_supported(ProgramType::KProbe, BpfHelper::BPF_FUNC_loop);
    // If it cannot be asked, loading says why.
    asked.unwrap_or(true)
}

/// Tries the ways in turn; gives also the program that is attached.
pub(super) fn fill(
    ebpf: &mut Ebpf,
    ways: Vec<(&'static Candidate, Result<(), String>)>,
    btf: Option<&aya::Btf>,
) -> (Vec<Attempt>, Option<&'static str>) {
    let mut attempts = Vec::new();
    for (candidate, fits) in ways {
        let result = fits.and_then(|()| attach_one(ebpf, candidate, btf));
        let refused = result.err();
        let done = refused.is_none();
        attempts.push(Attempt {
            how: candidate.how.name(),
            target: candidate.target,
            refused,
        });
        if done {
            return (attempts, Some(candidate.program));
        }
    }
    (attempts, None)
}

fn attach_one(
    ebpf: &mut Ebpf,
    candidate: &Candidate,
    btf: Option<&aya::Btf>,
) -> Result<(), String> {
    let needs_btf = || btf.ok_or_else(|| "the kernel shows no BTF".to_owned());
    let program = ebpf
        .program_mut(candidate.program)
        .ok_or("not in the eBPF object")?;
    let target = candidate.target;
    match (program, candidate.how) {
        (Program::FEntry(program), How::Fentry) => {
            program.load(target, needs_btf()?).map_err(|e| brief(&e))?;
            program.attach().map(|_| ()).map_err(|e| brief(&e))
        }
        (Program::FExit(program), How::Fexit(_)) => {
            let program: &mut FExit = program;
            program.load(target, needs_btf()?).map_err(|e| brief(&e))?;
            program.attach().map(|_| ()).map_err(|e| brief(&e))
        }
        (Program::KProbe(program), How::Kprobe) => kprobe(program, target),
        (Program::KProbe(program), How::Kretprobe { entry, .. }) => {
            kprobe(program, target)?;
            match ebpf.program_mut(entry) {
                Some(Program::KProbe(entry)) => kprobe(entry, target),
                _ => Err("its entry is not in the eBPF object".to_owned()),
            }
        }
        (Program::BtfTracePoint(program), How::TpBtf) => {
            let program: &mut BtfTracePoint = program;
            program.load(target, needs_btf()?).map_err(|e| brief(&e))?;
            program.attach().map(|_| ()).map_err(|e| brief(&e))
        }
        (Program::RawTracePoint(program), How::RawTp) => {
            let program: &mut RawTracePoint = program;
            program.load().map_err(|e| brief(&e))?;
            program.attach(target).map(|_| ()).map_err(|e| brief(&e))
        }
        (Program::TracePoint(program), How::Tracepoint(group)) => {
            let program: &mut TracePoint = program;
            program.load().map_err(|e| brief(&e))?;
            let attached = program.attach(group, target);
            attached.map(|_| ()).map_err(|e| brief(&e))
        }
        _ => Err("is another kind of program in the eBPF object".to_owned()),
    }
}

fn kprobe(program: &mut KProbe, target: &str) -> Result<(), String> {
    if program.fd().is_err() {
        program.load().map_err(|e| brief(&e))?;
    }
    program.attach(target, 0).map(|_| ()).map_err(|e| brief(&e))
}

// The type is named so that a kind that changes its API breaks the build here.
const _: fn(&mut FEntry, &str, &aya::Btf) -> Result<(), ProgramError> = FEntry::load;

/// The line of a verifier's log that says why: the last but for its statistics.
pub(super) fn last_words(log: &str) -> String {
    let statistics = ["processed", "verification time", "stack depth"];
    let line = log
        .lines()
        .rfind(|l| !l.trim().is_empty() && !statistics.iter().any(|s| l.starts_with(s)));
    line.unwrap_or_default().trim().chars().take(200).collect()
}

/// The innermost cause, in one line; the verifier's log only if it says why.
fn brief(error: &ProgramError) -> String {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        return match last_words(&verifier_log.to_string()) {
            line if line.is_empty() => io_error.to_string(),
            line => format!("{io_error}: {line}"),
        };
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // Not ENOTSUP: the C library has no words for it.
    let number = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    if number == Some(ENOTSUPP) {
        return format!("this kernel cannot attach so (os error {ENOTSUPP})");
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_just_ringing_is_soon_looked_at_again_and_not_for_ever() {
        let (rest, dying) = (Duration::from_millis(10), Duration::from_micros(50));
        let mut ringing = Ringing::default();
        assert_eq!(ringing.pause(rest), Ringing::PAUSE);
        assert_eq!(ringing.pause(dying), dying);
        let all: Duration = (2..Ringing::PAUSES).map(|_| ringing.pause(rest)).sum();
        assert!(all < Duration::from_millis(50), "{all:?}");
        assert_eq!(ringing.pause(rest), rest);
        assert_eq!(ringing.pause(rest), rest);
    }
}
