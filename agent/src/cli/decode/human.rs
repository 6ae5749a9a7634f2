//! A report for people: what happened, where, what it means, what to do.

use std::fmt::Write as _;

use agent_decode::{Frame, Report, Source};

use super::super::out::{self, sanitize};

/// Functions of the stack that are shown.
const FRAMES: usize = 12;

/// The lines of a report; an empty one stands before all but the first.
pub(super) fn text(file: &str, report: &Report, is_first: bool) -> String {
    let paint = Paint(out::colour());
    let mut text = String::new();
    if !is_first {
        text.push('\n');
    }
    let _ = writeln!(text, "{}", paint.bold(&sanitize(&report.title)));
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = writeln!(text, "  {name:<10} {}", sanitize(&value));
        }
    };
    row("reason", Some(report.kind.as_str().to_owned()));
    row("said", Some(report.line.clone()));
    row("detail", report.condition.clone().filter(|said| *said != report.line));
    row("panic", report.panic.clone().filter(|said| !report.line.contains(said.as_str())));
    row("blamed", with_module(report.blamed_function.as_deref(), report.module.as_deref()));
    let fault = report.fault_function.as_ref();
    row("in", fault.filter(|f| Some(*f) != report.blamed_function.as_ref()).cloned());
    let place = report.file.as_ref().zip(report.file_line);
    row("at", place.map(|(file, line)| format!("{file}:{line}")));
    row("task", task(report));
    row("kernel", kernel(report));
    row("machine", report.hardware.clone());
    row("tainted", taint(report));
    row("damaged", report.corrupted.clone());
    row("means", Some(report.kind.meaning().to_owned()));
    row("do", Some(report.kind.advice().to_owned()));
    row("same as", Some(report.fingerprint.clone()));
    row("from", Some(format!("{file}, bytes {} to {}", report.start, report.end)));
    stack(&mut text, report, paint);
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

/// The stack, with the function to blame marked.
fn stack(text: &mut String, report: &Report, paint: Paint) {
    if report.frames.is_empty() {
        return;
    }
    text.push_str("  stack\n");
    let is_sure = |frame: &&Frame| frame.reliable;
    for frame in report.frames.iter().filter(is_sure).take(FRAMES) {
        let name = with_module(Some(&frame.function), frame.module.as_deref());
        let name = sanitize(&name.unwrap_or_default());
        if Some(&frame.function) == report.blamed_function.as_ref() {
            let _ = writeln!(text, "  > {}", paint.red(&name));
        } else {
            let _ = writeln!(text, "    {name}");
        }
    }
    let more = report.frames.iter().filter(is_sure).count().saturating_sub(FRAMES);
    if more > 0 {
        let _ = writeln!(text, "    and {more} more");
    }
}

/// Colours, where they are wanted.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let log = "[ 1.0] kernel BUG at \u{202e}a.c:1!\n[ 1.0] CPU: 0 PID: 1 Comm: \u{7}x Not tainted 6.1.0 #1";
        let reports = agent_decode::reports(log.as_bytes());
        let text = text("a\u{1b}[31m", &reports[0], true);
        assert!(text.lines().count() >= 3);
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
    }
}
