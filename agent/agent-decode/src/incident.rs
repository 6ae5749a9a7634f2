//! One thing that happens, while its lines are read.

mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::frames::{self, Frame, Mark, Symbol};
use crate::header::{self, Header};
use crate::kind::{Kind, Weight};
use crate::transport::Caller;

/// Functions that are kept of a stack.
const FRAMES_MAX: usize = 64;
/// Functions that a stack has mostly, or fewer.
const FRAMES_USUAL: usize = 24;
/// Modules that are kept.
const MODULES_MAX: usize = 256;
/// Registers that are kept.
const REGISTERS_MAX: usize = 64;
/// So many lines in a row that are none of its own end a report.
const QUIET_LINES: u32 = 64;
/// And so many bytes, of whoever else logs in between.
const QUIET_BYTES: u64 = 64 << 10;

/// One thing that happens; later lines add to it.
#[derive(Clone, Debug)]
pub(crate) struct Incident {
    pub(crate) kind: Kind,
    /// The line that says what.
    pub(crate) line: String,
    pub(crate) panic: Option<String>,
    pub(crate) caller: Option<Caller>,
    pub(crate) pid: Option<u32>,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Its report is complete: what follows is another.
    pub(crate) is_ended: bool,
    /// A function that the first line names.
    named: Option<String>,
    named_module: Option<String>,
    fault: Option<String>,
    fault_module: Option<String>,
    /// It had jumped to where no code is.
    is_nowhere: bool,
    place: Option<(String, u32)>,
    condition: Option<String>,
    frames: Vec<Frame>,
    stack: Stack,
    context: Option<Arc<str>>,
    release: Option<String>,
    version: Option<String>,
    taint: Option<String>,
    modules: Vec<String>,
    is_in_modules: bool,
    cpu: Option<u32>,
    comm: Option<String>,
    workqueue: Option<String>,
    hardware: Option<String>,
    registers: BTreeMap<String, String>,
    printed_ns: Option<u64>,
    quiet: u32,
}

/// Which stack is read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stack {
    /// None has begun.
    #[default]
    Before,
    /// The first, whose functions are kept.
    First,
    /// It is over; of others (who allocated, who freed) nothing is kept.
    After,
}

impl Incident {
    pub(crate) fn new(kind: Kind, line: &str, printed_ns: Option<u64>, start: u64) -> Self {
        let mut incident = Self {
            kind,
            line: line.to_owned(),
            panic: None,
            caller: None,
            pid: None,
            start,
            end: start,
            is_ended: false,
            named: None,
            named_module: None,
            fault: None,
            fault_module: None,
            is_nowhere: false,
            place: None,
            condition: None,
            frames: Vec::new(),
            stack: Stack::Before,
            context: None,
            release: None,
            version: None,
            taint: None,
            modules: Vec::new(),
            is_in_modules: false,
            cpu: None,
            comm: None,
            workqueue: None,
            hardware: None,
            registers: BTreeMap::new(),
            printed_ns,
            quiet: 0,
        };
        incident.first_line(line);
        incident
    }

