//! The kernel's CVE records, as this machine keeps them: one JSON object a line, the first
//! says what the file is.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_decode::bugs::{Index, Record};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::super::out;

/// The form of the file; another is imported anew.
const FORMAT: u32 = 1;
/// Longest file of a record that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Longest line of the index that is read, in bytes.
const LINE_MAX: u64 = 1 << 20;
/// Most directories below each other.
const DEPTH_MAX: usize = 8;
/// Progress is said this often.
const PROGRESS: Duration = Duration::from_secs(1);

#[derive(Deserialize, Serialize)]
struct Header {
    lastgasp_cve_index: u32,
    records: usize,
}

/// Where the index lies if nobody says: `$XDG_DATA_HOME`, else below the home directory,
/// else where the agent keeps its state.
pub(super) fn default_path() -> PathBuf {
    let from = |name: &str| {
        env::var_os(name)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
    };
    let data = from("XDG_DATA_HOME").or_else(|| Some(from("HOME")?.join(".local/share")));
    let dir = data.map_or_else(
        || PathBuf::from("/var/lib/lastgasp"),
        |data| data.join("lastgasp"),
    );
    dir.join("cve.jsonl")
}

/// What was found in a directory of records.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// Records that are in the index now.
    pub(super) records: usize,
    /// Files that could not be read as a record.
    pub(super) unreadable: usize,
    /// Bytes of the index.
    pub(super) bytes: u64,
}

/// Reads all records below a directory, and puts an index of them into a file.
pub(super) fn import(from: &Path, to: &Path) -> anyhow::Result<Imported> {
    let mut files = Vec::new();
    walk(from, DEPTH_MAX, &mut files).with_context(|| format!("cannot read {}", from.display()))?;
    files.sort();
    let mut imported = Imported::default();
    let mut records: Vec<Record> = Vec::new();
    let mut said = Instant::now();
    for (at, file) in files.iter().enumerate() {
        match record(file) {
            Some(record) => records.push(record),
            None => imported.unreadable += 1,
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            out::progress(&format!("{} of {} records", at + 1, files.len()));
        }
    }
    if records.is_empty() {
        bail!(
            "no CVE record of the kernel lies below {}: it should be a clone of the kernel's vulns repository, or its \
             cve/published",
            from.display()
        );
    }
    imported.records = records.len();
    imported.bytes =
        write(&records, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(imported)
}

/// Files that hold a record: its JSON, or its announcement where there is no JSON.
fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let is = |extension: &str| path.extension().is_some_and(|e| e == extension);
        if kind.is_dir() && depth > 0 {
            walk(&path, depth - 1, files)?;
        } else if kind.is_file()
            && (is("json") || (is("mbox") && !path.with_extension("json").exists()))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn record(file: &Path) -> Option<Record> {
    let text = |path: &Path| String::from_utf8(read(path)?).ok();
    if file.extension().is_some_and(|e| e == "mbox") {
        return Record::of_mail(&text(file)?);
    }
    let dyad = text(&file.with_extension("dyad"));
    Record::of_json(&read(file)?, dyad.as_deref())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(FILE_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// Puts the index where it belongs only once it is whole.
fn write(records: &[Record], to: &Path) -> io::Result<u64> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = to.with_extension("new");
    let mut out = BufWriter::new(File::create(&new)?);
    let header = Header {
        lastgasp_cve_index: FORMAT,
        records: records.len(),
    };
    serde_json::to_writer(&mut out, &header)?;
    out.write_all(b"\n")?;
    for record in records {
        serde_json::to_writer(&mut out, record)?;
        out.write_all(b"\n")?;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    fs::rename(&new, to)?;
    Ok(bytes)
}

/// The index in a file; `None`: there is no such file.
pub(super) fn open(path: &Path) -> anyhow::Result<Option<Index>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let what = || {
        format!(
            "cannot read {}: import it again (lastgasp bugs import)",
            path.display()
        )
    };
    let mut lines = BufReader::new(file);
    let header: Header = line(&mut lines).with_context(what)?.with_context(what)?;
    if header.lastgasp_cve_index != FORMAT {
        bail!(
            "{} is of another version of lastgasp: import it again (lastgasp bugs import)",
            path.display()
        );
    }
    let mut records = Vec::new();
    while let Some(record) = line(&mut lines).with_context(what)? {
        records.push(record);
    }
    if records.len() != header.records {
        bail!(
            "{} is not whole: import it again (lastgasp bugs import)",
            path.display()
        );
    }
    Ok(Some(Index::new(records)))
}

fn line<T: for<'de> Deserialize<'de>>(lines: &mut impl BufRead) -> anyhow::Result<Option<T>> {
    let mut text = Vec::new();
    lines.take(LINE_MAX).read_until(b'\n', &mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cveMetadata":{"cveId":"CVE-2024-1"},"containers":{"cna":{"title":"net: fix it",
        "descriptions":[{"value":"has been resolved:\n\nnet: fix it\n\nIt calls some_function() twice."}],
        "affected":[{"programFiles":["net/a.c"]}]}}}"#;

    #[test]
    fn what_is_imported_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let year = dir.path().join("cve/published/2024");
        fs::create_dir_all(&year).expect("a directory");
        fs::write(year.join("CVE-2024-1.json"), JSON).expect("a file");
        fs::write(
            year.join("CVE-2024-1.dyad"),
            "5.8:a:5.10.36:b\n5.8:a:5.13:c\n",
        )
        .expect("a file");
        fs::write(year.join("CVE-2024-1.mbox"), "not read, as there is JSON").expect("a file");
        fs::write(year.join("CVE-2024-2.json"), "{").expect("a file");
        let to = dir.path().join("data/cve.jsonl");
        let imported = import(dir.path(), &to).expect("imported");
        assert_eq!((imported.records, imported.unreadable), (1, 1));
        assert_eq!(imported.bytes, fs::metadata(&to).expect("a file").len());
        let index = open(&to).expect("readable").expect("there");
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn an_index_that_is_damaged_is_not_taken_for_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cve.jsonl");
        assert!(open(&path).expect("no error").is_none());
        for text in [
            "",
            "{}\n",
            "{\"lastgasp_cve_index\":9,\"records\":0}\n",
            "{\"lastgasp_cve_index\":1,\"records\":2}\n",
        ] {
            fs::write(&path, text).expect("a file");
            let error = format!("{:#}", open(&path).expect_err(text));
            assert!(error.contains("import it again"), "{error}");
        }
        let error = import(dir.path(), &path).expect_err("nothing there");
        assert!(error.to_string().contains("vulns"), "{error}");
    }
}
