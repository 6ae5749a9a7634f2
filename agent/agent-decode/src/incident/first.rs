//! What the first line of an incident says, and those that say it again.

use crate::blame::is_skipped;
use crate::frames::{self, Symbol};
use crate::kind::{Kind, Weight};

use super::{Incident, Stack, number_behind};

/// Not even a slow console takes so many nanoseconds for one report.
const TELLING_MAX: u64 = 10_000_000_000;

impl Incident {
    /// What the first line says besides what happened.
    pub(super) fn first_line(&mut self, line: &str) {
        match self.kind {
            Kind::Bug => self.place(line.split_once(" BUG at ").map(|(_, place)| place)),
            Kind::Warning => self.warning(line),
            Kind::Kasan | Kind::Kfence | Kind::Kmsan | Kind::Kcsan => {
                let named = line.split_once(" in ").map(|(_, named)| named);
                self.name(named);
                if self.kind == Kind::Kmsan {
                    // No line announces its stack.
                    self.stack = Stack::First;
                }
            }
            Kind::Ubsan => self.place(line.split_once(" in ").map(|(_, place)| place)),
            Kind::SleepInAtomic => self.place(line.split_once(" at ").map(|(_, place)| place)),
            Kind::HungTask => {
                let task = line.strip_prefix("INFO: task ");
                self.task(
                    task.and_then(|t| t.split_once(" blocked "))
                        .map(|(task, _)| task),
                );
            }
            Kind::SoftLockup => {
                let task = line.rsplit_once('[').and_then(|(_, t)| t.strip_suffix(']'));
                self.task(task);
                self.cpu = number_behind(line, "CPU#");
            }
            Kind::HardLockup => {
                self.cpu = number_behind(line, "on cpu ").or_else(|| number_behind(line, "CPU "));
            }
            Kind::SchedulingWhileAtomic => {
                // `BUG: scheduling while atomic: comm/pid/0x00000002`.
                let task = line.rsplit_once('/').map(|(task, _)| task);
                let task = task.and_then(|t| t.strip_prefix("BUG: scheduling while atomic: "));
                if let Some((comm, pid)) = task.and_then(|task| task.rsplit_once('/')) {
                    self.comm = Some(comm.to_owned());
                    self.pid = pid.parse().ok();
                }
            }
            Kind::StackOverflow => {
                let named = line.split_once(" stack is corrupted in: ");
                self.name(named.map(|(_, named)| named).filter(|n| n.contains("+0x")));
            }
            Kind::OomKill if is_search(line) => {
                let comm = line.split_once(" invoked ").map(|(comm, _)| comm);
                self.comm = comm.map(str::to_owned);
            }
            Kind::OomKill | Kind::CgroupOomKill => self.killed(line),
            Kind::ListCorruption | Kind::Refcount | Kind::Usercopy | Kind::Fortify => {
                self.condition = Some(line.to_owned());
            }
            Kind::Oops => {
                // `CFI failure at foo+0x1/0x2 (target: …)`, `Missing ENDBR: foo+0x1/0x2`.
                let starts = [
                    "CFI failure at ",
                    "Missing ENDBR: ",
                    "traps: Missing ENDBR: ",
                ];
                self.name(starts.iter().find_map(|start| line.strip_prefix(start)));
            }
            _ => {}
        }
    }

