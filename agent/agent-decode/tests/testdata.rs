//! Every file of `testdata/` is a test: header lines `CODE:`, `TITLE:`,
//! `LINE:`, `FUNCTION:`, `MODULE:`, `RELEASE:`, `COMM:`, `CORRUPTED:` with what
//! is expected, an empty line, and the log as it was captured. `CODE: none` is a
//! log without a report. What the header does not name is not checked.
//! `lab-*.txt` were written by `cargo xtask lab --bless`, and looked at.

use std::path::Path;

use agent_core::model::{Line, Report};
use agent_decode::{decode, decode_text, strip};

fn value(report: &Report, name: &str) -> Option<String> {
    match name {
        "CODE" => Some(report.code.as_str().to_owned()),
        "TITLE" => Some(report.title.clone()),
        "LINE" => Some(report.line.clone()),
        "FUNCTION" => report.fault_function.clone(),
        "MODULE" => report.module.clone(),
        "RELEASE" => report.kernel_release.clone(),
        "COMM" => report.comm.clone(),
        "CORRUPTED" => report.corrupted.clone(),
        _ => panic!("{name} is not a known header"),
    }
}

fn wrong(file: &str) -> Vec<String> {
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
    let report = decode_text(log);
    let mut wrong = Vec::new();
    if decode(&as_lines) != report {
        wrong.push("text and lines give different reports".to_owned());
    }
    for line in header.lines() {
        let (name, expected) = line.split_once(": ").expect("NAME: value");
        let got = report.as_ref().and_then(|report| value(report, name));
        let got = got.unwrap_or_else(|| "none".to_owned());
        if got != expected {
            wrong.push(format!("{name}: expected {expected}, got {got}"));
        }
    }
    wrong
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
        for wrong in wrong(&String::from_utf8_lossy(&bytes)) {
            failures.push(format!("{name}: {wrong}"));
        }
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
