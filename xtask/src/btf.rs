//! Names in BTF that the kernel takes.
//!
//! The kernel refuses a whole object for one type name that C could not have
//! (`btf_name_valid_identifier` in kernel/bpf/btf.c). bpf-linker rewrites those
//! of structs, but not of unions, and `MaybeUninit<u8>` is one.

use anyhow::{Context, Result, bail};

const MAGIC: u16 = 0xeb9f;
const KIND_DATASEC: u32 = 15;

/// Bytes that follow the 12 of a type, by its kind (include/uapi/linux/btf.h).
fn tail(kind: u32, count: usize) -> usize {
    match kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => count * 12,
        // ENUM, FUNC_PROTO
        6 | 13 => count * 8,
        _ => 0,
    }
}

/// Replaces, in the names of types, each byte that C does not allow by an
/// underscore. Gives how many names it changed.
pub(crate) fn tame_names(btf: &mut [u8]) -> Result<usize> {
    if btf.get(..2) != Some(&MAGIC.to_le_bytes()) {
        bail!("the section .BTF is no BTF");
    }
    let header = u32_at(btf, 4)?;
    let types = header + u32_at(btf, 8)?;
    let end = types + u32_at(btf, 12)?;
    let strings = header + u32_at(btf, 16)?;
    let (mut at, mut changed) = (types, 0);
    while at < end {
        let (name, info) = (u32_at(btf, at)?, u32_at(btf, at + 4)? as u32);
        let kind = info >> 24 & 0x1f;
        // Sections are called `.maps` and the like.
        if kind != KIND_DATASEC {
            let name = btf.get_mut(strings + name..).context("a name is cut off")?;
            let mut wild = false;
            for byte in name.iter_mut().take_while(|byte| **byte != 0) {
                if !byte.is_ascii_alphanumeric() && *byte != b'_' {
                    *byte = b'_';
                    wild = true;
                }
            }
            changed += usize::from(wild);
        }
        at += 12 + tail(kind, (info & 0xffff) as usize);
    }
    Ok(changed)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    Ok(u32::from_le_bytes(*word.context("the BTF is cut off")?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A union `name` of `count` members, then an int.
    fn btf(name: &[u8], count: u32) -> Vec<u8> {
        let mut types: Vec<u32> = vec![1, 5 << 24 | count, 1];
        types.extend(vec![0; 3 * count as usize]);
        types.extend([0, 1 << 24, 1, 8]);
        let length = 4 * types.len() as u32;
        let strings = [b"\0", name, b"\0"].concat();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, strings.len() as u32]
            .iter()
            .chain(&types)
        {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_generic_name_becomes_one_of_c_with_the_same_length() {
        let mut bytes = btf(b"MaybeUninit<u8>", 2);
        assert_eq!(tame_names(&mut bytes).expect("well-formed"), 1);
        assert!(bytes.ends_with(b"\0MaybeUninit_u8_\0"));
        assert_eq!(tame_names(&mut bytes).expect("well-formed"), 0);
    }

    #[test]
    fn damaged_btf_is_an_error() {
        let whole = btf(b"a", 1);
        for length in 0..24 {
            assert!(
                tame_names(&mut whole[..length].to_vec()).is_err(),
                "{length}"
            );
        }
    }
}
