//! What the running kernel calls its reasons.

use std::collections::BTreeMap;

use serde::Serialize;

/// What names of reasons begin with (include/net/dropreason-core.h), which says nothing.
const PREFIXES: [&str; 2] = ["SKB_DROP_REASON_", "SKB_"];

/// Names that are no reasons.
const NO_REASONS: [&str; 3] = ["MAX", "SUBSYS_MASK", "MASK"];

/// What kind of end it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Something went wrong.
    Dropped,
    /// The place in the kernel gives no reason: some are drops, many are how a packet
    /// normally ends.
    Unspecified,
    /// It was used up.
    Consumed,
}

/// The reasons of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    names: BTreeMap<u32, String>,
}

impl Reasons {
    /// Out of the kernel's own enumerations; none at all: it gives no reasons.
    pub fn of(enumerators: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut names = BTreeMap::new();
        for (name, number) in enumerators {
            let short = PREFIXES
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(&name);
            let counts = |end: &str| short == end || short.ends_with(&format!("_{end}"));
            if !short.starts_with("SUBSYS_") && !NO_REASONS.iter().any(|end| counts(end)) {
                // The first name of a number is the one that it has had for longest.
                names.entry(number).or_insert_with(|| short.to_owned());
            }
        }
        Self { names }
    }

    /// Whether the kernel gives any.
    pub fn are_given(&self) -> bool {
        !self.names.is_empty()
    }

    /// What this one is called.
    pub fn name(&self, reason: u32) -> String {
        match self.names.get(&reason) {
            Some(name) => name.clone(),
            None if !self.are_given() => "not given".to_owned(),
            None if reason == u32::MAX => "others".to_owned(),
            None => format!("{reason:#x}"),
        }
    }

    /// What kind of end this one is.
    pub fn class(&self, reason: u32) -> Class {
        match self.names.get(&reason).map(String::as_str) {
            Some("CONSUMED" | "NOT_DROPPED_YET") => Class::Consumed,
            Some("NOT_SPECIFIED") => Class::Unspecified,
            None if !self.are_given() => Class::Unspecified,
            _ => Class::Dropped,
        }
    }

    /// The number of a name, in any case and with or without what it begins with.
    pub fn number(&self, name: &str) -> Option<u32> {
        let name = name.trim().to_ascii_uppercase();
        let short = PREFIXES
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(&name);
        let found = self.names.iter().find(|(_, known)| *known == short);
        found.map(|(number, _)| *number)
    }

    /// Names that have a part in common with this one, to help who mistyped it.
    pub fn like(&self, name: &str) -> Vec<&str> {
        let name = name.to_ascii_uppercase();
        let words: Vec<&str> = name.split('_').filter(|word| word.len() > 2).collect();
        let like = |known: &&str| words.iter().any(|word| known.contains(word));
        self.names
            .values()
            .map(String::as_str)
            .filter(like)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Reasons {
        let names = [
            ("SKB_NOT_DROPPED_YET", 0),
            ("SKB_CONSUMED", 1),
            ("SKB_DROP_REASON_NOT_SPECIFIED", 2),
            ("SKB_DROP_REASON_NO_SOCKET", 3),
            ("SKB_DROP_REASON_SOCKET_RCVBUFF", 6),
            ("SKB_DROP_REASON_MAX", 7),
            ("SKB_DROP_REASON_SUBSYS_MASK", 0xffff_0000),
            ("OVS_DROP_LAST_ACTION", 0x2_0001),
            ("OVS_DROP_MAX", 0x2_0002),
        ];
        Reasons::of(names.map(|(name, number)| (name.to_owned(), number)))
    }

    #[test]
    fn reasons_are_named_as_the_kernel_names_them() {
        let reasons = some();
        for (number, name, class) in [
            (0, "NOT_DROPPED_YET", Class::Consumed),
            (1, "CONSUMED", Class::Consumed),
            (2, "NOT_SPECIFIED", Class::Unspecified),
            (3, "NO_SOCKET", Class::Dropped),
            (7, "0x7", Class::Dropped),
            (0x2_0001, "OVS_DROP_LAST_ACTION", Class::Dropped),
            (u32::MAX, "others", Class::Dropped),
        ] {
            assert_eq!(
                (reasons.name(number).as_str(), reasons.class(number)),
                (name, class)
            );
        }
        assert_eq!(reasons.number("no_socket"), Some(3));
        assert_eq!(reasons.number("SKB_DROP_REASON_NO_SOCKET"), Some(3));
        assert_eq!(reasons.number("MAX"), None);
        assert_eq!(reasons.like("SOCKET_BUFF"), ["NO_SOCKET", "SOCKET_RCVBUFF"]);
    }

    #[test]
    fn a_kernel_without_reasons_gives_none() {
        let reasons = Reasons::default();
        assert!(!reasons.are_given());
        assert_eq!(reasons.class(0), Class::Unspecified);
        assert_eq!(reasons.name(0), "not given");
    }
}
