//! What hours of deaths came to, in the repository: a file for machines and one for people.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

/// Where it is kept, from the root of the work tree.
pub const FOLDER: &str = "docs";

/// What `NAME.json` has; nothing if it is not there.
pub fn read<T: DeserializeOwned + Default>(dir: &Path, name: &str) -> Result<T> {
    let path = dir.join(format!("{name}.json"));
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} has something else", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes `NAME.json` and `NAME.md`.
pub fn write(dir: &Path, name: &str, json: &str, markdown: &str) -> Result<()> {
    for (kind, text) in [("json", json), ("md", markdown)] {
        let path = dir.join(format!("{name}.{kind}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Milliseconds as exactly as they are kept.
pub fn tenths((median, greatest): (f64, f64)) -> (f64, f64) {
    let tenth = |ms: f64| (ms * 10.0).round() / 10.0;
    (tenth(median), tenth(greatest))
}