    /// What the first line says besides what happened.
    fn first_line(&mut self, line: &str) {
        match self.kind {
            Kind::Bug => self.place(line.split_once(" BUG at ").map(|(_, place)| place)),
            Kind::Warning => self.warning(line),
            Kind::Kasan | Kind::Kfence | Kind::Kmsan | Kind::Kcsan => {
                let named = line.split_once(" in ").map(|(_, named)| named);
                self.name(named);
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
            Kind::OomKill | Kind::CgroupOomKill => self.killed(line),
            Kind::ListCorruption | Kind::Refcount | Kind::Usercopy | Kind::Fortify => {
                self.condition = Some(line.to_owned());
            }
            Kind::Oops => {
                // `CFI failure at foo+0x1/0x2 (target: …)`, `Missing ENDBR: foo+0x1/0x2`.
                let starts = ["CFI failure at ", "Missing ENDBR: "];
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
        // The function is the first word with an offset.
        self.name(
            after
                .split_ascii_whitespace()
                .find(|word| word.contains("+0x")),
        );
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

    fn place(&mut self, text: Option<&str>) {
        let found = text.and_then(frames::place);
        self.place = found.map(|(file, line)| (file.to_owned(), line));
    }

    /// A function that is named in words: `foo+0x1/0x2 [mod]`, `foo / bar`, `foo`.
    fn name(&mut self, text: Option<&str>) {
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
    fn task(&mut self, task: Option<&str>) {
        if let Some((comm, pid)) = task.and_then(|task| task.rsplit_once(':')) {
            self.comm = Some(comm.to_owned());
            self.pid = pid.parse().ok();
        }
    }

    /// What was said before the first line: of a warning its own text.
    pub(crate) fn message(&mut self, message: &str) {
        if !message.is_empty() && self.condition.is_none() {
            self.condition = Some(message.to_owned());
        }
    }

    /// Whether a line that says that something happens says it of this one: an oops is
    /// announced by several lines, of which the first is the most precise.
    pub(crate) fn is_said_again(&self, kind: Kind, line: &str) -> bool {
        if self.is_ended {
            return false;
        }
        // Another oops inside it is what the first one caused.
        if self.weight() == Weight::Oops && kind.weight() == Weight::Oops {
            return true;
        }
        // Some are told by a BUG() or WARN() that follows, and by its place.
        let is_announced = matches!(
            self.kind,
            Kind::ListCorruption
                | Kind::Refcount
                | Kind::Usercopy
                | Kind::Fortify
                | Kind::NetdevWatchdog
                | Kind::Lockdep
                | Kind::BadPage
        );
        let is_check = matches!(kind, Kind::Bug | Kind::Warning | Kind::InvalidOpcode);
        // What is stuck is shown on several CPUs, and again.
        let is_same_stall = self.kind == kind && matches!(kind, Kind::RcuStall) && self.quiet < 4;
        // KASAN names what a trap then tells once more.
        let is_range = kind == Kind::Kasan && line.starts_with("KASAN: ");
        is_announced && is_check && self.frames.is_empty() || is_same_stall || is_range
    }

    /// A line that says it again may know more.
    pub(crate) fn again(&mut self, kind: Kind, line: &str) {
        let more = Self::new(kind, line, None, 0);
        self.place = self.place.take().or(more.place);
        if self.named.is_none() {
            (self.named, self.named_module) = (more.named, more.named_module);
        }
        if kind == Kind::Kasan {
            self.condition = self.condition.take().or_else(|| Some(line.to_owned()));
        }
        self.cpu = self.cpu.or(more.cpu);
        self.pid = self.pid.or(more.pid);
    }

    pub(crate) fn weight(&self) -> Weight {
        self.kind.weight()
    }

    /// Whether more lines may belong to it.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_ended && self.quiet < QUIET_LINES
    }

    /// A line passes that is not the kernel's; `end` is where it ends.
    pub(crate) fn pass(&mut self, end: u64) {
        if end.saturating_sub(self.end) > QUIET_BYTES {
            self.quiet = QUIET_LINES;
        }
    }

    /// Reads the next line; `end` is where it ends.
    pub(crate) fn detail(&mut self, line: &str, end: u64) {
        if !self.is_open() {
            return;
        }
        if self.take(line) {
            (self.quiet, self.end) = (0, end);
        } else {
            self.quiet += 1;
        }
    }

    /// Whether the line belongs to it.
    fn take(&mut self, line: &str) -> bool {
        if line.starts_with("---[ end ") {
            self.is_ended = true;
            return true;
        }
        if let Some(header) = Header::parse(line) {
            self.header(&header);
            return true;
        }
        if let Some(name) = header::hardware(line) {
            self.hardware.get_or_insert_with(|| name.to_owned());
            return true;
        }
        if let Some(work) = line.strip_prefix("Workqueue: ") {
            self.workqueue.get_or_insert_with(|| work.trim().to_owned());
            return true;
        }
        if let Some(symbol) = frames::fault(line) {
            if self.has_place() && self.fault.is_none() && !self.is_nowhere {
                self.fault = Some(symbol.function.to_owned());
                self.fault_module = symbol.module.map(str::to_owned);
            }
            return true;
        }
        if frames::is_nowhere(line) {
            self.is_nowhere |= self.fault.is_none() && self.frames.is_empty();
            return true;
        }
        if line.starts_with("Modules linked in:") || self.is_in_modules && is_module_list(line) {
            self.is_in_modules = true;
            let room = MODULES_MAX.saturating_sub(self.modules.len());
            self.modules
                .extend(header::modules(line).take(room).map(str::to_owned));
            return true;
        }
        self.is_in_modules = false;
        self.stack_line(line) || self.register_line(line) || self.said(line)
    }

    fn header(&mut self, header: &Header<'_>) {
        let or = |have: &mut Option<String>, new: Option<&str>| {
            if have.is_none() {
                *have = new.map(str::to_owned);
            }
        };
        self.pid = self.pid.or(header.pid);
        self.cpu = self.cpu.or(header.cpu);
        or(&mut self.comm, header.comm);
        or(&mut self.taint, header.taint);
        if self.release.is_none() {
            or(&mut self.version, header.version);
        }
        or(&mut self.release, header.release);
    }

    fn stack_line(&mut self, line: &str) -> bool {
        if frames::is_stack(line) {
            self.stack = match self.stack {
                Stack::Before => {
                    self.frames.reserve(FRAMES_USUAL);
                    Stack::First
                }
                // A stack without any function is none.
                Stack::First if self.frames.is_empty() => Stack::First,
                _ => Stack::After,
            };
            return true;
        }
        if let Some(mark) = frames::mark(line) {
            self.context = match mark {
                Mark::Begin(stack) => Some(stack.into()),
                Mark::End => None,
            };
            return true;
        }
        let Some((symbol, reliable)) = frames::frame(line) else {
            if frames::is_user(line) {
                self.stack = Stack::After;
                return true;
            }
            return false;
        };
        if self.stack == Stack::First && self.frames.len() < FRAMES_MAX {
            let context = self.context.as_ref();
            self.frames.push(Frame::new(&symbol, reliable, context));
        }
        true
    }

    fn register_line(&mut self, line: &str) -> bool {
        let found = header::registers(line);
        // Those behind the first stack are of user space, or printed once more.
        if self.stack == Stack::Before {
            for (name, value) in &found {
                if self.registers.len() < REGISTERS_MAX {
                    let entry = self.registers.entry((*name).to_owned());
                    entry.or_insert_with(|| (*value).to_owned());
                }
            }
        }
        !found.is_empty() || line.starts_with("Code: ")
    }

    /// What only some kinds say.
    fn said(&mut self, line: &str) -> bool {
        match self.kind {
            Kind::Lockdep => {
                // `ffff… (&x){+.+.}-{3:3}, at: foo+0x1/0x2`: the first is what was to be taken.
                if let Some((_, at)) = line.split_once(", at: ").or(line.split_once(" at: ")) {
                    if self.named.is_none() {
                        self.name(Some(at.rsplit_once(">] ").map_or(at, |(_, name)| name)));
                    }
                    return true;
                }
                if let Some((place, _)) = line.split_once(" suspicious rcu_") {
                    self.place(Some(place));
                    return true;
                }
                false
            }
            Kind::Kasan | Kind::Kmsan | Kind::Kfence => {
                let is_access = ["Read of size ", "Write of size ", "Free of addr "];
                let is_access = is_access.iter().any(|start| line.starts_with(start));
                if is_access {
                    self.condition.get_or_insert_with(|| line.to_owned());
                    let task = line.split_once(" by task ").map(|(_, task)| task);
                    if let Some((comm, pid)) = task.and_then(|task| task.rsplit_once('/')) {
                        self.comm.get_or_insert_with(|| comm.to_owned());
                        self.pid = self.pid.or(pid.parse().ok());
                    }
                }
                is_access
            }
            Kind::Ubsan if self.condition.is_none() && self.quiet == 0 => {
                self.condition = Some(line.to_owned());
                true
            }
            Kind::HungTask => {
                // The state line comes before a stack that old kernels do not announce.
                line.starts_with("task:") || line.contains(" disables this message")
            }
            Kind::RcuStall => {
                line.starts_with("rcu: ") || line.starts_with("NMI backtrace for cpu")
            }
            Kind::NullPointerDereference | Kind::PageFault => {
                // arch/arm64/mm/fault.c: what the registers of the fault say.
                const STARTS: [&str; 10] = [
                    "#PF: ",
                    "PGD ",
                    "Mem abort info:",
                    "ESR = ",
                    "EC = ",
                    "SET = ",
                    "EA = ",
                    "FSC = ",
                    "Data abort info:",
                    "swapper pgtable:",
                ];
                STARTS.iter().any(|start| line.starts_with(start))
            }
            _ => false,
        }
    }

    /// Whether the registers that are printed tell where it happened. Those of
    /// a bare panic are of whatever the interrupt that panicked had interrupted;
    /// but a lockup is found out by such an interrupt, and they are of the culprit.
    fn has_place(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Panic
                | Kind::SysrqCrash
                | Kind::InitExited
                | Kind::OomPanic
                | Kind::OomKill
                | Kind::CgroupOomKill
                | Kind::UnknownNmi
                | Kind::HungTask
                | Kind::Kasan
                | Kind::Kmsan
                | Kind::Kcsan
                | Kind::Ubsan
                | Kind::Lockdep
                | Kind::SleepInAtomic
                | Kind::SchedulingWhileAtomic
                | Kind::BadPage
                | Kind::SlabCorruption
                | Kind::MemoryLeak
                | Kind::HardwareError
                | Kind::Watchdog
        ) && (self.panic.is_none() || self.weight() != Weight::Warning)
    }

    /// Whether somebody's code is to blame for it at all.
    fn has_culprit(&self) -> bool {
        !matches!(
            self.kind,
            Kind::SysrqCrash
                | Kind::InitExited
                | Kind::OomPanic
                | Kind::OomKill
                | Kind::CgroupOomKill
                | Kind::MachineCheck
                | Kind::HardwareError
                | Kind::UnknownNmi
                | Kind::Watchdog
                | Kind::ModuleLoad
                | Kind::BpfVerifier
                | Kind::ConntrackFull
                | Kind::UnregisterNetdevice
        )
    }
}

/// What the beginning of a boot says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Boot {
    pub(crate) release: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) hardware: Option<String>,
}

/// Whether a line may go on with the list of modules: only names, and their taint.
fn is_module_list(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let is_char =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'(' | b')' | b'+');
    !line.is_empty()
        && !line.contains("+0x")
        && (line.contains("[last unloaded") || words.all(|word| word.bytes().all(is_char)))
        && line.contains(' ')
}

/// The number behind a mark.
fn number_behind(line: &str, mark: &str) -> Option<u32> {
    let (_, rest) = line.split_once(mark)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}
