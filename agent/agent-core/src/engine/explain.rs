//! What a death means, in words: the reason, and whether to run the work again.

use std::fmt::Write;

use super::asked::asked_text;
use super::text::{escaped, rfc3339};
use crate::model::{
    Asker, Context, Death, DeathState, HoldPoint, KnownBug, Notice, Opinion, Packet, Proof,
    ReasonCode, Record, RecordKind, Report, RetryAdvice, Silence, Word,
};

/// Longest reason line, in bytes: fits an annotation, a condition's message
/// and two lines of a terminal.
const REASON_MAX: usize = 512;

/// What is said of a node where no channel spoke.
const UNHEARD: &str = "Ended without a word: power, hardware, hypervisor or firmware, or a kernel that could not speak";

/// What is said where nobody spoke who could prove who he is.
const UNPROVEN: &str = "Unauthenticated text";

/// Advice with the reason for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// Whether the work may be run again.
    pub advice: RetryAdvice,
    /// Why, for people.
    pub why: &'static str,
}

/// Whether the work of the node's pods may be run again.
///
/// It is *safe* where what killed the node is known not to be an act of a
/// process: broken hardware, a restart or crash that somebody ordered who is known
/// to be no process of a pod, an interrupt that the CPU served. A process of a pod can be behind any death
/// in process context, and behind memory exhaustion and lockups, so that is
/// *unknown*: running it again may take the next node down. *Unsafe* needs
/// more than one death and is not said here. Work in interrupt context can
/// still be caused from outside (a packet of death); the next node would get
/// that packet whether or not the pod runs there.
pub fn retry(death: &Death) -> Retry {
    let safe = |why| Retry {
        advice: RetryAdvice::Safe,
        why,
    };
    let unknown = |why| Retry {
        advice: RetryAdvice::Unknown,
        why,
    };
    if death.proof < Proof::P2
        || matches!(death.state, DeathState::Survived | DeathState::Revoked)
        || death.notice.is_some_and(|notice| !notice.is_final())
            && death.state != DeathState::Returned
    {
        return unknown("it is not established that the node died");
    }
    if death.notice.is_none() {
        return unknown("the node ended without a word; the workload may have brought it down");
    }
    let asked = death.word.as_ref().and_then(|word| word.asked.as_ref());
    let origin = asked.and_then(|asked| asked.origin());
    if origin.is_some_and(|asker| asker.pod_uid().is_some()) {
        return unknown("a process of a pod gave the order; run again, it may stop the next node");
    }
    let code = reason_code(death);
    if is_ordered(code) && !death.word.as_ref().is_some_and(is_of_the_machine) {
        return unknown(
            "whose process gave the order is not known; a pod's may have, and stop the next node",
        );
    }
    match code {
        ReasonCode::MachineCheck => {
            return safe("the hardware reported an error; no workload causes that");
        }
        ReasonCode::SysrqCrash => return safe("the crash was ordered by sysrq"),
        _ if is_ordered(code) => return safe("the node was stopped by an order, not by a fault"),
        ReasonCode::OutOfMemory => {
            return unknown("the node ran out of memory; the workload may have used it up");
        }
        ReasonCode::SoftLockup
        | ReasonCode::HardLockup
        | ReasonCode::HungTask
        | ReasonCode::RcuStall => {
            return unknown("what kept the kernel busy is not known; the workload may have");
        }
        _ => {}
    }
    match death.word.as_ref().map(|word| word.context) {
        Some(Context::Softirq | Context::Hardirq | Context::Nmi) => {
            safe("the kernel died while serving an interrupt, not in a process")
        }
        Some(Context::Process) => {
            unknown("the kernel died in the context of a process, which may be the workload's")
        }
        Some(Context::Unknown) | None => unknown("the context of the crash is not known"),
    }
}

/// Whether this is done because somebody asked for it.
pub(crate) fn is_ordered(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::Restart
            | ReasonCode::Halt
            | ReasonCode::PowerOff
            | ReasonCode::Kexec
            | ReasonCode::SysrqCrash
    )
}

