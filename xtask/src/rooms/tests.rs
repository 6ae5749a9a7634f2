use super::*;

fn tree(files: &[(&str, &str)]) -> Tree {
    Tree {
        files: files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

/// `path:line: rule` of each finding.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    check(&tree(files))
        .iter()
        .map(|f| format!("{}:{}: {}", f.path, f.line, f.rule))
        .collect()
}

#[test]
fn a_room_imports_only_what_the_table_lets_it() {
    let files = [
        (
            "agent/src/k8s/mod.rs",
            "use kube::Client;\nuse crate::{telemetry, kernel::ring};\n",
        ),
        ("agent/src/cli/why.rs", "use crate::{k8s, kernel, store};"),
        ("agent/src/store/mod.rs", "\nfn f() { aya::maps::open() }"),
    ];
    assert_eq!(
        found(&files),
        [
            "agent/src/k8s/mod.rs:2: directions",
            "agent/src/store/mod.rs:2: directions"
        ]
    );
}

#[test]
fn words_in_comments_and_strings_are_no_imports() {
    let files = [(
        "agent/src/k8s/mod.rs",
        "// unsafe crate::kernel::x\nconst A: &str = \"println!( unbounded_channel\";",
    )];
    assert_eq!(found(&files), [] as [String; 0]);
}

#[test]
fn siblings_do_not_know_each_other() {
    let both = |user: &'static str| {
        vec![
            ("agent-ebpf/src/probes/oops.rs", ""),
            ("agent-ebpf/src/probes/panic.rs", ""),
            ("agent/src/probes/mod.rs", "use self::{oops, panic};"),
            ("agent/src/probes/oops.rs", user),
            ("agent/src/probes/panic.rs", ""),
        ]
    };
    assert_eq!(found(&both("use super::Plan;")), [] as [String; 0]);
    for user in [
        "use super::panic::X;",
        "use crate::probes::{Plan, panic};",
        "fn f() { super::panic::g() }",
    ] {
        assert_eq!(
            found(&both(user)),
            ["agent/src/probes/oops.rs:1: siblings"],
            "{user}"
        );
    }
}

#[test]
fn a_probe_has_the_same_name_on_both_sides() {
    let files = [
        ("agent-ebpf/src/probes/mod.rs", ""),
        ("agent-ebpf/src/probes/oops.rs", ""),
        ("agent/src/probes/die.rs", ""),
        ("agent/src/probes/mod.rs", ""),
    ];
    assert_eq!(
        found(&files),
        [
            "agent-ebpf/src/probes/oops.rs:1: stems",
            "agent/src/probes/die.rs:1: stems"
        ]
    );
}

#[test]
fn unsafe_output_and_endless_queues_have_their_places() {
    let files = [
        ("agent/src/cli/out.rs", "fn f() { println!() }"),
        (
            "agent/src/kernel/ring.rs",
            "unsafe fn f() {}\n#[cfg(test)]\nmod tests { fn g() { println!() } }",
        ),
        (
            "agent/src/web/mod.rs",
            "fn f() { println!() }\nunsafe fn g() {}\nuse tokio::sync::mpsc::unbounded_channel;\n\
             use std::sync::mpsc::channel;\n#![deny(unsafe_code)]",
        ),
        (
            "agent/src/node/netns.rs",
            "#[cfg(test)]\npub(crate) fn f() { println!() }\n\
             #[cfg(test)]\npub(crate) mod tests { fn g() { println!() } }",
        ),
        ("agent/benches/hostile.rs", "fn f() { println!() }"),
        ("xtask/src/lint.rs", "fn f() { println!() }"),
    ];
    assert_eq!(
        found(&files),
        [
            "agent/src/node/netns.rs:2: output",
            "agent/src/web/mod.rs:1: output",
            "agent/src/web/mod.rs:2: unsafe",
            "agent/src/web/mod.rs:3: bounded",
            "agent/src/web/mod.rs:4: bounded",
        ]
    );
}

#[test]
fn an_exception_says_why() {
    let files = [(
        "agent/src/lib.rs",
        "#![allow(unsafe_code, reason = \"x\")]\n#[allow(dead_code)]\n#[expect(unused)]\n\
         fn f() { a.expect(\"b\") }",
    )];
    assert_eq!(
        found(&files),
        ["agent/src/lib.rs:2: reasons", "agent/src/lib.rs:3: reasons"]
    );
}

#[test]
fn files_stay_short() {
    let (long, main) = ("//\n".repeat(601), "//\n".repeat(61));
    let files = [("a/src/x.rs", long.as_str()), ("a/src/main.rs", &main)];
    assert_eq!(
        found(&files),
        ["a/src/main.rs:61: length", "a/src/x.rs:601: length"]
    );
}

#[test]
fn pure_crates_stay_pure_and_all_have_the_lints() {
    let files = [
        (
            "agent/agent-core/Cargo.toml",
            "[dependencies]\nserde = '1'\ntokio = '1'\n[lints]\nworkspace = true\n",
        ),
        ("agent/agent-core/src/lib.rs", "//! x"),
        (
            "tests/guest/Cargo.toml",
            "[dependencies]\nagent-core = '1'\n",
        ),
    ];
    assert_eq!(
        found(&files),
        [
            "agent/agent-core/Cargo.toml:3: dependencies",
            "agent/agent-core/src/lib.rs:1: unsafe",
            "tests/guest/Cargo.toml:1: lints",
            "tests/guest/Cargo.toml:2: dependencies",
        ]
    );
}

#[test]
fn documents_name_what_is_there() {
    let files = [
        (
            "README.md",
            "See `agent/src/lib.rs`, agent/src/ and `tests/gone.rs`.\n`agent/src/probes/<probe>.rs` https://a/agent/x",
        ),
        ("agent/src/lib.rs", ""),
    ];
    assert_eq!(found(&files), ["README.md:1: prose"]);
}

#[test]
fn a_finding_says_where_what_and_the_way_out() {
    let findings = check(&tree(&[("agent/src/web/mod.rs", "use crate::kernel;")]));
    assert_eq!(
        findings[0].to_string(),
        "agent/src/web/mod.rs:1: directions: web must not import kernel\n    hand a value or a \
         function in from cli, or change the table in xtask/src/rooms.rs and ARCHITECTURE.md, \
         with the reason"
    );
}
