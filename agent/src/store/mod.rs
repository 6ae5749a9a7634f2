//! What must outlive the annotator and the objects it writes on: nodes, pods,
//! deaths with their lines, how long each boot lived, what was written where, and what
//! is still to do.
//!
//! One SQLite file in WAL mode with `synchronous=NORMAL`: a commit survives
//! SIGKILL of the annotator; a power cut may take the last commits, never the
//! file. One process writes; anyone may read.

mod fleet;
mod prune;
mod read;
mod schema;
mod view;
mod write;

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use prune::{Dropped, Round};
pub use read::Query;
pub use view::{Explanation, Mitigated, PodNote, Removed, Silent, Stopped, Summary};
pub use write::{BootLines, Change, Committed, KeptRecord, OverheardLines, SeenNode, Task};

#[cfg(test)]
mod tests;

/// How long to wait for a lock of another process (a reader's checkpoint).
const BUSY: Duration = Duration::from_secs(2);

/// Pages that each connection keeps in its own memory; SQLite's default is four times as
/// much. The kernel keeps the file in its own as well.
const CACHE_KIB: i32 = 512;

/// Why the store cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or made.
    #[error(
        "cannot open the store {path}; its directory must exist and be writable, or name another file with --store"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The file beside it that keeps a second writer away cannot be made.
    #[error(
        "cannot lock the store {path}; its directory must exist and be writable, or name another file with --store"
    )]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another annotator writes to it.
    #[error(
        "the store {path} is in use by another annotator; stop that one, or name another file with --store"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened to read.
    #[error(
        "cannot read the store {path}; name the file of an annotator's --store, or a copy of it with its -wal file, in a directory that is writable: SQLite keeps two more files there"
    )]
    OpenToRead {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// It is a database, but not one of ours.
    #[error(
        "{path} is no store of lastgasp, or nothing is in it yet; name the file of an annotator's --store"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "the store {path} has format {found}, but this version knows up to {known}; use the newer lastgasp, or name another file with --store"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format this version knows.
        known: i64,
    },
    /// It is no database, or a broken one.
    #[error(
        "the store {path} is damaged; move it away together with its -wal and -shm files and start again: a new one is made"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The disk is full.
    #[error(
        "no space left for the store {path}; free some: what is not stored is kept in memory until then"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Another process keeps it locked.
    #[error("the store {path} is locked by another process; end what has it open")]
    Busy {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Anything else.
    #[error("the store {path} failed")]
    Sql {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A row holds what this version cannot read.
    #[error(
        "the store {path} holds a record that cannot be read; if a newer lastgasp wrote it, use that"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Reads never wait for a commit, nor commits for a long answer. It ends before the
    /// writer: only that can put all that is in the log into the file at the end.
    reader: Mutex<Connection>,
    writer: Option<Mutex<Connection>>,
    /// Of questions that take memory one is answered at a time.
    turn: Mutex<()>,
    /// Held for as long as this process may write.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store to write, making or migrating it as needed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let lock = lock(path)?;
        let flags = OpenFlags::default();
        let mut writer = connect(path, flags)?;
        schema::prepare(path, &mut writer)?;
        let reader = connect_to_read(path)?;
        Ok(Self {
            path: path.to_owned(),
            reader: Mutex::new(reader),
            writer: Some(Mutex::new(writer)),
            turn: Mutex::new(()),
            _lock: Some(lock),
        })
    }

    /// Opens an existing store to read, also while an annotator writes to it, or one that
    /// an older version wrote. It stays as it is.
    pub fn open_to_read(path: &Path) -> Result<Self, Error> {
        let reader = connect_to_read(path)?;
        Ok(Self {
            path: path.to_owned(),
            reader: Mutex::new(reader),
            writer: None,
            turn: Mutex::new(()),
            _lock: None,
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Connection>, Error> {
        let writer = self.writer.as_ref().ok_or_else(|| {
            self.error(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY),
                None,
            ))
        })?;
        Ok(writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn error(&self, source: rusqlite::Error) -> Error {
        explain(&self.path, source)
    }

    fn record_error(&self, source: serde_json::Error) -> Error {
        Error::Record {
            path: self.path.clone(),
            source,
        }
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| Error::Lock {
        path: lock_path.clone(),
        source,
    };
    let file = File::create(&lock_path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, flags).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    let failed = |source| explain(path, source);
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection
        .pragma_update(None, "cache_size", -CACHE_KIB)
        .map_err(failed)?;
    Ok(connection)
}

fn connect_to_read(path: &Path) -> Result<Connection, Error> {
    let open = |name: &Path, flags| {
        let connection = connect(name, flags)?;
        schema::stand_in(path, &connection)?;
        Ok(connection)
    };
    match open(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // A snapshot on a disk that nobody writes to: SQLite has no place for its two files.
        Err(Error::Open { .. }) if path.is_file() && !has_log(path) => {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            open(&unchanging(path), flags)
        }
        other => other,
    }
    .map_err(|error| match error {
        Error::Open { source, .. } => Error::OpenToRead {
            path: path.to_owned(),
            source,
        },
        other => other,
    })
}

/// Whether commits lie beside the file that are not in it yet.
fn has_log(path: &Path) -> bool {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    std::fs::metadata(name).is_ok_and(|log| log.len() > 0)
}

/// The file's address as one that does not change while it is read.
fn unchanging(path: &Path) -> PathBuf {
    let mut address = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                address.push(char::from(*byte));
            }
            // Writing to a String cannot fail.
            other => {
                let _ = write!(address, "%{other:02X}");
            }
        }
    }
    address.push_str("?immutable=1");
    address.into()
}

/// Says what an error of SQLite means for the user.
fn explain(path: &Path, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Damaged { path, source }
        }
        Some(ErrorCode::DiskFull) => Error::Full { path, source },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path, source },
        Some(ErrorCode::CannotOpen) => Error::Open { path, source },
        _ => Error::Sql { path, source },
    }
}
