//! What is written down of a bug: one file each in `signatures/`.

use serde::{Deserialize, Serialize};

use crate::kind::Kind;

use super::versions::Versions;

/// A known bug.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// `cve-2024-42281`, or words where no CVE was given.
    pub id: String,
    /// One line: what happens, and when.
    pub title: String,
    /// What goes wrong, whom it meets, what the fix does.
    pub explanation: String,
    /// The fix in the mainline kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The first versions that have the bug; empty where that is not known.
    #[serde(default, skip_serializing_if = "Versions::is_empty")]
    pub introduced: Versions,
    /// The first versions that have the fix.
    #[serde(default)]
    pub fixed: Versions,
    /// What a crash by it looks like.
    #[serde(rename = "match")]
    pub looks: Looks,
    /// Builds of distributions that take single fixes.
    #[serde(
        default,
        rename = "distribution",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub distributions: Vec<Build>,
    /// What helps until the kernel is updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workaround: Option<Workaround>,
    /// Where all this is from.
    #[serde(rename = "reference")]
    pub references: Vec<Reference>,
}

/// What a report must say. An empty list asks for nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Looks {
    /// Any of these kinds. None: the bug kills nobody, and is listed for those who look
    /// for it by name.
    pub kinds: Vec<Kind>,
    /// Any of these is at fault or to blame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// All of these are on the stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
    /// Any of these is on the stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack_any: Vec<String>,
    /// Any of these source files holds the check that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Any of these modules is loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// All of these are in what the kernel said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

/// What is known of a distribution's builds: of its `uname -r`, the numbers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The distribution, as reports name it.
    pub name: String,
    /// A build that has the fix, as have later ones of the same version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// A build that has the bug, as have earlier ones of the same version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affected: Option<String>,
    /// Who says so.
    pub source: String,
}

/// What helps until the kernel is updated.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workaround {
    /// What to do, for people.
    pub text: String,
    /// What lastgasp can do itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
}

/// What lastgasp can do against a bug.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Switch GSO and GRO off on the uplink.
    GsoOff,
}

/// Where something is from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its address.
    pub url: String,
    /// What is there.
    pub what: String,
}