/// Whether an order is known not to come out of a pod: from the machine's own
/// processes, or from none, as by a key.
fn is_of_the_machine(word: &Word) -> bool {
    match &word.asked {
        Some(asked) => asked.origin().is_none_or(Asker::is_of_the_machine),
        None => matches!(
            word.context,
            Context::Softirq | Context::Hardirq | Context::Nmi
        ),
    }
}

/// The machine's word for why.
pub fn reason_code(death: &Death) -> ReasonCode {
    death
        .report
        .as_ref()
        .map(|report| report.code)
        .or_else(|| death.notice.map(code_of))
        .unwrap_or(ReasonCode::Unknown)
}

/// One line for people, safe to print:
/// `Kernel panic: NULL pointer dereference in boom_timer [boom]`.
pub fn reason(death: &Death) -> String {
    let notice = match death.notice {
        None if death.proof == Proof::P0 => UNPROVEN,
        None => UNHEARD,
        Some(Notice::Oops) => "Kernel oops",
        Some(Notice::Panic) => "Kernel panic",
        Some(Notice::Restart) => "Restart without an orderly stop",
        Some(Notice::Halt) => "Halt without an orderly stop",
        Some(Notice::PowerOff) => "Power off without an orderly stop",
        Some(Notice::Kexec) => "Another kernel started by kexec",
        Some(Notice::EmergencyRestart) => "Emergency restart",
        Some(Notice::SoftLockup) => "Soft lockup",
        Some(Notice::HardLockup) => "Hard lockup",
        Some(Notice::HungTask) => "Hung task",
        Some(Notice::RcuStall) => "RCU stall",
        Some(Notice::OutOfMemory) => "Out of memory",
        Some(Notice::Prediction) => "Bug foreseen",
    };
    // Writing to a String cannot fail.
    let mut text = notice.to_owned();
    if let Some(report) = &death.report {
        let title = report.title.trim();
        if !title.is_empty() && title != notice {
            text.push_str(": ");
            let own = title
                .strip_prefix(notice)
                .and_then(|t| t.strip_prefix(": "));
            text.push_str(own.unwrap_or(title));
        }
        if let Some(module) = &report.module
            && !title.contains(&format!("[{module}]"))
        {
            let _ = write!(text, " [{module}]");
        }
    }
    if let Some(report) = &death.report {
        text.push_str(&known_bugs(&report.known_bugs));
    }
    let came = death.notice != Some(Notice::Prediction);
    if let Some(packet) = death.packet.as_ref().filter(|_| came) {
        let _ = write!(text, "; foreseen by its packet on {}", packet.way_out());
    }
    let ordered = is_ordered(reason_code(death));
    if let Some(word) = death.word.as_ref().filter(|_| ordered) {
        let known = word.notice.is_order() && !word.comm.is_empty();
        match &word.asked {
            Some(asked) => {
                let _ = write!(text, ", {}", asked_text(asked));
            }
            None if known => {
                let _ = write!(text, ", asked for by {} (pid {})", word.comm, word.pid);
            }
            None => {}
        }
    }
    escaped(&text, REASON_MAX)
}

/// Which known bug it is, behind what happened.
fn known_bugs(bugs: &[KnownBug]) -> String {
    let named = |bug: &KnownBug| match &bug.fixed_in {
        Some(version) => format!("{}, fixed in {version}", bug.id),
        None => bug.id.clone(),
    };
    match bugs {
        [] => String::new(),
        [bug] if bug.likely => format!("; known bug {}", named(bug)),
        [bug] => format!("; may be known bug {}", named(bug)),
        bugs => {
            let all: Vec<String> = bugs.iter().map(named).collect();
            format!("; may be one of these known bugs: {}", all.join("; "))
        }
    }
}

