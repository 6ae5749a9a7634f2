//! What the kernel of an earlier boot left: its text into lines and a report.

use agent_core::model::{Line, Record, Report};

/// Most lines of one record that are kept; the newest stay.
const LINES_MAX: usize = 4_096;

/// A record as it was understood.
#[derive(Debug, PartialEq)]
pub struct Reading {
    /// What it means, if it means anything.
    pub report: Option<Report>,
    /// When its last line was printed, in nanoseconds since that boot, if it
    /// says so.
    pub printed_ns: Option<u64>,
    /// Its lines, oldest first, numbered from 0.
    pub lines: Vec<Line>,
}

/// Reads a record.
pub fn read(record: &Record) -> Reading {
    let texts: Vec<&str> = record.text.lines().collect();
    let mut lines = Vec::new();
    let mut mono_ns = 0;
    for text in &texts[texts.len().saturating_sub(LINES_MAX)..] {
        mono_ns = agent_decode::printed_ns(text).unwrap_or(mono_ns);
        lines.push(Line {
            seq: lines.len() as u64,
            mono_ns,
            cpu: 0,
            level: None,
            continues: false,
            text: agent_decode::strip(text).to_owned(),
        });
    }
    Reading {
        report: agent_decode::decode_text(&record.text),
        printed_ns: (mono_ns > 0).then_some(mono_ns),
        lines,
    }
}

#[cfg(test)]
mod tests {
    use agent_core::model::{Channel, ReasonCode, RecordKind};
    use proptest::prelude::*;

    use super::*;

    fn record(text: &str) -> Record {
        let text = text.to_owned();
        Record::new(Channel::Pstore, "erst".into(), RecordKind::Panic, text)
    }

    #[test]
    fn a_record_gives_a_report_its_lines_and_their_times() {
        let reading = read(&record(
            "<6>[    3.100000] eth0: link down\n\
             <6>[    5.000001] sysrq: Trigger a crash\n\
             <0>[    5.020000][  T112] Kernel panic - not syncing: sysrq triggered crash\n",
        ));
        let code = reading.report.map(|report| report.code);
        assert_eq!(code, Some(ReasonCode::SysrqCrash));
        assert_eq!(reading.printed_ns, Some(5_020_000_000));
        let lines: Vec<(u64, &str)> = reading
            .lines
            .iter()
            .map(|line| (line.mono_ns, line.text.as_str()))
            .collect();
        assert_eq!(lines[1], (5_000_001_000, "sysrq: Trigger a crash"));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_record_of_many_lines_keeps_the_newest() {
        let reading = read(&record(&format!("{}last\n", "x\n".repeat(9_000))));
        assert_eq!(reading.lines.len(), LINES_MAX);
        assert_eq!(reading.lines[LINES_MAX - 1].text, "last");
        assert_eq!(reading.printed_ns, None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|\n|[\\[\\]<>0-9.]){0,200}") {
            let reading = read(&record(&text));
            prop_assert_eq!(reading.lines.len(), text.lines().count());
        }
    }
}
