//! Rules about manifests: what the pure crates may depend on, and that each
//! crate has the workspace's lints.

use crate::source::Tree;

use super::Finding;

/// Crates that stay pure or independent, and all that each may depend on.
const DEPENDENCIES: [(&str, &[&str]); 4] = [
    ("agent-common", &[]),
    ("agent/agent-core", &["serde", "thiserror"]),
    // To find many wordings, or one byte, in many bytes at once, and to read what is known of
    // bugs.
    (
        "agent/agent-decode",
        &[
            "agent-core",
            "aho-corasick",
            "memchr",
            "serde",
            "serde_json",
            "thiserror",
            "toml",
        ],
    ),
    // A table: what it expects it says in the model's words.
    ("tests/ways", &["agent-core"]),
];

/// The lab must not share code with what it tests.
const APART: [&str; 2] = ["tests/guest", "tests/harness"];

/// Crates with no system call in them.
const PURE: [&str; 3] = ["agent/agent-core", "agent/agent-decode", "tests/ways"];

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) {
    for (path, text) in &tree.files {
        let Some(directory) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let Ok(manifest) = text.parse::<toml::Table>() else {
            findings.push(Finding {
                path: path.clone(),
                line: 1,
                rule: "manifest",
                what: "not valid TOML".to_owned(),
                way_out: "cargo says where",
            });
            continue;
        };
        dependencies(directory, path, text, &manifest, findings);
        // It is a workspace of its own and has its own table.
        let own = directory == "agent-ebpf" || directory.ends_with("/fuzz");
        let inherited = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool);
        if !own && inherited != Some(true) {
            findings.push(Finding {
                path: path.clone(),
                line: 1,
                rule: "lints",
                what: "the workspace's lints do not apply".to_owned(),
                way_out: "add [lints] workspace = true",
            });
        }
    }
    for directory in PURE {
        let path = format!("{directory}/src/lib.rs");
        if let Some(text) = tree.files.get(&path)
            && !text.contains("#![forbid(unsafe_code)]")
        {
            findings.push(Finding {
                path,
                line: 1,
                rule: "unsafe",
                what: "a pure crate that does not forbid unsafe".to_owned(),
                way_out: "add #![forbid(unsafe_code)]",
            });
        }
    }
}

fn dependencies(
    directory: &str,
    path: &str,
    text: &str,
    manifest: &toml::Table,
    findings: &mut Vec<Finding>,
) {
    let named = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::keys);
    let allowed = DEPENDENCIES.iter().find(|(name, _)| *name == directory);
    for name in named {
        let what = match allowed {
            Some((_, allowed)) if !allowed.contains(&name.as_str()) => {
                format!("{directory} must not depend on {name}: it stays pure")
            }
            None if APART.contains(&directory)
                && (name == "lastgasp" || name.starts_with("agent-")) =>
            {
                format!("{directory} must not depend on {name}: it tests that from outside")
            }
            _ => continue,
        };
        let line = text
            .lines()
            .position(|line| line.trim_start().starts_with(name.as_str()))
            .map_or(1, |index| index + 1);
        findings.push(Finding {
            path: path.to_owned(),
            line,
            rule: "dependencies",
            what,
            way_out: "do it in the crate above, or change the table in \
                      xtask/src/rooms/manifests.rs and ARCHITECTURE.md, with the reason",
        });
    }
}