/// One line for people on a node that is silent.
pub fn silent(silence: &Silence) -> String {
    let text = match &silence.lease {
        Opinion::Renewed { .. } => {
            "Silent, but its Lease is renewed: the node lives, and its agent or the way from it is gone"
                .to_owned()
        }
        Opinion::NotRenewed { .. } => {
            "Silent, and its Lease is not renewed: down or cut off, and no channel said why"
                .to_owned()
        }
        Opinion::Nobody(why) => format!("Silent: down or cut off, and no channel said why; {why}"),
        Opinion::Open => "Silent: its Lease has not been looked at for long enough".to_owned(),
    };
    escaped(&text, REASON_MAX)
}

/// Who says so, for the annotation `by`.
pub fn by() -> &'static str {
    concat!("lastgasp-annotator/", env!("CARGO_PKG_VERSION"))
}

/// How much a report says. A death keeps the one that says most.
pub(super) fn quality(report: &Report) -> impl Ord + use<> {
    let precision = match report.code {
        ReasonCode::Unknown => 0,
        ReasonCode::Restart | ReasonCode::Halt | ReasonCode::PowerOff | ReasonCode::Kexec => 1,
        ReasonCode::KernelPanic | ReasonCode::Oops | ReasonCode::PredictedBug => 2,
        // A warning may have come long before what killed the node.
        ReasonCode::Warning => 3,
        _ => 4,
    };
    (
        precision,
        report.corrupted.is_none(),
        report.fault_function.is_some(),
        report.module.is_some(),
        report.known_bugs.first().map(|bug| bug.likely),
    )
}

/// Whether what the log says can be why a boot ended in this way.
///
/// The last lines before an ordered stop hold whatever went wrong in the days
/// before and was survived; the order is the reason. An emergency restart
/// follows a panic, whose words may be lost, but no warning leads to one
/// without a panic.
pub(super) fn may_be_why(report: &Report, notice: Notice) -> bool {
    match notice {
        Notice::Restart | Notice::Halt | Notice::PowerOff | Notice::Kexec => false,
        Notice::EmergencyRestart => report.code != ReasonCode::Warning,
        // What is said of a stall is about that stall, or about nothing.
        Notice::SoftLockup
        | Notice::HardLockup
        | Notice::HungTask
        | Notice::RcuStall
        | Notice::OutOfMemory => report.code == code_of(notice),
        Notice::Oops | Notice::Panic | Notice::Prediction => true,
    }
}

/// What the first words alone say, until the log is decoded.
pub(super) fn provisional(word: &Word) -> Report {
    if let Some(packet) = &word.packet {
        return foreseen(word, packet);
    }
    let line = word.line.trim();
    let title = line
        .strip_prefix("Kernel panic - not syncing: ")
        .unwrap_or(line);
    Report {
        code: code_of(word.outcome()),
        title: title.to_owned(),
        line: word.line.clone(),
        fault_function: None,
        module: None,
        kernel_release: None,
        comm: (!word.comm.is_empty()).then(|| word.comm.clone()),
        corrupted: None,
        fingerprint: None,
        known_bugs: Vec::new(),
    }
}

/// What a packet alone says.
fn foreseen(word: &Word, packet: &Packet) -> Report {
    Report {
        code: code_of(word.notice),
        title: packet_text(packet),
        line: packet.check.condition().to_owned(),
        fault_function: Some(SKB_SEGMENT.to_owned()),
        module: None,
        kernel_release: None,
        comm: None,
        corrupted: None,
        fingerprint: None,
        known_bugs: Vec::new(),
    }
}

/// The one function whose packets are looked at.
const SKB_SEGMENT: &str = "skb_segment";

/// What the kernel was about to do, and with what.
pub fn packet_text(packet: &Packet) -> String {
    let mut text = format!(
        "{SKB_SEGMENT} is about to hit {}: gso_size {}, element {} of {}",
        packet.check.condition(),
        packet.gso_size,
        packet.element.saturating_add(1),
        packet.elements,
    );
    let told = usize::try_from(packet.element).ok();
    if let Some(element) = told.and_then(|at| packet.list.get(at)) {
        let place = if element.in_a_page {
            ""
        } else {
            ", in no page"
        };
        let (len, linear) = (element.len, element.linear);
        let _ = write!(text, " has {linear} of {len} bytes in one piece{place}");
    }
    let way_out = packet.way_out();
    if !way_out.is_empty() {
        let _ = write!(text, "; on {way_out}");
    }
    text
}

