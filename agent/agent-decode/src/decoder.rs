//! Which of the things that a log says is the reason.

use agent_core::model::{ReasonCode, Report};

use crate::cause::{self, Cause, PanicText, Weight};
use crate::frames::{self, Header, Symbol};

/// Longest line that is kept, in bytes.
const LINE_MAX: usize = 1024;
/// A panic within so many lines of an oops is of that oops: after the end of
/// its report only the registers are printed once more.
const NEAR: u64 = 32;

/// Reads a log line by line, in constant memory.
///
/// The reason is what was said last before the panic that it led to: an oops
/// that the machine survived for days explains nothing, and a panic's own text
/// ("Fatal exception") mostly says nothing. Without a panic it is the gravest
/// that happened, and of those the first, which the others may have followed
/// from.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What happens now; later lines add to it.
    open: Option<Incident>,
    /// The first of each weight, for a log without panic.
    first: [Option<Incident>; 3],
    /// The last of each weight, for the panic that follows.
    last: [Option<Incident>; 3],
    /// A panic was said: from now on only what belongs to it is read.
    dead: bool,
    /// Why it died.
    death: Option<Incident>,
    /// From the banner of the boot.
    release: Option<String>,
    /// Lines read.
    lines: u64,
}

/// One thing that happened.
#[derive(Clone, Debug)]
struct Incident {
    weight: Weight,
    code: ReasonCode,
    line: String,
    function: Option<String>,
    module: Option<String>,
    release: Option<String>,
    comm: Option<String>,
    pid: Option<u32>,
    /// The line that completed its report: what follows is another.
    ended: Option<u64>,
}

impl Decoder {
    /// Reads the next line, as the kernel printed it (see [`crate::strip`]).
    pub fn line(&mut self, line: &str) {
        let line = clip(line.trim());
        self.lines += 1;
        match cause::of(line) {
            Some(Cause::Panic(text)) => self.panic(line, text),
            Some(Cause::Said(code, weight)) => self.said(line, code, weight),
            None => self.detail(line),
        }
    }

    /// The report, if anything happened.
    pub fn finish(mut self) -> Option<Report> {
        self.close();
        let [warning, trouble, oops] = self.first;
        let incident = self.death.or(oops).or(trouble).or(warning)?;
        Some(incident.report())
    }

    fn said(&mut self, line: &str, code: ReasonCode, weight: Weight) {
        if self.dead {
            return;
        }
        // An oops is announced by several lines; the first is the most precise.
        // Another oops inside it is what the first one caused.
        let is_within = |open: &Incident| open.weight == Weight::Oops && open.ended.is_none();
        if weight == Weight::Oops && self.open.as_ref().is_some_and(is_within) {
            return;
        }
        self.close();
        self.open = Some(Incident::new(line, code, weight));
    }

    fn panic(&mut self, line: &str, text: &str) {
        // Only the first counts: others come from CPUs that follow it.
        if self.dead {
            return;
        }
        self.close();
        self.dead = true;
        let [_, _, oops] = &self.last;
        let is_near = |end: u64| self.lines - end <= NEAR;
        let near = oops.as_ref().filter(|oops| oops.ended.is_none_or(is_near));
        let (before, code) = match cause::panic_text(text) {
            PanicText::AfterOops => (oops.as_ref(), ReasonCode::KernelPanic),
            // It dies by its own oops, or it exits.
            PanicText::InitExited => (
                oops.as_ref().filter(|oops| oops.pid == Some(1)),
                ReasonCode::InitExited,
            ),
            PanicText::Names(code) => {
                let mut all = self.last.iter().flatten();
                (all.find(|incident| incident.code == code), code)
            }
            PanicText::Itself => (near, ReasonCode::KernelPanic),
        };
        let new = || Incident::new(line, code, Weight::Oops);
        // The task and the release may only be said from here on.
        self.open = Some(before.cloned().unwrap_or_else(new));
    }

    fn detail(&mut self, line: &str) {
        if let Some(release) = frames::banner(line) {
            self.banner(release);
            return;
        }
        let Some(open) = &mut self.open else { return };
        if let Some(header) = Header::parse(line) {
            open.header(header);
        } else if let Some(symbol) = frames::fault(line)
            && open.has_place()
        {
            open.fault(symbol);
        } else if line.starts_with("---[ end ") {
            open.ended = Some(self.lines);
        }
    }

    /// Another boot begins: what was said belongs to the one before.
    fn banner(&mut self, release: &str) {
        self.close();
        self.release = Some(release.to_owned());
    }

    /// What was open is over; it is kept by weight, or it is the death.
    fn close(&mut self) {
        let Some(mut incident) = self.open.take() else {
            return;
        };
        if incident.release.is_none() {
            incident.release.clone_from(&self.release);
        }
        if self.dead {
            self.death = Some(incident);
            return;
        }
        let at = incident.weight as usize;
        self.first[at].get_or_insert_with(|| incident.clone());
        self.last[at] = Some(incident);
    }
}