    /// `WARNING: CPU: 0 PID: 1 at f.c:12 foo+0x1/0x2`, `WARNING: f.c:12 at foo+0x1/0x2,
    /// CPU#0: comm/1` from 6.18 on; both with `[condition]` before the file, if it is known.
    fn warning(&mut self, line: &str) {
        let Some((before, after)) = line.split_once(" at ").or(line.split_once(": at ")) else {
            return;
        };
        let condition = |text: &str| {
            let (condition, _) = text.strip_prefix('[')?.rsplit_once("] ")?;
            Some(condition.to_owned())
        };
        let file_in = |text: &str| {
            let mut words = text.split_ascii_whitespace();
            words
                .find_map(frames::place)
                .map(|(file, line)| (file.to_owned(), line))
        };
        let old = file_in(after.split("+0x").next().unwrap_or(after));
        let new = before.strip_prefix("WARNING: ").unwrap_or("");
        self.condition = condition(after).or_else(|| condition(new));
        self.place = old.or_else(|| file_in(new));
        // The function is the first word with an offset; `file:12 function()` in 2.6.2x.
        let mut words = after.split_ascii_whitespace();
        let name = words.clone().find(|word| word.contains("+0x"));
        let old_name = || words.find_map(|word| word.rsplit('/').next()?.strip_suffix("()"));
        self.name(name.or_else(old_name));
        if self.named.is_some() && after.contains(" [") {
            let symbol = after.find("+0x").and_then(|at| {
                let start = after[..at].rfind(' ').map_or(0, |blank| blank + 1);
                Symbol::parse(&after[start..])
            });
            self.named_module = symbol.and_then(|s| s.module).map(str::to_owned);
        }
        if let Some((_, task)) = after.split_once(", CPU#") {
            self.cpu = task.split(':').next().and_then(|cpu| cpu.parse().ok());
            let task = task
                .split_once(": ")
                .and_then(|(_, task)| task.rsplit_once('/'));
            if let Some((comm, pid)) = task {
                self.comm = Some(comm.to_owned());
                self.pid = pid.trim().parse().ok();
            }
        } else {
            self.cpu = number_behind(line, "CPU: ");
            self.pid = number_behind(line, "PID: ");
        }
    }

    /// `Out of memory: Killed process 12 (name) total-vm:…`, and up to 4.18 `Kill process`.
    fn killed(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once(" process ") else {
            return;
        };
        let Some((pid, rest)) = rest.split_once(' ') else {
            return;
        };
        self.pid = pid.trim_end_matches(',').parse().ok();
        let name = rest
            .strip_prefix('(')
            .and_then(|rest| rest.split_once(") "));
        self.comm = name.map(|(name, _)| name.to_owned());
    }

    pub(super) fn place(&mut self, text: Option<&str>) {
        let found = text.and_then(frames::place);
        self.place = found.map(|(file, line)| (file.to_owned(), line));
    }

    /// A function that is named in words: `foo+0x1/0x2 [mod]`, `foo / bar`, `foo`.
    pub(super) fn name(&mut self, text: Option<&str>) {
        let Some(text) = text else { return };
        if let Some(symbol) = Symbol::parse(text) {
            self.named = Some(symbol.function.to_owned());
            self.named_module = symbol.module.map(str::to_owned);
            return;
        }
        let name = text.split([' ', '/', '+', ',']).next().unwrap_or("");
        let name = name.split('.').next().unwrap_or("");
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !name.is_empty() && name.bytes().all(is_name) {
            self.named = Some(name.to_owned());
        }
    }

    /// `comm:pid`.
    pub(super) fn task(&mut self, task: Option<&str>) {
        if let Some((comm, pid)) = task.and_then(|task| task.rsplit_once(':')) {
            self.comm = Some(comm.to_owned());
            self.pid = pid.parse().ok();
        }
    }