/// Words in place of those that were lost, from a report that came.
pub(super) fn word_of(report: &Report, at_ns: u64) -> Word {
    stand_in(Notice::Oops, at_ns, Some(report))
}

/// The words that a record stands for. A panic was the boot's last act.
pub(super) fn word_of_record(record: &Record, report: Option<&Report>, printed_ns: u64) -> Word {
    match record.kind {
        RecordKind::Panic => stand_in(Notice::Panic, Word::LAST, report),
        RecordKind::Oops => stand_in(Notice::Oops, printed_ns, report),
    }
}

fn stand_in(notice: Notice, at_ns: u64, report: Option<&Report>) -> Word {
    Word {
        notice,
        cpu: 0,
        pid: 0,
        comm: report.and_then(|r| r.comm.clone()).unwrap_or_default(),
        context: Context::Unknown,
        line: report.map(|r| r.line.clone()).unwrap_or_default(),
        at_ns,
        held_ns: 0,
        held_at: HoldPoint::None,
        holds_expired: 0,
        asked: None,
        packet: None,
    }
}

/// A record as an entry of the timeline. The same record gives the same text.
pub(super) fn record_text(record: &Record, report: Option<&Report>) -> String {
    let kind = match record.kind {
        RecordKind::Panic => "panic",
        RecordKind::Oops => "oops",
    };
    let mut text = format!("{kind} recorded by {}", record.source);
    if let Some(at) = record.at {
        let _ = write!(text, " at {}", rfc3339(at));
    }
    if let Some(report) = report {
        let _ = write!(text, ": {}", report.title);
    }
    match record.missing {
        0 => {}
        parts => {
            let _ = write!(text, " ({parts} parts of it are lost)");
        }
    }
    text
}

/// An entry of the timeline.
pub(super) fn word_text(word: &Word) -> String {
    let notice = match word.notice {
        Notice::Oops => "oops",
        Notice::Panic => "panic",
        Notice::Restart => "restart",
        Notice::Halt => "halt",
        Notice::PowerOff => "power off",
        Notice::Kexec => "kexec",
        Notice::EmergencyRestart => "emergency restart",
        Notice::SoftLockup => "soft lockup",
        Notice::HardLockup => "hard lockup",
        Notice::HungTask => "hung task",
        Notice::RcuStall => "RCU stall",
        Notice::OutOfMemory => "out of memory",
        Notice::Prediction => "prediction",
    };
    let context = match word.context {
        Context::Unknown => "",
        Context::Process => ", process",
        Context::Softirq => ", softirq",
        Context::Hardirq => ", hardirq",
        Context::Nmi => ", NMI",
    };
    let mut text = format!("{notice} on CPU {}{context}", word.cpu);
    if !word.comm.is_empty() {
        let _ = write!(text, ", {} (pid {})", word.comm, word.pid);
    }
    if !word.line.is_empty() {
        text.push_str(": ");
        text.push_str(word.line.trim());
    }
    if let Some(packet) = &word.packet {
        text.push_str(": ");
        text.push_str(&packet_text(packet));
    }
    text
}

fn code_of(notice: Notice) -> ReasonCode {
    match notice {
        Notice::Oops => ReasonCode::Oops,
        Notice::Panic => ReasonCode::KernelPanic,
        Notice::Restart | Notice::EmergencyRestart => ReasonCode::Restart,
        Notice::Halt => ReasonCode::Halt,
        Notice::PowerOff => ReasonCode::PowerOff,
        Notice::Kexec => ReasonCode::Kexec,
        Notice::SoftLockup => ReasonCode::SoftLockup,
        Notice::HardLockup => ReasonCode::HardLockup,
        Notice::HungTask => ReasonCode::HungTask,
        Notice::RcuStall => ReasonCode::RcuStall,
        Notice::OutOfMemory => ReasonCode::OutOfMemory,
        Notice::Prediction => ReasonCode::PredictedBug,
    }
}