fn is_panic(incident: &Incident) -> bool {
    matches!(cause::of(&incident.line), Some(Cause::Panic(_)))
}

impl Incident {
    fn new(line: &str, code: ReasonCode, weight: Weight) -> Self {
        let mut incident = Self {
            weight,
            code,
            line: line.to_owned(),
            function: None,
            module: None,
            release: None,
            comm: None,
            pid: None,
            ended: None,
        };
        match code {
            // `WARNING: … at foo+0x1/0x2`: the place is in the line itself.
            ReasonCode::Warning => {
                if let Some(symbol) = warned_at(line) {
                    incident.fault(symbol);
                }
            }
            ReasonCode::HungTask => {
                let task = line.strip_prefix("INFO: task ");
                let task = task.and_then(|t| t.split_once(" blocked for "));
                incident.task(task.map(|(task, _)| task));
            }
            ReasonCode::SoftLockup => {
                let task = line.rsplit_once('[').and_then(|(_, t)| t.strip_suffix(']'));
                incident.task(task);
            }
            _ => {}
        }
        incident
    }

    /// `comm:pid`.
    fn task(&mut self, task: Option<&str>) {
        if let Some((comm, pid)) = task.and_then(|task| task.rsplit_once(':')) {
            self.comm = Some(comm.to_owned());
            self.pid = pid.parse().ok();
        }
    }

    /// Whether the registers that are printed tell where it happened. Those of
    /// a bare panic are of whatever the interrupt that panicked had interrupted;
    /// but a lockup is found out by such an interrupt, and they are of the culprit.
    fn has_place(&self) -> bool {
        let is_lockup = matches!(
            self.code,
            ReasonCode::SoftLockup | ReasonCode::HardLockup | ReasonCode::RcuStall
        );
        is_lockup || !is_panic(self)
    }

    fn fault(&mut self, symbol: Symbol<'_>) {
        if self.function.is_none() {
            self.function = Some(symbol.function.to_owned());
            self.module = symbol.module.map(str::to_owned);
        }
    }

    fn header(&mut self, header: Header<'_>) {
        self.pid = self.pid.or(header.pid);
        let or = |have: &mut Option<String>, new: Option<&str>| {
            if have.is_none() {
                *have = new.map(str::to_owned);
            }
        };
        or(&mut self.comm, header.comm);
        or(&mut self.release, header.release);
    }

    fn report(mut self) -> Report {
        // Up to 4.20 sysrq-c wrote through a null pointer.
        if self.function.as_deref() == Some("sysrq_handle_crash") {
            self.code = ReasonCode::SysrqCrash;
        }
        Report {
            code: self.code,
            title: self.title(),
            corrupted: self.corrupted(),
            line: self.line,
            fault_function: self.function,
            module: self.module,
            kernel_release: self.release,
            comm: self.comm,
        }
    }

    fn title(&self) -> String {
        let phrase = cause::phrase(self.code);
        let mut title = match self.code {
            ReasonCode::KernelPanic | ReasonCode::Oops => {
                let said = match cause::of(&self.line) {
                    Some(Cause::Panic(text)) => text,
                    _ => &self.line,
                };
                format!("{phrase}: {said}")
            }
            ReasonCode::KernelBug => match self.line.split_once(" BUG at ") {
                Some((_, place)) => format!("{phrase} at {}", place.trim_end_matches('!')),
                None => phrase.to_owned(),
            },
            ReasonCode::HungTask | ReasonCode::SoftLockup => match &self.comm {
                Some(comm) => format!("{phrase} of {comm}"),
                None => phrase.to_owned(),
            },
            // Where sysrq is handled says nothing.
            ReasonCode::SysrqCrash => return phrase.to_owned(),
            _ => phrase.to_owned(),
        };
        if let Some(function) = &self.function {
            title.push_str(" in ");
            title.push_str(function);
        }
        if let Some(module) = &self.module {
            title.push_str(" [");
            title.push_str(module);
            title.push(']');
        }
        title
    }

    fn corrupted(&self) -> Option<String> {
        let is_bare = self.weight == Weight::Oops
            && self.function.is_none()
            && self.release.is_none()
            && !is_panic(self);
        is_bare.then(|| "the report breaks off after the line that says why".to_owned())
    }
}

/// The place in a warning: `WARNING: CPU: 0 PID: 1 at f.c:12 foo+0x1/0x2`, and
/// `WARNING: f.c:12 at foo+0x1/0x2, CPU#0: comm/1` from 6.18 on.
fn warned_at(line: &str) -> Option<Symbol<'_>> {
    let (_, after) = line.split_once(" at ")?;
    Symbol::parse(after).or_else(|| Symbol::parse(after.split_once(' ')?.1))
}

