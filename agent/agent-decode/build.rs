//! Lists `signatures/*.toml`, so that a new file there is all that a new bug takes.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=signatures");
    let folder =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("signatures");
    let entries = fs::read_dir(&folder).expect("signatures/ is readable");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    files.sort();
    let list: Vec<_> = files
        .iter()
        .map(|file| format!("include_str!(r#\"{}\"#),", file.display()))
        .collect();
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("signatures.rs");
    fs::write(out, format!("&[{}]", list.join("\n"))).expect("OUT_DIR is writable");
}
