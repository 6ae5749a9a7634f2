//! The ways to die in the lab: data only. The machine's PID 1 (`tests/guest`)
//! takes the steps of one, the cases (`tests/cases`) hold what came out against
//! the rest of it, and the demo lists them. A new way is one entry in
//! `table.rs`; a new kind of step is a variant here and an arm in the guest.

#![forbid(unsafe_code)]

mod table;

use agent_core::model::{Check, Context, Means, Notice, ReasonCode};

pub use table::ALL;

/// Where the crash module lies in the guest, on a kernel that has one.
pub const MODULE: &str = "/modules/boom.ko";

/// A way to die, and what must come of it.
#[derive(Debug)]
pub struct Way {
    /// What people call it.
    pub name: &'static str,
    /// What to do, in order. A kernel that has not all of the files that are
    /// written or loaded cannot die this way.
    pub steps: &'static [Step],
    /// What the kernel does in the end.
    pub notice: Notice,
    /// The annotator's reason code.
    pub code: ReasonCode,
    /// How the line that says why begins ([`Way::is_why`]), or `one|other` where
    /// kernels differ; empty: the kernel prints none.
    pub line: &'static str,
    /// The function that is to blame.
    pub function: Option<&'static str>,
    /// Where it happens.
    pub context: Context,
    /// What of it must get out.
    pub demand: Demand,
}

/// A packet that the kernel stops at, and what is to be told of it before.
#[derive(Debug)]
pub struct Foreseen {
    /// What the crash module calls it (`boom.c`); `traffic` is that of [`Step::Traffic`].
    pub kind: &'static str,
    /// What the kernel stops at.
    pub check: Check,
    /// Its `gso_size`.
    pub gso_size: u32,
    /// Bytes of the elements of its list.
    pub list: &'static [u32],
    /// The device that it leaves by, and the driver of that.
    pub device: (&'static str, &'static str),
    /// A function on the way there.
    pub caller: &'static str,
}

/// One thing that PID 1 does, or the machine's surroundings do to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Writes a text into a file: a sysctl, a parameter, sysrq.
    Write(&'static str, &'static str),
    /// Does nothing; but a machine that has another text in this file cannot die so.
    Need(&'static str, &'static str),
    /// The same; but any other text has to be around this one.
    NeedPart(&'static str, &'static str),
    /// Loads the crash module: this fault in this context
    /// (`tests/guest/module/boom.c`).
    Module {
        /// The fault.
        kind: &'static str,
        /// The context.
        how: &'static str,
    },
    /// The same in a process of its own: an oops kills the task that has it,
    /// and a dead PID 1 would be a panic.
    ModuleInChild {
        /// The fault.
        kind: &'static str,
        /// The context.
        how: &'static str,
    },
    /// reboot(2), at once, by PID 1.
    Order(End),
    /// The same, or telling PID 1 to, by a process in the cgroup of a pod
    /// ([`POD_CGROUPS`]).
    ByPod(By),
    /// Loads something for [`End::Kexec`] to start.
    LoadKernel,
    /// Sends network traffic that a kernel with CVE-2024-42281 does not survive
    /// (`tests/guest/src/traffic.rs`).
    Traffic,
    /// PID 1 ends.
    Exit,
    /// Takes a network device down.
    Down(&'static str),
    /// A process takes memory until the kernel kills it.
    EatMemory,
    /// The kernel's thread that begins grace periods of RCU leaves this CPU: one that waits
    /// for a CPU that stalls begins none, and so finds none late.
    RcuElsewhere,
    /// A command to QEMU's monitor, when all else is done.
    Monitor(&'static str),
}

/// What reboot(2) can be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// To restart.
    Restart,
    /// To power off.
    PowerOff,
    /// To halt: the machine stays, and does nothing any more.
    Halt,
    /// To start the kernel that was loaded.
    Kexec,
}

/// How a process of a pod has the machine stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// It does so itself.
    Process(End),
    /// It sends PID 1 this signal, on which that restarts the machine.
    Signal(i32),
    /// It runs a command of this name, which does nothing by itself.
    Command(&'static str),
}

/// A pod's uid, as its cgroup has it.
pub const POD_UID: &str = "7d3c0f1e-5a64-4b0e-9c1d-2e8f6a7b9c0d";

/// The path of its container's cgroup, as systemd names it.
pub const POD_CGROUPS: [&str; 4] = [
    "kubepods.slice",
    "kubepods-burstable.slice",
    "kubepods-burstable-pod7d3c0f1e_5a64_4b0e_9c1d_2e8f6a7b9c0d.slice",
    "cri-containerd-4f1d9d3a0c5be8f27a6e1b4c8d9e0f3a2b5c7d8e9f1a0b3c4d5e6f7a8b9c0d1e.scope",
];

/// How much of a death must get out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Demand {
    /// First word, reason, and every line.
    Everything,
    /// First word and reason; lines may be lost, by the way's nature.
    Word,
    /// Nothing can get out for sure; but the machine must not hang.
    End,
}

impl Way {
    /// Whether the machine lives on.
    pub fn is_survived(&self) -> bool {
        !self.notice.is_final()
    }

