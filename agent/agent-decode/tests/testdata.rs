//! Every file of `testdata/` is a test: header lines with what is expected, an empty line,
//! and the log as it was captured. What the header does not name is not checked. Of several
//! reports the header is that of the one that tells why the boot ended ([`reason`]).
//! `REPORTS:` is how many there are. `KIND: none` is a log without a report, `CODE: none` one without a reason for a death.
//! `lab-*.txt` were written by `cargo xtask lab --bless`, and looked at.

use std::fmt::Write as _;
use std::path::Path;

use agent_core::model::Line;
use agent_decode::{Report, decode, decode_text, reason, reports, strip};

fn value(report: &Report, name: &str) -> Option<String> {
    let number = |number: Option<u32>| number.map(|n| n.to_string());
    match name {
        "KIND" => Some(report.kind.as_str().to_owned()),
        "CODE" => Some(report.kind.reason().as_str().to_owned()),
        "TITLE" => Some(report.title.clone()),
        "LINE" => Some(report.line.clone()),
        "PANIC" => report.panic.clone(),
        "FUNCTION" => report.fault_function.clone(),
        "BLAMED" => report.blamed_function.clone(),
        "MODULE" => report.module.clone(),
        "FILE" => Some(format!(
            "{}:{}",
            report.source_file.clone()?,
            report.source_line?
        )),
        "CONDITION" => report.condition.clone(),
        "RELEASE" => report.kernel_release.clone(),
        "FROM" => report.kernel_release_from.map(|from| format!("{from:?}")),
        "DISTRIBUTION" => report.distribution.map(str::to_owned),
        "CPU" => number(report.cpu),
        "PID" => number(report.pid),
        "COMM" => report.comm.clone(),
        "FRAME-FILE" => report.frames.first()?.file.clone(),
        "CORRUPTED" => report.corrupted.clone(),
        _ => panic!("{name} is not a known header"),
    }
}

/// What a file's header has wrong, and the file as it would be right.
fn wrong(file: &str) -> (Vec<String>, String) {
    let (header, log) = file.split_once("\n\n").expect("a header and a log");
    let as_lines: Vec<Line> = (0..)
        .zip(log.lines())
        .map(|(seq, text)| Line {
            seq,
            mono_ns: 0,
            cpu: 0,
            level: None,
            continues: false,
            text: strip(text).to_owned(),
        })
        .collect();
    let all = reports(log.as_bytes());
    let (count, first) = (all.len(), all.first().cloned());
    // What is nobody's reason is a report all the same.
    let any = first.filter(|_| header.contains("KIND: "));
    let report = reason(all).or(any);
    let mut wrong = Vec::new();
    // Who printed a line is not known of lines alone.
    if !log.contains("][") && decode(&as_lines) != decode_text(log) {
        wrong.push(format!(
            "text and lines give different reports: {:?} {:?}",
            decode_text(log),
            decode(&as_lines)
        ));
    }
    let mut header_now = String::new();
    for line in header.lines() {
        let (name, expected) = line.split_once(": ").expect("NAME: value");
        let got = match name {
            "REPORTS" => Some(count.to_string()),
            _ => report.as_ref().and_then(|report| value(report, name)),
        };
        let got = got.unwrap_or_else(|| "none".to_owned());
        let _ = writeln!(header_now, "{name}: {got}");
        if got != expected {
            wrong.push(format!("{name}: expected {expected}, got {got}"));
        }
    }
    (wrong, format!("{header_now}\n{log}"))
}

#[test]
fn every_log_gives_the_report_that_its_header_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let (mut files, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).expect("testdata/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        files += 1;
        // A console log may hold any bytes.
        let bytes = std::fs::read(&path).expect("a readable file");
        let name = path.file_name().expect("a name").display().to_string();
        let (wrong, right) = wrong(&String::from_utf8_lossy(&bytes));
        if !wrong.is_empty() && std::env::var_os("LASTGASP_BLESS").is_some() {
            std::fs::write(&path, right).expect("a writable file");
        }
        failures.extend(wrong.iter().map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(files > 10, "{files} logs only");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn a_log_cut_off_anywhere_never_panics_and_keeps_its_reason() {
    let log = include_str!("../testdata/null-softirq-6.1.txt");
    let (_, log) = log.split_once("\n\n").expect("a header and a log");
    let whole = decode_text(log).expect("a report");
    let cause = log.find(&whole.line).expect("the line") + whole.line.len();
    for end in (0..log.len()).filter(|at| log.is_char_boundary(*at)) {
        let report = decode_text(&log[..end]);
        if end >= cause {
            assert_eq!(report.map(|r| r.code), Some(whole.code), "cut at {end}");
        }
    }
}
