//! Licences, forbidden crates and sources of everything that is built in.
//!
//! An own check on what `cargo metadata` says, so that it runs on a machine
//! without a network and without 400 more crates to build: that is what
//! installing cargo-deny takes. Who has cargo-deny uses the same
//! `.cargo/deny.toml`. Advisories need its database, so they are left to it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::run;

#[derive(Debug, Deserialize)]
struct Policy {
    licenses: Licences,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// What is wrong, a line each; and how many packages were looked at.
pub(crate) fn check() -> Result<(usize, Vec<String>)> {
    let path = run::root().join(".cargo/deny.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy: Policy =
        toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
    let (mut count, mut findings) = (0, Vec::new());
    for manifest in ["Cargo.toml", "agent-ebpf/Cargo.toml"] {
        // From the root, so that the stable cargo reads both workspaces: the
        // nightly one may not be installed yet.
        let mut command = run::cargo(run::root());
        command.args(["metadata", "--locked", "--format-version", "1"]);
        command.args(["--manifest-path", manifest]);
        if manifest == "Cargo.toml" {
            // Crates for other systems need not even be downloaded.
            for arch in ["x86_64", "aarch64"] {
                command.arg(format!("--filter-platform={arch}-unknown-linux-musl"));
            }
        }
        let metadata: Metadata = serde_json::from_str(&run::read(&mut command)?)
            .context("cannot read what `cargo metadata` says")?;
        count += metadata.packages.len();
        findings.extend(metadata.packages.iter().filter_map(|p| policy.refusal(p)));
    }
    findings.sort();
    findings.dedup();
    Ok((count, findings))
}

impl Policy {
    /// Why a package must not be used.
    fn refusal(&self, package: &Package) -> Option<String> {
        let Package { name, version, .. } = package;
        if let Some(ban) = self.bans.deny.iter().find(|ban| ban.name == *name) {
            return Some(format!(
                "{name} {version} is banned: {}; `cargo tree -i {name}` says who brings it",
                ban.reason
            ));
        }
        if let Some(source) = &package.source
            && !source.starts_with("registry+")
        {
            return Some(format!(
                "{name} {version} comes from {source}; take a released version"
            ));
        }
        match &package.license {
            Some(licence) if self.allows(licence) => None,
            Some(licence) => Some(format!(
                "{name} {version} is under {licence}, which .cargo/deny.toml does not allow"
            )),
            None => Some(format!("{name} {version} names no licence")),
        }
    }

    /// Whether an SPDX expression can be met; what cannot be read cannot.
    fn allows(&self, expression: &str) -> bool {
        // Before SPDX expressions, a slash said OR.
        let spaced = expression
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        self.any(&mut rest) == Some(true) && rest.is_empty()
    }

    fn any(&self, words: &mut &[&str]) -> Option<bool> {
        let mut met = self.all(words)?;
        while let ["OR", rest @ ..] = *words {
            *words = rest;
            met |= self.all(words)?;
        }
        Some(met)
    }

    fn all(&self, words: &mut &[&str]) -> Option<bool> {
        let mut met = self.one(words)?;
        while let ["AND", rest @ ..] = *words {
            *words = rest;
            met &= self.one(words)?;
        }
        Some(met)
    }

    fn one(&self, words: &mut &[&str]) -> Option<bool> {
        match *words {
            ["(", rest @ ..] => {
                *words = rest;
                let met = self.any(words)?;
                let [")", rest @ ..] = *words else {
                    return None;
                };
                *words = rest;
                Some(met)
            }
            [licence, "WITH", exception, rest @ ..] => {
                *words = rest;
                let whole = format!("{licence} WITH {exception}");
                Some(self.licenses.allow.contains(&whole))
            }
            [licence, rest @ ..] => {
                *words = rest;
                Some(self.licenses.allow.contains(*licence))
            }
            [] => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        toml::from_str(
            "licenses.allow = ['MIT', 'Apache-2.0', 'Apache-2.0 WITH LLVM-exception']\n\
             bans.deny = [{ crate = 'openssl-sys', reason = 'static' }]",
        )
        .expect("is valid")
    }

    #[test]
    fn expressions_are_met_as_spdx_says() {
        for (expression, met) in [
            ("MIT", true),
            ("MIT/GPL-3.0", true),
            ("MIT OR GPL-2.0-only", true),
            ("MIT AND GPL-2.0-only", false),
            ("GPL-3.0 OR (MIT AND Apache-2.0)", true),
            ("(GPL-3.0 OR MIT) AND Unicode-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR X", true),
            ("MIT WITH Something", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT MIT", false),
        ] {
            assert_eq!(policy().allows(expression), met, "{expression}");
        }
    }

    #[test]
    fn a_refusal_names_the_package_and_the_reason() {
        let package = |name: &str, license: Option<&str>, source: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            source: source.map(Into::into),
        };
        let registry = Some("registry+somewhere");
        for (package, word) in [
            (package("openssl-sys", Some("MIT"), registry), "static"),
            (package("a", Some("GPL-3.0-only"), registry), "GPL-3.0-only"),
            (package("b", None, registry), "no licence"),
            (
                package("c", Some("MIT"), Some("git+elsewhere")),
                "git+elsewhere",
            ),
        ] {
            let refusal = policy().refusal(&package).expect("is refused");
            assert!(
                refusal.contains(word) && refusal.contains(&package.name),
                "{refusal}"
            );
        }
        assert_eq!(policy().refusal(&package("d", Some("MIT"), None)), None);
    }
}
