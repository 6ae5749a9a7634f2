//! Known bugs are found in the logs of those who met them, and in no others.

use std::path::{Path, PathBuf};

use agent_decode::bugs::{Candidate, Verdict, candidates};
use agent_decode::{reason, reports};

fn logs(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).expect("a folder");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(&path).expect("a readable file");
        (name, String::from_utf8_lossy(&bytes).into_owned())
    };
    files
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .map(read)
        .collect()
}

fn of(log: &str) -> Vec<Candidate> {
    let (_, log) = log.split_once("\n\n").expect("a header and a log");
    reason(reports(log.as_bytes()))
        .map(|report| candidates(&report))
        .unwrap_or_default()
}

#[test]
fn each_sample_is_known_for_what_it_is() {
    let samples = logs("testdata/bugs");
    let mut failures = Vec::new();
    for (name, log) in &samples {
        let expected = log
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("SIGNATURE: "));
        let expected = expected.expect("SIGNATURE: id");
        let all = of(log);
        let found = all.iter().find(|c| c.bug.id == expected);
        // Its kernel may not say whether it has the fix, but is never one that has.
        if found.is_none_or(|c| c.opinion.verdict == Verdict::RuledOut) {
            let others: Vec<_> = all.iter().map(|c| (&c.bug.id, c.opinion.verdict)).collect();
            failures.push(format!("{name}: {found:?} among {others:?}"));
        }
    }
    assert!(samples.len() >= 60, "{} samples", samples.len());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn what_died_by_our_own_hand_is_no_known_bug() {
    let mut failures = Vec::new();
    for (name, log) in logs("testdata")
        .iter()
        .filter(|(name, _)| name.starts_with("lab-"))
    {
        let all = of(log);
        failures.extend(all.iter().map(|c| {
            format!(
                "{name}: {} {:?} {:?}",
                c.bug.id, c.opinion.verdict, c.opinion.evidence
            )
        }));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
