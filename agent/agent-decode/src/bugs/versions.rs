//! The first versions of each stable series that have something, and what that
//! says of a kernel.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::distribution::Level;

/// The first version of mainline and of each stable series that has a change.
///
/// Written as a table: `mainline = "6.11"`, `"6.1" = "6.1.103"`; `unverified` names series
/// of which nobody has looked, `"*"` all that are not named.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Versions {
    /// The first mainline kernel; all series that began later have it as well.
    pub mainline: Option<Level>,
    /// The first stable release, for series that took it over.
    pub series: BTreeMap<(u16, u16), Level>,
    /// Series of which it is not known.
    pub unverified: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct Table {
    #[serde(skip_serializing_if = "Option::is_none")]
    mainline: Option<Level>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unverified: Vec<String>,
    #[serde(flatten)]
    series: BTreeMap<String, Level>,
}

impl TryFrom<Table> for Versions {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        let mut series = BTreeMap::new();
        for (name, first) in table.series {
            let of: Level = name.parse()?;
            if of.patch != 0 || of.series != first.series {
                return Err(format!("{first} is no release of series {name}"));
            }
            series.insert(of.series, first);
        }
        for name in table.unverified.iter().filter(|name| *name != "*") {
            name.parse::<Level>()?;
        }
        Ok(Self {
            mainline: table.mainline,
            series,
            unverified: table.unverified,
        })
    }
}

impl From<Versions> for Table {
    fn from(versions: Versions) -> Self {
        let name = |(major, minor): (u16, u16)| format!("{major}.{minor}");
        Self {
            mainline: versions.mainline,
            unverified: versions.unverified,
            series: versions
                .series
                .into_iter()
                .map(|(of, first)| (name(of), first))
                .collect(),
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The newest first, as who reads it is most likely to run one of those.
        let all = self.mainline.iter().chain(self.series.values().rev());
        for (index, first) in all.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{first}")?;
        }
        Ok(())
    }
}

/// Whether a kernel has a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Has {
    /// Since this version.
    Since(Level),
    /// It has not; its series got it with this version, if ever.
    NotBefore(Option<Level>),
    /// Nobody has looked.
    Unknown,
}

impl Versions {
    /// Whether nothing is known of any kernel.
    pub fn is_empty(&self) -> bool {
        self.mainline.is_none() && self.series.is_empty()
    }

    /// Takes in one more version; of two in one series that which `is_better` than the known.
    pub(super) fn add(&mut self, level: Level, is_better: impl Fn(Level, Level) -> bool) {
        // Up to 2.6 the third number was no stable release.
        let is_mainline = level.patch == 0 || level.series == (2, 6);
        let known = if is_mainline {
            self.mainline.get_or_insert(level)
        } else {
            self.series.entry(level.series).or_insert(level)
        };
        if is_better(*known, level) {
            *known = level;
        }
    }

    /// Whether this kernel has it.
    pub(super) fn has(&self, level: Level) -> Has {
        if let Some(first) = self.series.get(&level.series) {
            return if level >= *first {
                Has::Since(*first)
            } else {
                Has::NotBefore(Some(*first))
            };
        }
        if let Some(first) = self.mainline.filter(|first| level.series >= first.series) {
            return if level >= first {
                Has::Since(first)
            } else {
                Has::NotBefore(Some(first))
            };
        }
        let (major, minor) = level.series;
        let name = format!("{major}.{minor}");
        let is_unverified = self.unverified.iter().any(|of| *of == name || of == "*");
        // Without mainline's version nothing is known of series that are not named.
        if is_unverified || self.mainline.is_none() {
            return Has::Unknown;
        }
        Has::NotBefore(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_series_took_over_is_told_from_what_it_began_with() {
        let text = "mainline = '6.11'\n'6.1' = '6.1.103'\nunverified = ['5.4']";
        let versions: Versions = toml::from_str(text).expect("versions");
        let level = |text: &str| text.parse::<Level>().expect("a level");
        for (at, has) in [
            ("6.1.102", Has::NotBefore(Some(level("6.1.103")))),
            ("6.1.103", Has::Since(level("6.1.103"))),
            ("6.1", Has::NotBefore(Some(level("6.1.103")))),
            ("6.11", Has::Since(level("6.11"))),
            ("6.12.1", Has::Since(level("6.11"))),
            ("7.0", Has::Since(level("6.11"))),
            ("6.9.12", Has::NotBefore(None)),
            ("5.4.300", Has::Unknown),
        ] {
            assert_eq!(versions.has(level(at)), has, "{at}");
        }
        let written = toml::to_string(&versions).expect("TOML");
        assert_eq!(
            toml::from_str::<Versions>(&written).expect("versions"),
            versions
        );
    }

    #[test]
    fn a_version_of_another_series_is_refused() {
        for text in [
            "'6.1' = '6.2.3'",
            "'6.1.2' = '6.1.3'",
            "mainline = '6'",
            "x = '6.1'",
            "unverified = ['new']",
        ] {
            assert!(toml::from_str::<Versions>(text).is_err(), "{text}");
        }
    }
}
