//! One thing that happens, while its lines are read.

mod first;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blame::is_skipped;
use crate::frames::{self, Frame, Mark, Symbol};
use crate::header::{self, Header};
use crate::kind::{Kind, Weight};
use crate::text::{split_once, trim_start};
use crate::transport::Caller;

/// Functions that are kept of a stack.
const FRAMES_MAX: usize = 64;
/// Functions that a stack has mostly, or fewer.
const FRAMES_USUAL: usize = 24;
/// Functions that are kept which others were inlined into.
const INLINED_MAX: usize = 8;
/// Modules that are kept.
const MODULES_MAX: usize = 256;
/// Registers that are kept.
const REGISTERS_MAX: usize = 64;
/// So many lines in a row that are none of its own end a report.
const QUIET_LINES: u32 = 64;
/// But between the search for a process to kill and its end all of them may be listed.
const DUMP_LINES: u32 = 4096;
/// And so many bytes, of whoever else logs in between.
const QUIET_BYTES: u64 = 64 << 10;

/// What a named function was inlined into, where a tool says so: up to one that is a
/// function of its own.
#[derive(Clone, Debug, Default)]
struct Inlining {
    /// Functions, and their modules.
    into: Vec<(String, Option<String>)>,
    /// The last that was named was inlined: the next line has what into.
    goes_on: bool,
}

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
    /// The log begins inside of its report: nothing has said yet what happened.
    stray: Option<Stray>,
    /// A function that the first line names.
    named: Option<String>,
    named_module: Option<String>,
    fault: Option<String>,
    fault_module: Option<String>,
    inlining: Inlining,
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

/// What is known of an incident whose first lines are lost.
#[derive(Clone, Copy, Debug, Default)]
struct Stray {
    /// What only an oops says behind its stack was said.
    is_like_oops: bool,
    has_end: bool,
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
            stray: None,
            named: None,
            named_module: None,
            fault: None,
            fault_module: None,
            inlining: Inlining::default(),
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

    /// One whose first lines are lost: with this one the log begins.
    pub(crate) fn stray(printed_ns: Option<u64>, start: u64) -> Self {
        Self {
            stray: Some(Stray::default()),
            ..Self::new(Kind::Oops, "", printed_ns, start)
        }
    }

    /// Whether nothing has said yet what happened.
    pub(crate) fn is_stray(&self) -> bool {
        self.stray.is_some()
    }

    /// Whether it is known that something happened.
    pub(crate) fn is_sure(&self) -> bool {
        let is_oops = |stray: &Stray| stray.is_like_oops && stray.has_end;
        self.stray.as_ref().is_none_or(is_oops)
    }

    /// What was said before the first line: of a warning its own text.
    pub(crate) fn message(&mut self, message: &str) {
        if !message.is_empty() && self.condition.is_none() {
            self.condition = Some(message.to_owned());
        }
    }

    pub(crate) fn weight(&self) -> Weight {
        self.kind.weight()
    }

    /// Whether more lines may belong to it.
    pub(crate) fn is_open(&self) -> bool {
        let quiet = if self.is_undecided() {
            DUMP_LINES
        } else {
            QUIET_LINES
        };
        !self.is_ended && self.quiet < quiet
    }

    /// Whether another CPU is to blame for it that has not shown its stack.
    pub(crate) fn asks_for_stack(&self) -> bool {
        matches!(self.kind, Kind::RcuStall | Kind::HardLockup)
            && self.is_open()
            && self.fault.is_none()
            && self.frames.is_empty()
    }

    /// A line passes that is not the kernel's; `end` is where it ends.
    pub(crate) fn pass(&mut self, end: u64) {
        if end.saturating_sub(self.end) > QUIET_BYTES {
            self.quiet = DUMP_LINES;
        }
    }

    /// Reads the next line; `end` is where it ends.
    pub(crate) fn detail(&mut self, line: &str, end: u64) {
        if !self.is_open() {
            return;
        }
        if self.take(line) {
            (self.quiet, self.end) = (0, end);
        } else if !line.is_empty() {
            self.quiet += 1;
        }
    }