    /// What must get out of a machine with this many CPUs. With one there is nobody
    /// to send while the kernel dies; an order to stop takes its time with user space
    /// alive, and what is survived is told afterwards.
    pub fn demand_on(&self, cpus: u32) -> Demand {
        let is_slow =
            self.is_survived() || self.notice.is_order() && self.notice != Notice::EmergencyRestart;
        if cpus > 1 || is_slow {
            self.demand
        } else {
            Demand::End
        }
    }

    /// Whether it may happen there: a machine check that interrupts user space is no
    /// NMI to the kernel (`exc_machine_check_user`, arch/x86/kernel/cpu/mce/core.c).
    pub fn happens_in(&self, context: Context) -> bool {
        let by_process = self.code == ReasonCode::MachineCheck && context == Context::Process;
        by_process || context == self.context
    }

    /// Whether a line is the one that says why. From 6.10 on traps are named
    /// behind a word: `Oops: divide error: 0000 [#1]`.
    pub fn is_why(&self, text: &str) -> bool {
        let text = text.strip_prefix("Oops: ").unwrap_or(text);
        self.line.split('|').any(|line| text.starts_with(line))
    }

    /// Whether the machine goes: one that halts stays as it is.
    pub fn ends(&self) -> bool {
        !self.is_survived() && self.notice != Notice::Halt
    }

    /// Whether only an x86 processor can: the module has the code for no other, and
    /// arm64's `die()` waits for its own lock if it is called again, for ever.
    pub fn is_of_x86(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Module { kind, how } | Step::ModuleInChild { kind, how } => {
                matches!(*kind, "gpf" | "div" | "df" | "nested") || *how == "nmi"
            }
            _ => false,
        })
    }

    /// Whether it takes a second CPU: on the one that stands still no grace period of
    /// RCU begins, so none is late.
    pub fn is_of_several_cpus(&self) -> bool {
        let stalls = |step: &Step| matches!(step, Step::Module { kind: "stall", .. });
        self.steps.iter().any(stalls)
    }

    /// Who in the pod asks for it, or tells PID 1 to, if anybody does: the name of
    /// the process, and how it tells.
    pub fn asked(&self) -> Option<(&'static str, Option<Means>)> {
        self.steps.iter().find_map(|step| match step {
            Step::ByPod(By::Process(_)) => Some(("reboot", None)),
            Step::ByPod(By::Signal(signal)) => Some(("kured", Some(Means::Signal(*signal as u8)))),
            Step::ByPod(By::Command(command)) => {
                let name = command.split(' ').next().unwrap_or_default();
                Some((name, Some(Means::Command)))
            }
            _ => None,
        })
    }

    /// The packet that it dies of, which is told beforehand.
    pub fn foreseen(&self) -> Option<&'static Foreseen> {
        let of = |kind: &str| table::FORESEEN.iter().find(|f| f.kind == kind);
        self.steps.iter().find_map(|step| match step {
            Step::Module { kind, .. } | Step::ModuleInChild { kind, .. } => of(kind),
            Step::Traffic => of("traffic"),
            _ => None,
        })
    }

    /// The known bug that it dies of, if it is one.
    pub fn bug(&self) -> Option<&'static str> {
        let is_it = |step: &Step| *step == Step::Traffic;
        self.steps.iter().any(is_it).then_some("cve-2024-42281")
    }

    /// What is written into files for it.
    pub fn writes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Write(path, text) => Some((*path, *text)),
            _ => None,
        })
    }

    /// What is done to the machine from outside.
    pub fn monitor(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Monitor(command) => Some(*command),
            _ => None,
        })
    }

    /// The files that a kernel must have for it.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Write(path, _) | Step::Need(path, _) | Step::NeedPart(path, _) => Some(*path),
            Step::Module { .. } | Step::ModuleInChild { .. } => Some(MODULE),
            _ => None,
        })
    }
}

/// The way of this name.
pub fn named(name: &str) -> Option<&'static Way> {
    ALL.iter().find(|way| way.name == name)
}

/// The names of all of them, or of those that bring a word out.
pub fn names(with_word: bool) -> impl Iterator<Item = &'static str> {
    ALL.iter()
        .filter(move |way| !with_word || way.demand != Demand::End)
        .map(|way| way.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_and_does_something() {
        for way in ALL {
            assert!(std::ptr::eq(named(way.name).expect("itself"), way));
            assert!(!way.steps.is_empty(), "{}", way.name);
        }
        assert!(named("old-age").is_none());
        assert!(names(true).count() < names(false).count());
    }

    #[test]
    fn what_a_way_writes_is_what_a_kernel_must_have() {
        let way = named("soft-lockup-panic").expect("it");
        assert!(way.files().any(|file| file.ends_with("softlockup_panic")));
        assert!(!way.is_survived());
    }

    #[test]
    fn the_line_that_says_why_has_another_word_before_it_on_newer_kernels() {
        let way = named("div-process").expect("it");
        assert!(way.is_why("divide error: 0000 [#1] PREEMPT SMP NOPTI"));
        assert!(way.is_why("Oops: divide error: 0000 [#1] SMP NOPTI"));
        assert!(!way.is_why("boom: divide error: 0000"));
    }
}
