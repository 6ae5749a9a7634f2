//! Records of the kernel's CVE numbering authority, as its repository of published
//! vulnerabilities has them: JSON (CVE record format 5), `.dyad` (which versions have the
//! bug and which the fix, in pairs), `.mbox` (the announcement).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::distribution::Level;
use crate::kind::Kind;
use crate::{blame, reason, reports};

use super::versions::Versions;

/// Functions that are kept of a record.
const FUNCTIONS_MAX: usize = 24;
/// Longest function name, in bytes; the kernel's own limit (KSYM_NAME_LEN) is higher.
const NAME_MAX: usize = 96;

/// What is kept of a record.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// `CVE-2024-42281`.
    pub id: String,
    /// The subject of the fix.
    pub title: String,
    /// What the crash was that the fix quotes, if it quotes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Where the crash was that the fix quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Functions that the fix names, the fault's stack among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// Source files that the fix changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The first versions that have the bug.
    #[serde(default, skip_serializing_if = "Versions::is_empty")]
    pub introduced: Versions,
    /// The first versions that have the fix.
    #[serde(default, skip_serializing_if = "Versions::is_empty")]
    pub fixed: Versions,
}

impl Record {
    /// Reads a CVE record, and the pairs of versions if there are any: only they say
    /// which stable versions a bug came to. `None`: it is no record of a kernel bug.
    pub fn of_json(json: &[u8], dyad: Option<&str>) -> Option<Self> {
        let json: Value = serde_json::from_slice(json).ok()?;
        let cna = json.pointer("/containers/cna")?;
        let texts = |value: &Value, name: &str| -> Option<String> {
            Some(value.get(name)?.as_str()?.to_owned())
        };
        let description = texts(cna.pointer("/descriptions/0")?, "value")?;
        let mut record = Self {
            id: texts(json.get("cveMetadata")?, "cveId")?,
            ..Self::default()
        };
        record.title = texts(cna, "title").unwrap_or_default();
        record.describe(&description);
        let affected = cna.get("affected").and_then(Value::as_array);
        let affected: Vec<&Value> = affected.into_iter().flatten().collect();
        let files = affected
            .iter()
            .filter_map(|of| of.get("programFiles")?.as_array())
            .flatten();
        record.files = once(files.filter_map(Value::as_str));
        let pairs = dyad.map(pairs).filter(|pairs| !pairs.is_empty());
        record.versions(&pairs.unwrap_or_else(|| pairs_of_json(&affected)));
        Some(record)
    }

    /// Reads an announcement.
    pub fn of_mail(mail: &str) -> Option<Self> {
        let subject = mail
            .lines()
            .find_map(|line| line.strip_prefix("Subject: "))?;
        let (id, title) = subject.split_once(": ")?;
        if !id.starts_with("CVE-") {
            return None;
        }
        let mut record = Self {
            id: id.to_owned(),
            title: title.trim().to_owned(),
            ..Self::default()
        };
        let (_, description) = mail.split_once("\nDescription\n")?;
        let end = description.find("\nThe Linux kernel CVE team has assigned");
        record.describe(&description[..end.unwrap_or(description.len())]);
        let mut versions = Vec::new();
        let mut files = Vec::new();
        for line in description
            .lines()
            .filter_map(|line| line.strip_prefix('\t'))
        {
            let after = |mark: &str| level_behind(line, mark);
            if line.starts_with("Issue introduced in ") {
                versions.push((after("introduced in "), after("fixed in ")));
            } else if line.starts_with("Fixed in ") {
                versions.push((None, after("Fixed in ")));
            } else if !line.contains(' ') && !line.contains("://") {
                files.push(line);
            }
        }
        record.files = once(files.into_iter());
        record.versions(&versions);
        Some(record)
    }

    /// What the text of the fix says: the crash that it quotes, and functions that it names.
    fn describe(&mut self, text: &str) {
        let text = text
            .split_once("has been resolved:")
            .map_or(text, |(_, text)| text)
            .trim();
        if self.title.is_empty() {
            text.lines()
                .next()
                .unwrap_or_default()
                .clone_into(&mut self.title);
        }
        let mut functions: Vec<String> = Vec::new();
        if let Some(report) = reason(reports(text.as_bytes())) {
            self.kind = Some(report.kind);
            self.fault = report
                .fault_function
                .or_else(|| report.blamed_function.clone());
            functions.extend(report.blamed_function);
            let frames = report.frames.into_iter().filter(|frame| frame.reliable);
            functions.extend(frames.map(|frame| frame.function));
        }
        functions.extend(called(text).map(str::to_owned));
        functions.retain(|name| name.len() <= NAME_MAX && !blame::is_skipped(name));
        self.functions = once(functions.iter().map(String::as_str));
        self.functions.truncate(FUNCTIONS_MAX);
    }

