//! A disk that outlives its machine.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::tool::{self, MKFS};

/// Room for what an agent keeps; a file with holes.
const BYTES: u64 = 8 << 20;

/// Makes an image with an empty file system (ext4, which the kernels of all
/// distributions have, without what an emulated machine need not pay for).
pub fn empty(path: &Path) -> Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(BYTES))
        .with_context(|| format!("cannot make the disk {}", path.display()))?;
    // With a journal: the next boot mounts it as it is, whatever became of this one.
    let features = "^metadata_csum,^resize_inode";
    tool::run(MKFS.command()?.args(["-q", "-O", features]).arg(path))?;
    Ok(())
}
