//! Known bugs: which of them a report looks like, and which of those its
//! kernel can have.

mod cna;
mod rank;
mod search;
mod signature;
mod versions;

use std::sync::LazyLock;

pub use cna::Record;
pub use rank::{Candidate, Opinion, Standing, Verdict, candidates, on_kernel};
pub use search::{Found, Index};
pub use signature::{Action, Reference, Signature, Workaround};
pub use versions::Versions;

static KNOWN: LazyLock<Vec<Signature>> = LazyLock::new(|| {
    let files: &[&str] = include!(concat!(env!("OUT_DIR"), "/signatures.rs"));
    // Each is parsed by a test as well; what does not parse is not shipped.
    files
        .iter()
        .filter_map(|file| toml::from_str(file).ok())
        .collect()
});

/// The bugs that this build knows, by id.
pub fn known() -> &'static [Signature] {
    &KNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_bug_with_its_own_id() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("signatures");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).expect("signatures/") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("readable");
            let name = path.file_stem().expect("a name").to_str().expect("UTF-8");
            let bug: Signature =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(bug.id, name);
            assert!(!bug.references.is_empty(), "{name} has no reference");
            assert!(bug.title.len() <= 90, "{name}: its title is for one line");
            assert!(known().iter().any(|known| known.id == name), "{name}");
            files += 1;
        }
        assert_eq!(files, known().len());
    }
}
