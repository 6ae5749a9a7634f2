//! As much of ELF as is needed to say that a binary is static and which
//! programs an eBPF object holds. 64 bit, little-endian.

use std::ops::Range;

use anyhow::{Context, Result, bail};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const STT_FUNC: u8 = 2;
const STB_GLOBAL: u8 = 1;
const SHT_SYMTAB: u32 = 2;
const SHF_EXECINSTR: u64 = 4;

/// A parsed file; everything is read at the offset that the file names, and a
/// file that lies about one is an error.
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

/// One function that the kernel can be asked to load.
#[derive(Debug, PartialEq)]
pub(crate) struct Program {
    /// The section says how it attaches.
    pub(crate) section: String,
    /// Its symbol.
    pub(crate) name: String,
    /// Instructions of 8 bytes.
    pub(crate) instructions: u64,
}

struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    offset: u64,
    size: u64,
    link: u32,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
            bail!("not a 64 bit little-endian ELF file");
        }
        Ok(Self { bytes })
    }

    /// What makes the binary need other files at run time; `None`: nothing.
    pub(crate) fn needs(&self) -> Result<Option<&'static str>> {
        let (start, size, count) = (self.u64(32)?, self.u16(54)?, self.u16(56)?);
        for index in 0..u64::from(count) {
            let header = start + index * u64::from(size);
            match self.u32(header)? {
                PT_INTERP => return Ok(Some("a dynamic loader (PT_INTERP)")),
                PT_DYNAMIC => {
                    let (from, length) = (self.u64(header + 8)?, self.u64(header + 32)?);
                    for entry in (from..from.saturating_add(length)).step_by(16) {
                        if self.u64(entry)? == DT_NEEDED {
                            return Ok(Some("a shared library (DT_NEEDED)"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The programs of an eBPF object, by section and name.
    pub(crate) fn programs(&self) -> Result<Vec<Program>> {
        let sections = self.sections()?;
        let names = sections
            .get(usize::from(self.u16(62)?))
            .context("no section names")?;
        let mut programs = Vec::new();
        for table in sections.iter().filter(|s| s.kind == SHT_SYMTAB) {
            let strings = sections
                .get(table.link as usize)
                .context("symbols without names")?;
            for at in (table.offset..table.offset.saturating_add(table.size)).step_by(24) {
                let info = *self.slice(at + 4, 1)?.first().context("symbol")?;
                let section = sections.get(usize::from(self.u16(at + 6)?));
                let Some(section) = section.filter(|s| s.flags & SHF_EXECINSTR != 0) else {
                    continue;
                };
                let place = self.text(names.offset + u64::from(section.name))?;
                // Sub-programs and the memory built-ins live in .text.
                if info != STB_GLOBAL << 4 | STT_FUNC || place == ".text" {
                    continue;
                }
                programs.push(Program {
                    section: place,
                    name: self.text(strings.offset + u64::from(self.u32(at)?))?,
                    instructions: self.u64(at + 16)? / 8,
                });
            }
        }
        programs.sort_by(|a, b| (&a.section, &a.name).cmp(&(&b.section, &b.name)));
        Ok(programs)
    }

    /// Where the bytes of a section lie in the file.
    pub(crate) fn section(&self, name: &str) -> Result<Option<Range<usize>>> {
        let sections = self.sections()?;
        let names = sections
            .get(usize::from(self.u16(62)?))
            .context("no section names")?;
        for section in &sections {
            if self.text(names.offset + u64::from(section.name))? == name {
                let bytes = self.slice(section.offset, section.size as usize)?;
                let start = section.offset as usize;
                return Ok(Some(start..start + bytes.len()));
            }
        }
        Ok(None)
    }

    fn sections(&self) -> Result<Vec<Section>> {
        let (start, size, count) = (self.u64(40)?, self.u16(58)?, self.u16(60)?);
        (0..u64::from(count))
            .map(|index| {
                let at = start + index * u64::from(size);
                Ok(Section {
                    name: self.u32(at)?,
                    kind: self.u32(at + 4)?,
                    flags: self.u64(at + 8)?,
                    offset: self.u64(at + 24)?,
                    size: self.u64(at + 32)?,
                    link: self.u32(at + 40)?,
                })
            })
            .collect()
    }

    fn slice(&self, at: u64, length: usize) -> Result<&'a [u8]> {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.bytes.get(at..at.checked_add(length)?))
            .with_context(|| format!("the ELF file is cut off at offset {at}"))
    }

    fn array<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(at, N)?);
        Ok(array)
    }

    fn u16(&self, at: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    fn u32(&self, at: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    fn u64(&self, at: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    fn text(&self, at: u64) -> Result<String> {
        let tail = usize::try_from(at)
            .ok()
            .and_then(|at| self.bytes.get(at..))
            .unwrap_or_default();
        let end = tail
            .iter()
            .position(|byte| *byte == 0)
            .context("a name in the ELF file has no end")?;
        Ok(String::from_utf8_lossy(&tail[..end]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamically_linked() {
        let me = std::fs::read(std::env::current_exe().expect("has a path")).expect("readable");
        let needs = Elf::parse(&me).expect("ELF").needs().expect("well-formed");
        assert_eq!(needs, Some("a dynamic loader (PT_INTERP)"));
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let me = std::fs::read(std::env::current_exe().expect("has a path")).expect("readable");
        let elf = Elf::parse(&me[..100]).expect("the first bytes are right");
        assert!(elf.needs().is_err());
        assert!(Elf::parse(b"#!/bin/sh").is_err());
    }
}
