//! Any bytes as a CVE record, an announcement or a signature, and any release as a kernel.
#![no_main]

use agent_decode::bugs::{Index, Record, Signature, candidates};
use agent_decode::{level, reports};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (first, second) = input;
    if let Ok(at) = level(first, Some(second)) {
        assert_eq!(at.to_string().parse(), Ok(at));
    }
    let records = [
        Record::of_mail(first),
        Record::of_json(first.as_bytes(), Some(second)),
    ];
    let index = Index::new(records.into_iter().flatten().collect());
    for report in reports(second.as_bytes()) {
        index.search(&report);
        candidates(&report);
    }
    if let Ok(bug) = toml::from_str::<Signature>(first) {
        let written = toml::to_string(&bug).expect("what was read can be written");
        let again: Signature = toml::from_str(&written).expect("and read");
        assert_eq!(again.fixed, bug.fixed);
    }
});
