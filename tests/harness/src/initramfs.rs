//! What a lab machine boots into: one archive in memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::kernels::Kernel;
use crate::tool::{self, XZ};

/// Modules a lab machine cannot do without, unless they are built in.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    // Asked for by name when the file system is mounted.
    "crc32c_generic",
    "crc32c_cryptoapi",
    "ext4",
    "netconsole",
];

/// Modules for the kinds of network that a node may have, loaded if a case asks.
const NETWORKS: &[&str] = &["8021q", "bonding", "bridge", "veth", "vxlan"];

/// Modules for traffic as of an overlay network, likewise.
const TRAFFIC: &[&str] = &["tun", "sch_ingress", "cls_bpf"];

/// Where a kernel can keep the log of its death; loaded if a case asks.
const KEEPERS: &[&str] = &["reed_solomon", "ramoops", "efi_pstore"];

/// A file of the archive.
#[derive(Clone, Debug)]
pub struct File {
    /// Absolute path in the guest.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub bytes: Vec<u8>,
}

impl File {
    /// A file copied from the host.
    pub fn copy(path: &str, mode: u32, from: &Path) -> Result<Self> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(Self {
            path: path.to_owned(),
            mode,
            bytes,
        })
    }
}

/// The modules that `kernel` needs for the lab's devices, with the list of the
/// order in which to load them; and, in a list of their own, those for other networks.
pub fn modules(kernel: &Kernel) -> Result<Vec<File>> {
    let all = module_files(&kernel.modules)?;
    let mut loader = Loader {
        all: &all,
        seen: BTreeSet::new(),
        files: Vec::new(),
        order: String::new(),
    };
    for name in MODULES {
        loader.add(name)?;
    }
    let always = std::mem::take(&mut loader.order);
    for name in NETWORKS {
        loader.add(name)?;
    }
    let networks = std::mem::take(&mut loader.order);
    for name in TRAFFIC {
        loader.add(name)?;
    }
    let traffic = std::mem::take(&mut loader.order);
    // One by one, with parameters: no list of them.
    for name in KEEPERS {
        loader.add(name)?;
    }
    let orders = [
        ("/modules/order", always),
        ("/modules/networks", networks),
        ("/modules/traffic", traffic),
    ];
    let mut files = loader.files;
    files.extend(orders.map(|(path, order)| File {
        path: path.into(),
        mode: 0o644,
        bytes: order.into_bytes(),
    }));
    Ok(files)
}

struct Loader<'a> {
    all: &'a [(String, PathBuf)],
    seen: BTreeSet<String>,
    files: Vec<File>,
    order: String,
}

impl Loader<'_> {
    /// Adds a module behind those that it depends on; one that has no file is
    /// built into the kernel.
    fn add(&mut self, name: &str) -> Result<()> {
        let Some((_, path)) = self.all.iter().find(|(found, _)| found == name) else {
            return Ok(());
        };
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let bytes = read_module(path)?;
        for dependency in depends(&bytes) {
            self.add(&dependency)?;
        }
        self.order.push_str(name);
        self.order.push_str(".ko\n");
        self.files.push(File {
            path: format!("/modules/{name}.ko"),
            mode: 0o644,
            bytes,
        });
        Ok(())
    }
}

fn module_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                open.push(path);
            } else if let Some((stem, _)) = name.split_once(".ko") {
                // File names have '-' where module names have '_'.
                found.push((stem.replace('-', "_"), path));
            }
        }
    }
    Ok(found)
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        return Ok(tool::run(XZ.command()?.arg("-dc").arg(path))?.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names behind `depends=` in a module's `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// An archive in the kernel's format ("newc", see
/// Documentation/driver-api/early-userspace/buffer-format.rst). Not compressed: an emulated CPU unpacks
/// slowly, and handing it over costs nothing.
pub fn archive(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut inode = 0;
    let mut entry = |path: &str, mode: u32, bytes: &[u8]| {
        inode += 1;
        let name = path.trim_start_matches('/');
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            0,
            0,
            1,
            0,
            bytes.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        );
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&[0; 4][..padding(header.len() + name.len(), true)]);
        out.extend_from_slice(bytes);
        out.extend_from_slice(&[0; 4][..padding(bytes.len(), false)]);
    };
    let mut dirs = BTreeSet::new();
    for path in files
        .iter()
        .map(|file| file.path.as_str())
        .chain(["/dev/x", "/proc/x", "/sys/x", "/run/x"])
    {
        for (at, _) in path.match_indices('/').skip(1) {
            dirs.insert(path[..at].to_owned());
        }
    }
    for dir in &dirs {
        entry(dir, 0o040_755, &[]);
    }
    for file in files {
        entry(&file.path, 0o100_000 | file.mode, &file.bytes);
    }
    entry("TRAILER!!!", 0, &[]);
    out
}

/// Zero bytes up to a multiple of four; a name ends in at least one.
fn padding(len: usize, name: bool) -> usize {
    let end = len + usize::from(name);
    usize::from(name) + end.next_multiple_of(4) - end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_folders_before_files_and_aligned_entries() {
        let file = |path: &str, mode, bytes: &[u8]| File {
            path: path.to_owned(),
            mode,
            bytes: bytes.to_vec(),
        };
        let packed = archive(&[file("/init", 0o755, b"#!x"), file("/a/b/c", 0o644, &[7; 5])]);
        let mut at = 0;
        let mut seen = Vec::new();
        while at < packed.len() {
            let field = |i: usize| {
                let from = at + 6 + i * 8;
                let digits = std::str::from_utf8(&packed[from..from + 8]).expect("hex digits");
                usize::from_str_radix(digits, 16).expect("hex digits")
            };
            assert_eq!(&packed[at..at + 6], b"070701");
            let (mode, size, name) = (field(1), field(6), field(11));
            let text = &packed[at + 110..at + 109 + name];
            seen.push((String::from_utf8_lossy(text).into_owned(), mode, size));
            at = (at + 110 + name).next_multiple_of(4) + size.next_multiple_of(4);
        }
        let find = |name: &str| seen.iter().position(|entry| entry.0 == name);
        assert!(
            find("a") < find("a/b") && find("a/b") < find("a/b/c"),
            "{seen:?}"
        );
        assert!(seen.contains(&("a/b".to_owned(), 0o040_755, 0)), "{seen:?}");
        assert!(
            seen.contains(&("init".to_owned(), 0o100_755, 3)),
            "{seen:?}"
        );
        assert!(
            seen.contains(&("a/b/c".to_owned(), 0o100_644, 5)),
            "{seen:?}"
        );
        assert_eq!(find("TRAILER!!!"), Some(seen.len() - 1));
    }

    #[test]
    fn dependencies_are_read_from_the_module_itself() {
        assert_eq!(
            depends(b"x\0license=GPL\0depends=virtio,virtio_ring\0y"),
            ["virtio", "virtio_ring"]
        );
        assert!(depends(b"x\0depends=\0y").is_empty());
        assert!(depends(b"").is_empty());
    }
}
