//! The rules that the compiler does not know: who may import whom, where
//! `unsafe` and output may be, which files belong together. ARCHITECTURE.md
//! says why; this says where they are broken and what to do.

mod manifests;
mod prose;

use std::collections::BTreeSet;
use std::fmt;

use crate::source::{self, CodePath, Token, Tree};

/// A broken rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
    way_out: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            what,
            way_out,
        } = self;
        write!(f, "{path}:{line}: {rule}: {what}\n    {way_out}")
    }
}

/// The rooms of the agent, and the rooms that each may import.
const ROOMS: [(&str, &[&str]); 12] = [
    (
        "annotate",
        &["channels", "config", "gasp", "k8s", "store", "telemetry"],
    ),
    ("channels", &["gasp"]),
    (
        "cli",
        &[
            "annotate",
            "channels",
            "config",
            "gasp",
            "k8s",
            "kernel",
            "node",
            "probes",
            "store",
            "telemetry",
            "web",
        ],
    ),
    ("config", &["gasp", "telemetry"]),
    ("gasp", &["kernel", "telemetry"]),
    ("k8s", &["telemetry"]),
    ("kernel", &["telemetry"]),
    ("node", &["gasp"]),
    ("probes", &["kernel"]),
    ("store", &[]),
    ("telemetry", &[]),
    ("web", &["store", "telemetry"]),
];

/// Crates that belong to some rooms only.
const CRATES: [(&str, &[&str]); 8] = [
    ("agent_decode", &["annotate", "channels", "cli"]),
    ("axum", &["web"]),
    ("aya", &["kernel", "probes"]),
    ("clap", &["cli", "config", "telemetry"]),
    ("k8s_openapi", &["cli", "k8s"]),
    ("kube", &["cli", "k8s"]),
    ("rtnetlink", &["cli", "node"]),
    ("rusqlite", &["store"]),
];

/// Directories whose files must not know each other.
const SIBLINGS: [&str; 3] = [
    "agent-ebpf/src/probes",
    "agent/src/channels",
    "agent/src/probes",
];

/// Where system calls and kernel memory are touched.
const UNSAFE: [&str; 4] = [
    "agent-common/",
    "agent-ebpf/",
    "agent/src/kernel/",
    "tests/guest/",
];

/// What follows speaks to who runs the tests.
const TESTS: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
/// What may stand between that and the `mod` that it is of.
const VISIBILITY: [&str; 5] = ["pub", "(", "crate", "super", ")"];

const OUTPUT: &str = "agent/src/cli/out.rs";
const MAX_LINES: usize = 600;
const MAX_MAIN_LINES: usize = 60;

/// All broken rules of a work tree, by file and line.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let tokens = source::tokens(text);
        let paths = source::paths(&tokens);
        length(path, text, &mut findings);
        directions(path, &paths, &mut findings);
        siblings(tree, path, &paths, &mut findings);
        words(path, &tokens, &paths, &mut findings);
        reasons(path, &tokens, &mut findings);
    }
    stems(tree, &mut findings);
    manifests::check(tree, &mut findings);
    prose::check(tree, &mut findings);
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    // `use crate::x::{a, b}` breaks one rule, not two.
    findings.dedup();
    findings
}

fn length(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let (limit, way_out) = if path.ends_with("/main.rs") {
        (
            MAX_MAIN_LINES,
            "main.rs only parses and dispatches; move the rest into a module",
        )
    } else {
        (MAX_LINES, "cut the file where its subjects part")
    };
    let lines = text.lines().count();
    if lines > limit {
        findings.push(Finding {
            path: path.to_owned(),
            line: limit + 1,
            rule: "length",
            what: format!("{lines} lines, at most {limit}"),
            way_out,
        });
    }
}

/// The room of the agent that a file belongs to.
fn room(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("agent/src/")?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    ROOMS
        .iter()
        .map(|(room, _)| *room)
        .find(|room| *room == name)
}

fn directions(path: &str, paths: &[CodePath], findings: &mut Vec<Finding>) {
    let Some(room) = room(path) else { return };
    let allowed = ROOMS.iter().find(|(name, _)| *name == room);
    let allowed = allowed.map_or(&[] as &[&str], |(_, allowed)| allowed);
    for used in paths {
        for (other, _) in ROOMS {
            let named = used.starts_with(&["crate", other]);
            if named && other != room && !allowed.contains(&other) {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: used.line,
                    rule: "directions",
                    what: format!("{room} must not import {other}"),
                    way_out: "hand a value or a function in from cli, or change the table in \
                              xtask/src/rooms.rs and ARCHITECTURE.md, with the reason",
                });
            }
        }
        for (name, rooms) in CRATES {
            if used.starts_with(&[name]) && !rooms.contains(&room) {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: used.line,
                    rule: "directions",
                    what: format!("{room} must not use the crate {name}"),
                    way_out: "wrap what is needed in the room that the crate belongs to (table in \
                              xtask/src/rooms.rs)",
                });
            }
        }
    }
}

