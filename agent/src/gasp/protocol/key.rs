//! The keys that prove where a frame comes from.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::MAC;

/// Shortest key, in bytes.
const MIN: usize = 16;
/// Longest key file, in bytes.
const MAX_FILE: u64 = 4096;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Everyone on the machine could read or change the key.
    #[error(
        "the key file {path} is open to every user of the machine (mode {mode:03o}); run: chmod 600 {path}"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is too short to protect anything.
    #[error(
        "the key in {path} has {len} bytes, but must have at least 16; make one with: head -c 32 /dev/urandom > {path}"
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length once decoded.
        len: usize,
    },
    /// The file is far longer than a key.
    #[error(
        "the key file {path} is longer than 4096 bytes; a key is 16 bytes or more, raw or in hex"
    )]
    Long {
        /// The file.
        path: PathBuf,
    },
}

/// A pre-shared key. Only the keyed HMAC state is kept, never the bytes, and
/// it has no way to be printed.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Takes the bytes of a key; `None` for fewer than 16.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < MIN {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Self)
    }

    /// Reads a key from a file: raw bytes, or an even number of at least 32
    /// hex digits; a newline at the end does not count.
    ///
    /// The file must not be open to other users.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let fail = |source| KeyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        // Asked of the open file, so that it cannot be swapped in between.
        let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
        if mode & 0o006 != 0 {
            return Err(KeyError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(KeyError::Long {
                path: path.to_owned(),
            });
        }
        let bytes = decode(&bytes);
        Self::new(&bytes).ok_or_else(|| KeyError::Short {
            path: path.to_owned(),
            len: bytes.len(),
        })
    }

    /// The HMAC of `bytes`. Allocates nothing.
    pub(super) fn seal(&self, bytes: &[u8]) -> [u8; MAC] {
        self.0
            .clone()
            .chain_update(bytes)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Whether `mac` is the HMAC of `bytes`, in a time that does not depend on
    /// where they differ. Allocates nothing.
    pub(super) fn proves(&self, bytes: &[u8], mac: &[u8]) -> bool {
        self.0.clone().chain_update(bytes).verify_slice(mac).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// The bytes that a key file stands for.
fn decode(file: &[u8]) -> Vec<u8> {
    let text = file
        .strip_suffix(b"\r\n")
        .or_else(|| file.strip_suffix(b"\n"))
        .unwrap_or(file);
    let hex = text.len() >= 2 * MIN
        && text.len().is_multiple_of(2)
        && text.iter().all(u8::is_ascii_hexdigit);
    if !hex {
        return text.to_vec();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    text.chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// The keys that a receiver accepts, by id.
///
/// For now there is one pre-shared key, id 0; keys of enrolled nodes come
/// beside it.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Vec<(u32, Key)>);

impl KeyRing {
    /// A ring with the pre-shared key, id 0.
    pub fn pre_shared(key: Key) -> Self {
        Self(vec![(0, key)])
    }

    /// Adds a key, or replaces the one with this id.
    pub fn insert(&mut self, id: u32, key: Key) {
        match self.0.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) => self.0[at].1 = key,
            Err(at) => self.0.insert(at, (id, key)),
        }
    }

    /// The key with this id.
    pub fn get(&self, id: u32) -> Option<&Key> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn file(dir: &tempfile::TempDir, mode: u32, bytes: &[u8]) -> PathBuf {
        use std::io::Write;
        let path = dir.path().join("key");
        let _ = std::fs::remove_file(&path);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .expect("new file");
        file.set_permissions(std::fs::Permissions::from_mode(mode))
            .expect("mode");
        file.write_all(bytes).expect("written");
        path
    }

    #[test]
    fn hex_and_raw_give_the_same_key_with_or_without_a_newline() {
        let dir = tempfile::tempdir().expect("directory");
        let raw: Vec<u8> = (0x80..0xa0).collect();
        let hex: String = raw.iter().map(|b| format!("{b:02x}")).collect();
        let expected = Key::new(&raw).expect("32 bytes").seal(b"x");
        for bytes in [
            raw.clone(),
            [&raw[..], b"\n"].concat(),
            hex.clone().into_bytes(),
            format!("{hex}\n").into_bytes(),
            format!("{}\r\n", hex.to_uppercase()).into_bytes(),
        ] {
            let key = Key::read(&file(&dir, 0o600, &bytes)).expect("a key");
            assert_eq!(key.seal(b"x"), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().expect("directory");
        for mode in [0o644, 0o602, 0o604] {
            let error = Key::read(&file(&dir, mode, &[7; 32])).expect_err("open to all");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(Key::read(&file(&dir, 0o640, &[7; 32])).is_ok());
    }

    #[test]
    fn too_short_too_long_and_missing_are_told_apart() {
        let dir = tempfile::tempdir().expect("directory");
        let short = Key::read(&file(&dir, 0o600, b"fifteen bytes..\n")).expect_err("15 bytes");
        assert!(matches!(short, KeyError::Short { len: 15, .. }), "{short}");
        let long = Key::read(&file(&dir, 0o600, &[1; 5000])).expect_err("5000 bytes");
        assert!(matches!(long, KeyError::Long { .. }), "{long}");
        let missing = Key::read(&dir.path().join("none")).expect_err("no file");
        assert!(matches!(missing, KeyError::Read { .. }), "{missing}");
    }

    #[test]
    fn a_key_never_prints_itself() {
        let ring = KeyRing::pre_shared(Key::new(b"sixteen bytes ok").expect("16 bytes"));
        assert_eq!(format!("{ring:?}"), "KeyRing([(0, Key(secret))])");
    }

    #[test]
    fn a_ring_finds_keys_by_id() {
        let mut ring = KeyRing::default();
        for id in [5u32, 1, 9, 1] {
            ring.insert(id, Key::new(&[id as u8; 16]).expect("16 bytes"));
        }
        for id in [1u32, 5, 9] {
            let expected = Key::new(&[id as u8; 16]).expect("16 bytes").seal(b"x");
            assert_eq!(ring.get(id).map(|key| key.seal(b"x")), Some(expected));
        }
        assert!(ring.get(0).is_none());
    }
}