/// At most [`LINE_MAX`] bytes.
pub(crate) fn clip(line: &str) -> &str {
    &line[..line.floor_char_boundary(LINE_MAX)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(lines: &[&str]) -> Option<Report> {
        let mut decoder = Decoder::default();
        for line in lines {
            decoder.line(line);
        }
        decoder.finish()
    }

    #[test]
    fn of_the_release_the_header_is_believed_and_else_the_banner() {
        let banner = "Linux version 6.1.0-1 (x) #1";
        let bug = "kernel BUG at a.c:1!";
        let header = "CPU: 0 PID: 1 Comm: a Not tainted 6.1.0-2 #1";
        let next = "Linux version 6.1.0-3 (x) #1";
        let release = |lines: &[&str]| decode(lines).and_then(|r| r.kernel_release);
        assert_eq!(release(&[banner, bug, header]).as_deref(), Some("6.1.0-2"));
        assert_eq!(release(&[banner, bug, next]).as_deref(), Some("6.1.0-1"));
        assert_eq!(release(&[bug]), None);
    }

    #[test]
    fn the_first_oops_of_a_chain_is_the_reason() {
        let report = decode(&[
            "BUG: unable to handle page fault for address: 1",
            "RIP: 0010:first+0x1/0x2",
            "BUG: kernel NULL pointer dereference, address: 0",
            "RIP: 0010:second+0x1/0x2",
            "Kernel panic - not syncing: Fatal exception in interrupt",
            "Kernel panic - not syncing: something else",
        ])
        .expect("a report");
        assert_eq!(report.code, ReasonCode::PageFault);
        assert_eq!(report.fault_function.as_deref(), Some("first"));
    }

    #[test]
    fn what_an_interrupt_that_panics_has_interrupted_is_not_to_blame() {
        let report = decode(&[
            "Kernel panic - not syncing: boom in hardirq context",
            "CPU: 0 PID: 107 Comm: init Tainted: G           OE      6.1.0-50-cloud-amd64 #1",
            " asm_sysvec_irq_work+0x1a/0x20",
            "RIP: 0010:arch_irq_work_raise+0x25/0x30",
        ])
        .expect("a report");
        assert_eq!(report.fault_function, None);
        assert_eq!(report.title, "Kernel panic: boom in hardirq context");
        let report = decode(&[
            "Kernel panic - not syncing: softlockup: hung tasks",
            "RIP: 0010:boom_spin+0x5/0x20 [boom]",
        ])
        .expect("a report");
        assert_eq!(report.fault_function.as_deref(), Some("boom_spin"));
    }

    #[test]
    fn a_hung_task_s_second_line_has_the_release() {
        let report = decode(&[
            "INFO: task init:90 blocked for more than 1 seconds.",
            "      Tainted: G           OE      6.1.0-50-cloud-amd64 #1 Debian 6.1.176-1",
        ])
        .expect("a report");
        assert_eq!(
            report.kernel_release.as_deref(),
            Some("6.1.0-50-cloud-amd64")
        );
    }

    #[test]
    fn the_machine_s_memory_is_not_a_control_group_s() {
        let line = "Killed process 101 (eater) total-vm:1024kB, anon-rss:0kB";
        let machine = format!("Out of memory: {line}");
        let code = decode(&[machine.as_str()]).map(|report| report.code);
        assert_eq!(code, Some(ReasonCode::OutOfMemory));
        let group = format!("Memory cgroup out of memory: {line}");
        assert_eq!(decode(&[group.as_str()]), None);
    }

    #[test]
    fn an_oops_of_long_ago_is_not_why_a_panic_came() {
        let mut lines = vec![
            "kernel BUG at a.c:1!",
            "---[ end trace 0 ]---",
            "Kernel panic - not syncing: VFS: Unable to mount root fs",
        ];
        assert_eq!(decode(&lines).map(|r| r.code), Some(ReasonCode::KernelBug));
        lines.splice(2..2, std::iter::repeat_n("usb 1-1: hello", 100));
        let report = decode(&lines).expect("a report");
        assert_eq!(report.code, ReasonCode::KernelPanic);
        assert_eq!(report.title, "Kernel panic: VFS: Unable to mount root fs");
    }

    proptest! {
        #[test]
        fn any_lines_are_read_without_a_panic_and_a_report_is_bounded(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        "BUG: kernel NULL pointer dereference, address: 0",
                        "kernel BUG at ", "WARNING: CPU: 0 PID: 1 at ", "CPU: 0 PID: 1 Comm: ",
                        "RIP: 0010:a+0x1/0x2 [m]", "---[ end trace 0 ]---",
                        "Kernel panic - not syncing: ", "Linux version 6.1 ",
                        "watchdog: BUG: soft lockup - [", "INFO: task  blocked for more than ",
                    ]).prop_map(str::to_owned),
                    "\\PC{0,80}",
                    prop::collection::vec(any::<char>(), 0..2000)
                        .prop_map(|chars| format!("kernel BUG at {}", String::from_iter(chars))),
                ],
                0..40,
            ),
        ) {
            let mut decoder = Decoder::default();
            for line in &lines {
                decoder.line(crate::strip(line));
            }
            if let Some(report) = decoder.finish() {
                prop_assert!(report.line.len() <= LINE_MAX);
                prop_assert!(report.title.len() <= 2 * LINE_MAX + 100);
            }
        }
    }
}