    /// Whether the line belongs to it.
    fn take(&mut self, line: &str) -> bool {
        if let Some(stray) = &mut self.stray {
            stray.is_like_oops |= is_behind_oops(line, !self.frames.is_empty());
            stray.has_end |= line.starts_with("---[ end ");
        }
        if line.starts_with("---[ end ") {
            // Where it was is said once more behind that.
            self.is_ended = !self.is_stray() || self.fault.is_some();
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
            if self.has_place() && !self.is_nowhere {
                if self.is_stray() && self.fault.is_none() {
                    line.clone_into(&mut self.line);
                }
                self.fault_in(&symbol);
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

    /// The CPU was in this function; with inlined ones there are several such lines.
    fn fault_in(&mut self, symbol: &Symbol<'_>) {
        let module = symbol.module.map(str::to_owned);
        if self.fault.is_none() {
            self.fault = Some(symbol.function.to_owned());
            self.fault_module = module;
        } else if self.inlining.goes_on && self.inlining.into.len() < INLINED_MAX {
            let function = symbol.function.to_owned();
            self.inlining.into.push((function, module));
        } else {
            return;
        }
        self.inlining.goes_on = symbol.is_inlined;
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
            // Up to 2.6.2x it begins on the same line.
            if let Some((_, rest)) = split_once(line, b':') {
                self.stack_line(trim_start(rest));
            }
            return true;
        }
        // Up to 4.8 a function may stand behind a mark.
        let mut line = line;
        while let Some((mark, rest)) = frames::mark(line) {
            self.context = match mark {
                Mark::Begin(stack) => Some(stack.into()),
                Mark::End => None,
            };
            line = trim_start(rest);
            if line.is_empty() {
                return true;
            }
        }
        let Some((symbol, reliable)) = frames::frame(line) else {
            if frames::is_user(line) {
                self.stack = Stack::After;
                return true;
            }
            return false;
        };
        // Of arm (32 bits) no line announces it.
        if self.stack == Stack::Before && line.contains(" from ") {
            self.stack = Stack::First;
        }
        if self.stack == Stack::First && self.frames.len() < FRAMES_MAX {
            let context = self.context.as_ref();
            self.frames.push(Frame::new(&symbol, reliable, context));
        }
        true
    }

    fn register_line(&mut self, line: &str) -> bool {
        let found = header::registers(line);
        // Those behind the first stack are of user space, or printed once more; but up to
        // 4.19 the address of a page fault comes last.
        for (name, value) in &found {
            let is_ours = self.stack == Stack::Before || *name == "CR2";
            if is_ours && self.registers.len() < REGISTERS_MAX {
                let entry = self.registers.entry((*name).to_owned());
                entry.or_insert_with(|| (*value).to_owned());
            }
        }
        !found.is_empty() || line.starts_with("Code: ")
    }

    /// What only some kinds say.
    fn said(&mut self, line: &str) -> bool {
        match self.kind {
            Kind::Lockdep => {
                // `ffff… (&x){+.+.}-{3:3}, at: foo+0x1/0x2`: the first is what was to be taken,
                // unless it is of the list of those that are held, and that is no matter.
                if let Some((_, at)) = line.split_once(", at: ").or(line.split_once(" at: ")) {
                    let is_of_list = line.starts_with('#') && !self.line.contains(" held");
                    // Where tools name what was inlined, it has a line of its own.
                    let was_inlined = std::mem::take(&mut self.inlining.goes_on);
                    let is_next = was_inlined && self.named.as_deref().is_some_and(is_skipped);
                    if (self.named.is_none() || is_next) && !is_of_list {
                        self.inlining.goes_on = line.ends_with("[inline]");
                        self.name(Some(at.rsplit_once(">] ").map_or(at, |(_, name)| name)));
                    }
                    return true;
                }
                // What a worker did that leaked a lock.
                let marks = ["last function: ", "workfn="];
                if let Some(work) = marks.iter().find_map(|mark| line.split_once(mark)) {
                    self.name(Some(work.1));
                    return true;
                }
                if let Some((place, _)) = line.split_once(" suspicious rcu_") {
                    self.place(Some(place));
                    return true;
                }
                false
            }
            Kind::Kasan | Kind::Kmsan | Kind::Kfence | Kind::Kcsan => {
                self.other_stack(line);
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
            Kind::MachineCheck | Kind::HardwareError => line.contains("[Hardware Error]: "),
            Kind::UnknownNmi => {
                line.starts_with("Do you have a strange ") || line.starts_with("Dazed and ")
            }
            Kind::OomKill if self.is_undecided() => {
                const OF_GROUP: [&str; 3] = [
                    "oom-kill:constraint=CONSTRAINT_MEMCG",
                    "memory: usage ",
                    "Task in /",
                ];
                if OF_GROUP.iter().any(|start| line.starts_with(start)) {
                    self.kind = Kind::CgroupOomKill;
                }
                false
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

    /// Stacks of sanitizers: of what was found, and of what was before.
    fn other_stack(&mut self, line: &str) {
        let is_one_of = |starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
        if line.contains(" (in kfence-#") || is_one_of(&["read to 0x", "write to 0x"]) {
            self.stack = match self.stack {
                Stack::Before => Stack::First,
                _ => Stack::After,
            };
        } else if is_one_of(&[
            "Allocated by ",
            "Freed by ",
            "Last potentially ",
            "Second to last ",
            "The buggy address ",
            "Memory state ",
            "Uninit was ",
            "Local variable ",
            "kfence-#",
            "allocated by ",
            "freed by ",
        ]) {
            self.stack = Stack::After;
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

/// Whether this line may be one inside of a report.
pub(crate) fn is_inside(line: &str) -> bool {
    frames::fault(line).is_some()
        || frames::is_stack(line)
        || frames::frame(line).is_some()
        || Header::parse(line).is_some()
        || !header::registers(line).is_empty()
        || ["Modules linked in:", "Code: "]
            .iter()
            .any(|start| line.starts_with(start))
}

/// Whether a report that has this line is of an oops: a warning has no list of modules and no
/// code behind its stack (x86's `__die_body`, arm64's `__die`), and does not say once more
/// where it was (x86 up to 4.x).
fn is_behind_oops(line: &str, has_frames: bool) -> bool {
    has_frames && (line.starts_with("Modules linked in:") || line.starts_with("Code: "))
        || line.starts_with("RIP  [<")
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
