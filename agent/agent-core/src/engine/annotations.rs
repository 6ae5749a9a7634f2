//! What is written on a pod.

use std::collections::BTreeMap;

use super::explain::{by, reason, reason_code, retry};
use super::text::{escaped, rfc3339};
use crate::model::{Death, NodeName};

/// Longest value, in bytes. Kubernetes allows 256 KiB for all annotations of
/// an object together; these are for reading.
pub const VALUE_MAX: usize = 1024;

/// Under which prefixes the annotations are written. Both are DNS subdomains
/// (see [`is_prefix`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Prefix of our own keys, `lastgasp.dev` unless configured.
    pub prefix: String,
    /// Prefix of `pod-termination-reason` and its like, for people whose tools
    /// read those; none are written without it.
    pub legacy_prefix: Option<String>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            prefix: "lastgasp.dev".to_owned(),
            legacy_prefix: None,
        }
    }
}

/// Whether this can stand before the slash of an annotation key: a DNS
/// subdomain of at most 253 bytes.
pub fn is_prefix(text: &str) -> bool {
    NodeName::new(text).is_some()
}

/// The annotations that explain this death on a pod. Every value is escaped
/// and at most [`VALUE_MAX`] bytes long.
///
/// | key | value |
/// |---|---|
/// | `reason` | one line for people |
/// | `reason-code` | the machine's word, stable |
/// | `by` | who wrote it |
/// | `boot-id` | the boot that ended |
/// | `proof` | how sure it is, P2 to P4 |
/// | `time` | when it happened, RFC 3339, by the node's clock |
/// | `retry`, `retry-why` | whether to run the work again, and why |
/// | `death` | the name of the `NodeDeath` |
///
/// The proof stands as it was when the pod was written; the `NodeDeath` has
/// the newest.
pub fn annotations(death: &Death, keys: &Keys) -> BTreeMap<String, String> {
    let retry = retry(death);
    let reason = reason(death);
    let code = reason_code(death).as_str();
    let own = [
        ("reason", reason.as_str()),
        ("reason-code", code),
        ("by", by()),
        ("boot-id", &death.boot.to_string()),
        ("proof", &format!("{:?}", death.proof)),
        ("time", &rfc3339(death.happened_at)),
        ("retry", retry.advice.as_str()),
        ("retry-why", retry.why),
        ("death", death.name.as_str()),
    ]
    .map(|(key, value)| (format!("{}/{key}", keys.prefix), value.to_owned()));
    let legacy = keys.legacy_prefix.iter().flat_map(|prefix| {
        [
            ("pod-termination-reason", reason.as_str()),
            ("pod-termination-reason-code", code),
            ("pod-termination-by", by()),
        ]
        .map(|(key, value)| (format!("{prefix}/{key}"), value.to_owned()))
    });
    own.into_iter()
        .chain(legacy)
        .map(|(key, value)| (key, escaped(&value, VALUE_MAX)))
        .collect()
}
