//! One log, in every dress that a log comes in: the report is the same, and its
//! fingerprint.

use std::fmt::Write as _;
use std::path::Path;

use agent_decode::{Report, reason, reports, stripped};

/// A line of a log: seconds and text.
type Line<'a> = (f64, &'a str);

fn lines(log: &str) -> Vec<Line<'_>> {
    let mut last = 0.0;
    log.lines()
        .map(|line| {
            let line = stripped(line);
            if let Some(ns) = line.printed_ns {
                last = ns as f64 / 1e9;
            }
            (last, line.text)
        })
        .collect()
}

fn each(lines: &[Line<'_>], mut write: impl FnMut(&mut String, usize, f64, &str)) -> String {
    let mut log = String::new();
    for (at, (s, text)) in lines.iter().enumerate() {
        write(&mut log, at, *s, text);
    }
    log
}

/// The log as bytes, by every transport.
fn dresses(lines: &[Line<'_>]) -> Vec<(&'static str, Vec<u8>)> {
    let console = each(lines, |log, _, s, text| {
        let _ = writeln!(log, "[{s:12.6}] {text}");
    });
    let mut all = vec![
        ("console", console.clone()),
        (
            "bare",
            each(lines, |log, _, _, text| {
                let _ = writeln!(log, "{text}");
            }),
        ),
        ("CR", console.replace('\n', "\r\n")),
        (
            "levels",
            each(lines, |log, _, s, text| {
                let _ = writeln!(log, "<4>[{s:12.6}] {text}");
            }),
        ),
        (
            "callers",
            each(lines, |log, _, s, text| {
                let _ = writeln!(log, "[{s:12.6}][  T301] {text}");
            }),
        ),
        (
            "dmesg -T",
            each(lines, |log, at, _, text| {
                let _ = writeln!(log, "[Sat Nov 21 01:40:{:02} 2026] {text}", at % 60);
            }),
        ),
        (
            "dmesg -x",
            each(lines, |log, _, s, text| {
                let _ = writeln!(log, "kern  :warn  : [{s:12.6}] {text}");
            }),
        ),
        (
            "colours",
            each(lines, |log, _, s, text| {
                let _ = writeln!(
                    log,
                    "\u{1b}[32m[{s:12.6}] \u{1b}[0m\u{1b}[31m{text}\u{1b}[0m"
                );
            }),
        ),
        (
            "syslog",
            each(lines, |log, at, s, text| {
                let _ = writeln!(
                    log,
                    "Nov 21 01:40:{:02} w01 kernel: [{s:12.6}] {text}",
                    at % 60
                );
            }),
        ),
        (
            "syslog with ISO dates",
            each(lines, |log, _, _, text| {
                let _ = writeln!(log, "2026-11-21T01:40:46.123456+00:00 w01 kernel: {text}");
            }),
        ),
        (
            "beside programs",
            each(lines, |log, at, _, text| {
                let _ = writeln!(log, "Nov 21 01:40:46 w01 kernel: {text}");
                let _ = writeln!(
                    log,
                    "Nov 21 01:40:46 w01 app[{at}]: kernel BUG at app.c:{at}!"
                );
            }),
        ),
        (
            "grep",
            each(lines, |log, at, _, text| {
                let _ = writeln!(
                    log,
                    "var/log/messages-{}-Nov 21 01:40:46 w01 kernel: {text}",
                    at + 1
                );
            }),
        ),
        (
            "journal's export",
            each(lines, |log, at, _, text| {
                let _ = writeln!(
                    log,
                    "__CURSOR=s={at}\n__MONOTONIC_TIMESTAMP={at}\n_TRANSPORT=kernel\nPRIORITY=4\nSYSLOG_IDENTIFIER=kernel\nMESSAGE={text}\n"
                );
            }),
        ),
        (
            "JSON",
            each(lines, |log, _, _, text| {
                let text = text
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\t', "\\t");
                let _ = writeln!(log, "{{\"_TRANSPORT\":\"kernel\",\"MESSAGE\":\"{text}\"}}");
            }),
        ),
        (
            "JSON of bytes",
            each(lines, |log, _, _, text| {
                let bytes: Vec<String> = text.bytes().map(|b| b.to_string()).collect();
                let bytes = bytes.join(",");
                let _ = writeln!(log, "{{\"_TRANSPORT\":\"kernel\",\"MESSAGE\":[{bytes}]}}");
            }),
        ),
        (
            "netconsole",
            each(lines, |log, at, s, text| {
                let _ = writeln!(log, "6.1.0,4,{},{:.0},-;{text}", at + 100, s * 1e6);
            }),
        ),
        (
            "netconsole in pieces",
            each(lines, |log, at, s, text| {
                let head = format!("4,{},{:.0},-", at + 100, s * 1e6);
                let half = text.floor_char_boundary(text.len() / 2);
                let (a, b) = text.split_at(half);
                let _ = if a.is_empty() {
                    writeln!(log, "{head};{text}")
                } else {
                    // The second comes first.
                    writeln!(
                        log,
                        "{head},ncfrag={half}/{0};{b}\n{head},ncfrag=0/{0};{a}",
                        text.len()
                    )
                };
            }),
        ),
        (
            "80 columns",
            each(lines, |log, _, s, text| {
                let mut line = format!("[{s:12.6}] {text}");
                while line.len() > 80 {
                    let rest = line.split_off(line.floor_char_boundary(80));
                    let _ = writeln!(log, "{line}");
                    line = rest;
                }
                let _ = writeln!(log, "{line}");
            }),
        ),
        (
            "between others",
            format!(
                "{0}{console}{0}",
                "[    0.000001] usb 1-1: new high-speed USB device number 2 using xhci_hcd\n"
                    .repeat(500)
            ),
        ),
    ];
    all.push((
        "CRI",
        each(lines, |log, _, s, text| {
            let _ = writeln!(
                log,
                "2026-11-21T01:40:46.123456789Z stdout F [{s:12.6}] {text}"
            );
        }),
    ));
    all.into_iter()
        .map(|(name, log)| (name, log.into_bytes()))
        .collect()
}

/// What must not change with the dress.
fn essence(report: &Report) -> impl PartialEq + std::fmt::Debug {
    let words: Vec<&str> = report.line.split_ascii_whitespace().collect();
    (
        report.kind,
        words.join(" "),
        report.blamed_function.clone(),
        report.fault_function.clone(),
        report.kernel_release.clone(),
        report
            .frames
            .iter()
            .map(|f| f.function.clone())
            .collect::<Vec<_>>(),
        report.fingerprint.clone(),
    )
}

#[test]
fn a_log_says_the_same_in_every_dress() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = |folder: &Path| std::fs::read_dir(folder).expect("a folder of logs");
    let all = entries(&folder).chain(entries(&folder.join("bugs")));
    let (mut compared, mut failures) = (0, Vec::new());
    for path in all.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().expect("a name").display().to_string();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("a readable file");
        let file = String::from_utf8_lossy(&bytes);
        let (_, log) = file.split_once("\n\n").expect("a header and a log");
        // Several programs or callers are told apart by what is taken off here.
        if log.contains("][") || log.contains("app[") || log.contains("agent[") {
            continue;
        }
        let lines = lines(log);
        let plain = reason(reports(log.as_bytes()));
        for (dress, log) in dresses(&lines) {
            // A log that begins inside of a report does so with its first line.
            if dress == "between others" && name.starts_with("begins-") {
                continue;
            }
            compared += 1;
            let got = reason(reports(&log));
            let (want, got) = (plain.as_ref().map(essence), got.as_ref().map(essence));
            if want != got {
                failures.push(format!("{name}, {dress}:\n  {want:?}\n  {got:?}"));
            }
        }
    }
    assert!(compared > 1_000, "{compared}");
    assert!(
        failures.is_empty(),
        "{} of {compared}\n{}",
        failures.len(),
        failures.join("\n")
    );
}
