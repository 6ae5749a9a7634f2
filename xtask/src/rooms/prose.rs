//! Paths that the documents name are there.

use crate::source::Tree;

use super::Finding;

const DOCUMENTS: [&str; 4] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "tests/README.md",
];

/// What a path in this repository begins with; anything else with a slash in
/// it belongs to somebody else.
const TOP: [&str; 9] = [
    ".cargo/",
    ".ci/",
    "agent-common/",
    "agent-ebpf/",
    "agent/",
    "deploy/",
    "docs/",
    "tests/",
    "xtask/",
];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for document in DOCUMENTS {
        let Some(text) = tree.files.get(document) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            for path in named(line).filter(|path| !tree.has(path)) {
                findings.push(Finding {
                    path: document.to_owned(),
                    line: index + 1,
                    rule: "prose",
                    what: format!("{path} does not exist"),
                    way_out: "name the place where it is now",
                });
            }
        }
    }
}

/// The words of a line that are paths of this repository. One with a
/// placeholder in it (`<probe>`) is a pattern.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let outside = |c: char| c.is_whitespace() || "`()[]\"',;|#".contains(c);
    line.split(outside).filter_map(move |word| {
        let word = word.trim_end_matches(['.', ':']);
        let word = word.strip_prefix("./").unwrap_or(word);
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        (TOP.iter().any(|top| word.starts_with(top)) && word.chars().all(plain)).then_some(word)
    })
}
