//! A report for people: what happened, where, what it means, what to do.

use std::fmt::Write as _;

use agent_decode::bugs::Candidate;
use agent_decode::{Frame, Report, Source};

use super::super::known;
use super::super::out::{self, Style, sanitize, styled};

/// Functions of the stack that are shown.
const FRAMES: usize = 12;

/// The lines of a report; an empty one stands before all but the first.
pub(super) fn text(file: &str, report: &Report, known: &[Candidate], is_first: bool) -> String {
    let colour = out::colour();
    let mut text = String::new();
    if !is_first {
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{}",
        styled(&sanitize(&report.title), Style::Bold, colour)
    );
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "  {name:<10} {}", sanitize(&value));
        }
    };
    row("reason", Some(report.kind.as_str().to_owned()));
    row("said", Some(report.line.clone()));
    row(
        "detail",
        report.condition.clone().filter(|said| *said != report.line),
    );
    row(
        "panic",
        report
            .panic
            .clone()
            .filter(|said| !report.line.contains(said.as_str())),
    );
    row(
        "blamed",
        with_module(report.blamed_function.as_deref(), report.module.as_deref()),
    );
    let fault = report.fault_function.as_ref();
    row(
        "in",
        fault
            .filter(|f| Some(*f) != report.blamed_function.as_ref())
            .cloned(),
    );
    let place = report.source_file.as_ref().zip(report.source_line);
    row("at", place.map(|(file, line)| format!("{file}:{line}")));
    row("task", task(report));
    row("kernel", kernel(report));
    row("machine", report.hardware.clone());
    row("tainted", taint(report));
    row("damaged", report.corrupted.clone());
    row("means", Some(report.kind.meaning().to_owned()));
    // What is known of the bug says more than what is known of its kind.
    row(
        "do",
        known.is_empty().then(|| report.kind.advice().to_owned()),
    );
    row("same as", Some(report.fingerprint.clone()));
    row(
        "from",
        Some(format!("{file}, bytes {} to {}", report.start, report.end)),
    );
    text.push_str(&known::text(known));
    stack(&mut text, report, colour);
    text
}

fn with_module(function: Option<&str>, module: Option<&str>) -> Option<String> {
    let function = function?;
    Some(match module {
        Some(module) => format!("{function} [{module}]"),
        None => function.to_owned(),
    })
}

fn task(report: &Report) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(report.comm.clone());
    parts.extend(report.pid.map(|pid| format!("PID {pid}")));
    parts.extend(report.cpu.map(|cpu| format!("CPU {cpu}")));
    parts.extend(report.workqueue.clone());
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn kernel(report: &Report) -> Option<String> {
    let release = report.kernel_release.as_ref()?;
    let mut text = release.clone();
    if let Some(distribution) = report.distribution {
        let _ = write!(text, " ({distribution})");
    }
    match report.kernel_release_from {
        Some(Source::Boot) => text.push_str(", as the boot says"),
        Some(Source::NextBoot) => text.push_str(", as the next boot says"),
        _ => {}
    }
    Some(text)
}

fn taint(report: &Report) -> Option<String> {
    let taint = report.taint.as_ref()?;
    let meanings: Vec<&str> = taint.iter().map(|taint| taint.meaning).collect();
    Some(meanings.join(", "))
}

/// The stack from where the CPU was, with the function to blame marked.
fn stack(text: &mut String, report: &Report, colour: bool) {
    let frames: Vec<&Frame> = report
        .frames
        .iter()
        .filter(|frame| frame.reliable)
        .collect();
    let blamed = report.blamed_function.as_ref();
    if !frames.is_empty() {
        text.push_str("  stack\n");
    }
    let mut line = |function: &str, module: Option<&str>, is_blamed: bool| {
        let name = sanitize(&with_module(Some(function), module).unwrap_or_default());
        if is_blamed {
            let _ = writeln!(text, "  > {}", styled(&name, Style::Red, colour));
        } else {
            let _ = writeln!(text, "    {name}");
        }
    };
    if frames.is_empty() {
        return;
    }
    // Registers say where the CPU was; old stacks leave that out.
    if let Some(fault) = &report.fault_function
        && frames.first().is_none_or(|frame| frame.function != *fault)
    {
        let is_blamed = Some(fault) == blamed;
        line(
            fault,
            report.module.as_deref().filter(|_| is_blamed),
            is_blamed,
        );
    }
    for frame in frames.iter().take(FRAMES) {
        line(
            &frame.function,
            frame.module.as_deref(),
            Some(&frame.function) == blamed,
        );
    }
    if frames.len() > FRAMES {
        line(&format!("and {} more", frames.len() - FRAMES), None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let log = "[ 1.0] kernel BUG at \u{202e}a.c:1!\n[ 1.0] CPU: 0 PID: 1 Comm: \u{7}x Not tainted 6.1.0 #1";
        let reports = agent_decode::reports(log.as_bytes());
        let text = text("a\u{1b}[31m", &reports[0], &[], true);
        assert!(text.lines().count() >= 3);
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
}