    /// Whether memory ran out, and so far nobody was killed for it.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.kind, Kind::OomKill | Kind::CgroupOomKill) && is_search(&self.line)
    }

    /// Whether nothing was read of it but its first line, and little of what others say.
    fn is_fresh(&self) -> bool {
        self.quiet < 3 && self.frames.is_empty() && self.release.is_none()
    }

    /// Whether a line that says that something happens says it of this one: an oops is
    /// announced by several lines, of which the first is the most precise.
    pub(crate) fn is_said_again(&self, kind: Kind, line: &str, printed_ns: Option<u64>) -> bool {
        if self.is_ended || self.is_stray() {
            return false;
        }
        // Another oops inside it is what the first one caused.
        if self.weight() == Weight::Oops && kind.weight() == Weight::Oops {
            return !self.is_over(printed_ns);
        }
        // Some are told by a BUG() or WARN() that follows, and by its place. A WARN() may
        // also come first.
        let is_check = matches!(kind, Kind::Bug | Kind::Warning | Kind::InvalidOpcode);
        let by_check = self.is_announced() && is_check && self.frames.is_empty();
        let of_warning = self.kind == Kind::Warning && names_more(kind) && self.is_fresh();
        // KASAN names what a trap then tells once more.
        let is_range = kind == Kind::Kasan && line.starts_with("KASAN: ");
        // What led to a trap of its own.
        let is_trapped = matches!(self.kind, Kind::SError | Kind::SysrqCrash)
            && kind.weight() == Weight::Oops
            && self.frames.is_empty();
        // Who is killed for want of memory is said last.
        let is_decided = self.is_undecided()
            && matches!(kind, Kind::OomKill | Kind::CgroupOomKill)
            && !is_search(line);
        let is_same = self.kind == kind && self.is_the_same(line);
        by_check || of_warning || is_range || is_trapped || is_decided || is_same
    }

    /// Whether it has told its stack, and what is told now, to which others have led over,
    /// or the clock, is another: of a file that logs were put together in, or whose end of it
    /// was lost.
    fn is_over(&self, printed_ns: Option<u64>) -> bool {
        let is_later = match (self.printed_ns, printed_ns) {
            (Some(before), Some(now)) => before.abs_diff(now) > TELLING_MAX,
            _ => self.quiet >= 2,
        };
        !self.frames.is_empty() && is_later
    }

    /// Whether this line, which is of the same kind, is of the same event.
    fn is_the_same(&self, line: &str) -> bool {
        // Where tools name what was inlined, each function has such a line.
        let is_inlined = self.line.ends_with("[inline]") && self.is_fresh();
        let same = match self.kind {
            // What is stuck is shown on several CPUs, and again.
            Kind::RcuStall => self.quiet < 4,
            // Each bank, device and pool has such a line.
            Kind::MachineCheck | Kind::HardwareError | Kind::WorkqueueLockup => self.quiet < 8,
            Kind::BadPage | Kind::Lockdep => self.is_fresh(),
            // Some say so of each object.
            Kind::MemoryLeak => self.is_fresh() && self.line.starts_with("BUG: "),
            // These are repeated for as long as they last.
            Kind::ConntrackFull | Kind::UnknownNmi => true,
            Kind::UnregisterNetdevice => {
                let device = |line: &str| line.split(' ').nth(3).map(str::to_owned);
                device(line) == device(&self.line)
            }
            // One for each symbol.
            Kind::ModuleLoad => line.split(':').next() == self.line.split(':').next(),
            _ => false,
        };
        is_inlined || same
    }

    /// Whether a BUG() or WARN() may follow that is of it.
    fn is_announced(&self) -> bool {
        names_more(self.kind) || matches!(self.kind, Kind::Lockdep | Kind::BadPage)
    }

    /// A line that says it again may know more.
    pub(crate) fn again(&mut self, kind: Kind, line: &str) {
        let more = Self::new(kind, line, None, 0);
        self.place = self.place.take().or(more.place);
        // Of what was inlined the first that is to blame.
        if self.named.as_deref().is_none_or(is_skipped) && more.named.is_some() {
            (self.named, self.named_module) = (more.named, more.named_module);
        }
        if kind == Kind::Kasan {
            self.condition = self.condition.take().or_else(|| Some(line.to_owned()));
        }
        if self.kind == Kind::Warning && kind != Kind::Warning {
            (self.kind, self.line) = (kind, line.to_owned());
            self.condition = more.condition;
        }
        if self.is_undecided() {
            (self.kind, self.line) = (kind, line.to_owned());
            (self.comm, self.pid) = (more.comm, more.pid);
        }
        self.cpu = self.cpu.or(more.cpu);
        self.pid = self.pid.or(more.pid);
        self.quiet = 0;
    }

    /// It ended in a panic of this kind, which this line says.
    pub(crate) fn ends_in(&mut self, kind: Kind, line: &str) {
        self.is_ended = false;
        // Nobody was found to be killed; or nothing else says what happened.
        if self.is_undecided() || self.stray.take().is_some() {
            self.kind = kind;
            line.clone_into(&mut self.line);
        }
    }
}

/// Kinds that a BUG() or WARN() tells of, whose own line says less.
fn names_more(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ListCorruption
            | Kind::Refcount
            | Kind::Usercopy
            | Kind::Fortify
            | Kind::NetdevWatchdog
    )
}

/// Whether memory ran out, and somebody to kill is looked for.
fn is_search(line: &str) -> bool {
    line.contains(" invoked oom-killer: ")
}