fn siblings(tree: &Tree, path: &str, paths: &[CodePath], findings: &mut Vec<Finding>) {
    let Some(directory) = SIBLINGS
        .into_iter()
        .find(|directory| path.starts_with(&format!("{directory}/")))
    else {
        return;
    };
    let rest = &path[directory.len() + 1..];
    let own = rest
        .split('/')
        .next()
        .unwrap_or(rest)
        .trim_end_matches(".rs");
    if own == "mod" {
        return;
    }
    let parent = directory.rsplit('/').next().unwrap_or(directory);
    for stem in tree.stems(directory).iter().filter(|stem| *stem != own) {
        for used in paths {
            let near = !rest.contains('/') && used.starts_with(&["super", stem]);
            if near || used.starts_with(&["crate", parent, stem]) {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: used.line,
                    rule: "siblings",
                    what: format!("{own} must not import {stem}, which stands beside it"),
                    way_out: "move what both need into mod.rs or into the room below",
                });
            }
        }
    }
}

fn words(path: &str, tokens: &[Token], paths: &[CodePath], findings: &mut Vec<Finding>) {
    let mut found = |line, rule, what: String, way_out| {
        findings.push(Finding {
            path: path.to_owned(),
            line,
            rule,
            what,
            way_out,
        });
    };
    let tests = tokens
        .windows(TESTS.len())
        .enumerate()
        .position(|(at, window)| {
            let mut of = tokens[at + TESTS.len()..].iter().map(|token| &token.text);
            let is_module = of.find(|word| !VISIBILITY.contains(&word.as_str()));
            window.iter().map(|token| &token.text).eq(TESTS)
                && is_module.is_some_and(|word| word == "mod")
        })
        .unwrap_or(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let is_macro = tokens.get(at + 1).is_some_and(|next| next.text == "!");
        match token.text.as_str() {
            "unsafe" if !UNSAFE.iter().any(|room| path.starts_with(room)) => found(
                token.line,
                "unsafe",
                "unsafe outside the rooms that have it".to_owned(),
                "put a safe function into agent/src/kernel and call that",
            ),
            name @ ("print" | "println" | "eprint" | "eprintln" | "dbg")
                if is_macro && at < tests && path.starts_with("agent/") && path != OUTPUT
                    // A build script talks to cargo that way, a bench to who measures.
                    && !path.ends_with("/build.rs") && !path.contains("/benches/") =>
            {
                found(
                    token.line,
                    "output",
                    format!("{name}! outside {OUTPUT}"),
                    "use cli::out, which escapes kernel text and survives a closed pipe; \
                     tracing for logs",
                );
            }
            "unbounded_channel" | "unbounded" => found(
                token.line,
                "bounded",
                format!("{} has no limit", token.text),
                "take a bounded channel, and count what does not fit",
            ),
            _ => {}
        }
    }
    for used in paths {
        if used.starts_with(&["std", "sync", "mpsc", "channel"]) {
            found(
                used.line,
                "bounded",
                "std::sync::mpsc::channel has no limit".to_owned(),
                "take sync_channel, and count what does not fit",
            );
        }
    }
}

/// `allow` and `expect` say why.
fn reasons(path: &str, tokens: &[Token], findings: &mut Vec<Finding>) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    for (at, token) in tokens.iter().enumerate() {
        let attribute = matches!(token.text.as_str(), "allow" | "expect")
            && text(at + 1) == "("
            && at > 0
            && matches!(text(at - 1), "[" | ",")
            && !text(at + 2).is_empty();
        if !attribute {
            continue;
        }
        let mut depth = 0;
        let group = tokens[at + 1..].iter().take_while(|token| {
            match token.text.as_str() {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            depth > 0
        });
        let mut group = group.peekable();
        // `[expect(…)]` begins an attribute; after a comma it may be a call.
        let in_attribute =
            text(at - 1) == "[" && matches!(at.checked_sub(2).map(text), Some("#" | "!"));
        if in_attribute && group.peek().is_some() && !group.any(|token| token.text == "reason") {
            findings.push(Finding {
                path: path.to_owned(),
                line: token.line,
                rule: "reasons",
                what: format!("{} without a reason", token.text),
                way_out: "add reason = \"…\", or do what the lint says",
            });
        }
    }
}

/// One probe has one name in both rooms.
fn stems(tree: &Tree, findings: &mut Vec<Finding>) {
    let (user, kernel) = ("agent/src/probes", "agent-ebpf/src/probes");
    for (here, there) in [(user, kernel), (kernel, user)] {
        let others: BTreeSet<_> = tree.stems(there).into_iter().collect();
        for stem in tree
            .stems(here)
            .iter()
            .filter(|stem| !others.contains(*stem))
        {
            let file = format!("{here}/{stem}.rs");
            findings.push(Finding {
                path: if tree.has(&file) {
                    file
                } else {
                    format!("{here}/{stem}/mod.rs")
                },
                line: 1,
                rule: "stems",
                what: format!("the probe {stem} has no {there}/{stem}.rs"),
                way_out: "give both halves of a probe the same name; what is no probe belongs \
                          into mod.rs or another room",
            });
        }
    }
}

#[cfg(test)]
mod tests;
