//! Settings: flags over environment over file over defaults.
//!
//! Each command has a *low* struct, every field an `Option`, that clap and
//! TOML both fill; [`layer`] lays the flags over the file. The command then
//! turns it into its *high* struct, checked and typed.

pub mod agent;
pub mod annotator;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// UDP port for netconsole unless configured.
pub const NETCONSOLE_PORT: u16 = 6666;

/// What can be wrong with a settings file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "the settings file {path} is not valid; `lastgasp <command> --help` lists what it may hold"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{name} is {value}, but must be {expected}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        expected: String,
    },
}

/// Lays `flags` (which hold the environment too) over the section `section`
/// of the TOML file.
pub fn layer<T: Serialize + DeserializeOwned>(
    flags: &T,
    file: Option<&Path>,
    section: &str,
) -> Result<T, Error> {
    let Some(path) = file else {
        return layer_text(flags, "", section, Path::new("-"));
    };
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    layer_text(flags, &text, section, path)
}

fn layer_text<T: Serialize + DeserializeOwned>(
    flags: &T,
    text: &str,
    section: &str,
    path: &Path,
) -> Result<T, Error> {
    let parse = |source| Error::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut file: toml::Table = text.parse().map_err(parse)?;
    let mut table = match file.remove(section) {
        Some(toml::Value::Table(table)) => table,
        _ => toml::Table::new(),
    };
    // Every field is an Option, so this holds just what was given.
    if let Ok(toml::Value::Table(given)) = toml::Value::try_from(flags) {
        table.extend(given);
    }
    table.try_into().map_err(parse)
}

/// Checks that a value lies in a range.
pub fn in_range<T: PartialOrd + std::fmt::Display + Copy>(
    name: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, Error> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::Range {
        name,
        value: value.to_string(),
        expected: format!("{} to {}", range.start(), range.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Low {
        hold_max_ms: Option<u64>,
        collector: Option<Vec<String>>,
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_nothing() {
        let file = "[agent]\nhold-max-ms = 20\ncollector = ['a:1']\n";
        let flags = Low {
            hold_max_ms: Some(30),
            collector: None,
        };
        let got = layer_text(&flags, file, "agent", Path::new("x")).expect("valid");
        assert_eq!(
            got,
            Low {
                hold_max_ms: Some(30),
                collector: Some(vec!["a:1".into()])
            }
        );
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let flags = Low {
            hold_max_ms: None,
            collector: None,
        };
        let error = layer_text(&flags, "[agent]\nhold = 1\n", "agent", Path::new("x.toml"))
            .expect_err("unknown field");
        let source = std::error::Error::source(&error)
            .expect("has a source")
            .to_string();
        assert!(source.contains("hold"), "{source}");
    }

    #[test]
    fn a_value_out_of_range_says_its_range() {
        let error = in_range("hold-max-ms", 9000, 1..=1000).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "hold-max-ms is 9000, but must be 1 to 1000"
        );
    }
}