    fn versions(&mut self, pairs: &[(Option<Level>, Option<Level>)]) {
        for (introduced, fixed) in pairs {
            // Of a stable series the first that has it, of mainline as well.
            if let Some(level) = introduced {
                self.introduced.add(*level, |known, new| new < known);
            }
            // Where several changes make the fix, the last of them.
            if let Some(level) = fixed {
                self.fixed.add(*level, |known, new| new > known);
            }
        }
    }
}

/// Each once, in their order.
fn once<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    all.filter(|one| seen.insert(*one))
        .map(str::to_owned)
        .collect()
}

/// Names with `()` behind them, and those of stacks that no report was made of.
fn called(text: &str) -> impl Iterator<Item = &str> {
    // Behind a dot stands what a compiler appended.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | '`'))
        .filter_map(move |word| {
            let end = word.find("()").or_else(|| word.find("+0x"))?;
            let name = &word[..end];
            let start = name.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
            let name = name.get(start..)?.split('.').next()?;
            (name.len() > 2 && name.contains(|c: char| c.is_ascii_lowercase())).then_some(name)
        })
}

/// A pair: the version that a bug came to, and the one that fixed it there.
type Pair = (Option<Level>, Option<Level>);

/// `INTRODUCED:COMMIT:FIXED:COMMIT` a line; 0 is none.
fn pairs(dyad: &str) -> Vec<Pair> {
    let lines = dyad.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let mut parts = line.split(':');
        let introduced = parts.next()?.parse().ok();
        let fixed = parts.nth(1)?.parse().ok();
        Some((introduced, fixed))
    };
    lines.filter_map(pair).collect()
}

/// What the record itself says: ranges of versions that are not affected.
fn pairs_of_json(affected: &[&Value]) -> Vec<Pair> {
    let versions = affected
        .iter()
        .filter_map(|of| of.get("versions")?.as_array())
        .flatten();
    let pair = |of: &Value| {
        let text = |name: &str| of.get(name).and_then(Value::as_str);
        let level: Level = text("version")?.parse().ok()?;
        match (text("status")?, text("lessThanOrEqual")) {
            ("affected", _) => Some((Some(level), None)),
            ("unaffected", Some(_)) => Some((None, Some(level))),
            _ => None,
        }
    };
    versions.filter_map(pair).collect()
}

fn level_behind(line: &str, mark: &str) -> Option<Level> {
    let (_, rest) = line.split_once(mark)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYAD: &str = "# dyad version: 1\n\
        5.10.75:4f7b:5.10.82:471c\n5.15:94b9:5.15.5:2ae3\n5.15:94b9:5.16:76de\n5.14.14:ed8a:0:0\n";

    const MAIL: &str = "From bippy Mon Sep 17 00:00:00 2001\n\
        Subject: CVE-2024-42281: bpf: Fix a segment issue when downgrading gso_size\n\n\
        Description\n===========\n\n\
        In the Linux kernel, the following vulnerability has been resolved:\n\n\
        bpf: Fix a segment issue when downgrading gso_size\n\n\
        It may trigger a BUG_ON() in skb_segment().\n\n\
        The Linux kernel CVE team has assigned CVE-2024-42281 to this issue.\n\n\
        Affected and fixed versions\n===========================\n\n\
        \tIssue introduced in 4.13 with commit 2be7 and fixed in 5.4.282 with commit a689\n\
        \tIssue introduced in 4.13 with commit 2be7 and fixed in 6.11 with commit fa5e\n\
        \tIssue introduced in 6.1.9 with commit 2be7\n\n\
        The file(s) affected by this issue are:\n\tnet/core/filter.c\n\
        \thttps://git.kernel.org/stable/c/a689\n";

    #[test]
    fn an_announcement_says_what_a_record_says() {
        let record = Record::of_mail(MAIL).expect("a record");
        assert_eq!(record.id, "CVE-2024-42281");
        assert_eq!(
            record.title,
            "bpf: Fix a segment issue when downgrading gso_size"
        );
        assert_eq!(record.functions, ["skb_segment"]);
        assert_eq!(record.files, ["net/core/filter.c"]);
        assert_eq!(record.fixed.to_string(), "6.11, 5.4.282");
        assert_eq!(record.introduced.to_string(), "4.13, 6.1.9");
        assert_eq!(Record::of_mail("Subject: hello\n"), None);
    }

    #[test]
    fn pairs_tell_which_stable_versions_a_bug_came_to() {
        let mut record = Record::default();
        record.versions(&pairs(DYAD));
        assert_eq!(record.introduced.to_string(), "5.15, 5.14.14, 5.10.75");
        assert_eq!(record.fixed.to_string(), "5.16, 5.15.5, 5.10.82");
    }

    #[test]
    fn what_is_no_record_is_none() {
        for json in ["", "{}", "[1]", r#"{"containers":{"cna":{}}}"#] {
            assert_eq!(Record::of_json(json.as_bytes(), None), None, "{json}");
        }
    }
}
