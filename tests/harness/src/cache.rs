//! What was fetched or built once and is kept outside the work tree.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::progress;

/// The folder of everything that is expensive: kernels, compilers, modules,
/// snapshots. Safe to delete; safe to share between processes.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Held while one process works on one thing; released when dropped, also by
/// the death of the process.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl Cache {
    /// `$LASTGASP_CACHE`, else `$XDG_CACHE_HOME/lastgasp`, else
    /// `~/.cache/lastgasp`; created if missing.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let root = set("LASTGASP_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("lastgasp")))
            .or_else(|| set("HOME").map(|dir| PathBuf::from(dir).join(".cache/lastgasp")))
            .context("no place for the cache: set LASTGASP_CACHE to a folder")?;
        Self::at(&root)
    }

    /// A cache in this folder.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("cannot create the cache folder {}", root.display()))?;
        let root = fs::canonicalize(root)
            .with_context(|| format!("cannot resolve the cache folder {}", root.display()))?;
        Ok(Self { root })
    }

    /// Where `name` is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits for the lock called `name` (one file name).
    pub fn lock(&self, name: &str) -> Result<CacheLock> {
        let dir = self.path("locks");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(name);
        let file = File::create(&path)
            .with_context(|| format!("cannot create the lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress::say(&format!("waiting for another process that works on {name}"));
                file.lock()
                    .with_context(|| format!("cannot take the lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot take the lock {}", path.display()));
            }
        }
        Ok(CacheLock { _file: file })
    }

    /// The folder `name`, filled by `build` if it is not there yet. `build`
    /// works in a folder beside it, which is renamed only on success, so a
    /// folder that exists is complete.
    pub fn fill(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = self.path(name);
        if target.is_dir() {
            return Ok(target);
        }
        let _lock = self.lock(&name.replace('/', "-"))?;
        if target.is_dir() {
            return Ok(target);
        }
        let partial = self.path(&format!("{name}.partial"));
        remove_dir(&partial)?;
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        build(&partial)?;
        fs::rename(&partial, &target)
            .with_context(|| format!("cannot move {} into place", partial.display()))?;
        Ok(target)
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fill_leaves_nothing_and_a_done_one_is_not_repeated() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache::at(&dir.path().join("c"))?;
        assert!(
            cache
                .fill("a/b", |partial| {
                    fs::write(partial.join("half"), "x")?;
                    anyhow::bail!("network gone")
                })
                .is_err()
        );
        assert!(!cache.path("a/b").exists());
        let filled = cache.fill("a/b", |partial| Ok(fs::write(partial.join("x"), "1")?))?;
        assert_eq!(fs::read_to_string(filled.join("x"))?, "1");
        assert!(!filled.join("half").exists());
        cache.fill("a/b", |_| anyhow::bail!("asked twice"))?;
        Ok(())
    }
}
