//! The running kernel's own type information (BTF): what functions take, where
//! fields lie.
//!
//! Format: Documentation/bpf/btf.rst. aya parses BTF to load programs, but does
//! not let one ask it for members; this reader keeps the bytes and walks them.

use std::ops::Range;
use std::path::Path;

/// Where the kernel shows its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
/// More of them around one type would be a circle.
const MODIFIERS_MAX: usize = 8;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Why there is no type information.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {VMLINUX}; the kernel needs CONFIG_DEBUG_INFO_BTF=y")]
    Read(#[source] std::io::Error),
    /// The bytes are not BTF as this reader knows it.
    #[error("{VMLINUX} is damaged or of an unknown format ({0})")]
    Format(&'static str),
}

/// Parsed just enough to look things up by name.
pub struct Btf {
    /// All of it; the sections are ranges of this, as the kernel's is megabytes.
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    /// Start of each type in `types`; type ids start at 1.
    starts: Vec<u32>,
    /// Where the strings begin to be its own: a module's continue the kernel's.
    own_strings: usize,
}

/// What a tracepoint hands to a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Argument {
    /// The address of a structure of this name, or of anything.
    Pointer(Option<String>),
    /// A number out of an enumeration of this name.
    Enum(String),
    /// Something else.
    Other,
}

struct Type<'a> {
    name: u32,
    kind: u32,
    count: usize,
    /// Bit fields: offsets of members carry their size too.
    kind_flag: bool,
    /// Size, or the type that is referred to.
    other: u32,
    rest: &'a [u8],
}

impl Btf {
    /// Reads the running kernel's.
    pub fn of_running_kernel() -> Result<Self, Error> {
        Self::parse(std::fs::read(Path::new(VMLINUX)).map_err(Error::Read)?)
    }

    /// Reads that of a module, as far as it can be understood without the kernel's: its
    /// enumerations.
    pub fn of_module(name: &str, kernel: &Self) -> Result<Self, Error> {
        let file = Path::new(VMLINUX).with_file_name(name);
        let mut module = Self::parse(std::fs::read(file).map_err(Error::Read)?)?;
        module.own_strings = kernel.strings.len();
        Ok(module)
    }

    /// Reads these bytes; anything that does not add up is an error.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        let u16_at = |at| read_u16(&bytes, at).ok_or(Error::Format("header cut short"));
        let u32_at = |at| {
            read_u32(&bytes, at)
                .map(|n| n as usize)
                .ok_or(Error::Format("header cut short"))
        };
        if u16_at(0)? != MAGIC {
            return Err(Error::Format("magic"));
        }
        let header = u32_at(4)?;
        let section = |offset: usize, len: usize, what| {
            let start = header.checked_add(offset).ok_or(Error::Format(what))?;
            let end = start.checked_add(len).ok_or(Error::Format(what))?;
            if end > bytes.len() {
                return Err(Error::Format(what));
            }
            Ok(start..end)
        };
        let types = section(u32_at(8)?, u32_at(12)?, "type section")?;
        let strings = section(u32_at(16)?, u32_at(20)?, "string section")?;
        let starts = index(&bytes[types.clone()])?;
        Ok(Self {
            bytes,
            types,
            strings,
            starts,
            own_strings: 0,
        })
    }

    fn get(&self, id: u32) -> Option<Type<'_>> {
        let start = *self.starts.get(usize::try_from(id).ok()?.checked_sub(1)?)? as usize;
        let bytes = self.bytes[self.types.clone()].get(start..)?;
        let info = read_u32(bytes, 4)?;
        Some(Type {
            name: read_u32(bytes, 0)?,
            kind: (info >> 24) & 0x1f,
            count: (info & 0xffff) as usize,
            kind_flag: info >> 31 == 1,
            other: read_u32(bytes, 8)?,
            rest: bytes.get(12..)?,
        })
    }

    fn name(&self, offset: u32) -> &[u8] {
        let strings = &self.bytes[self.strings.clone()];
        let own = (offset as usize).checked_sub(self.own_strings);
        let bytes = own.and_then(|at| strings.get(at..)).unwrap_or_default();
        bytes.split(|b| *b == 0).next().unwrap_or_default()
    }

    fn find(&self, kind: u32, name: &str) -> Option<Type<'_>> {
        (1..=self.starts.len() as u32)
            .filter_map(|id| self.get(id))
            .find(|t| t.kind == kind && self.name(t.name) == name.as_bytes())
    }

    /// Number of parameters of a function, if the kernel has it.
    pub fn parameters(&self, function: &str) -> Option<usize> {
        let function = self.find(KIND_FUNC, function)?;
        let proto = self.get(function.other)?;
        (proto.kind == KIND_FUNC_PROTO).then_some(proto.count)
    }

    /// What the tracepoint hands to a raw program, in order. Of a function's type the kernel
    /// keeps no names of parameters, only their types.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Argument>> {
        let pointer = self.find(KIND_TYPEDEF, &format!("btf_trace_{name}"))?;
        let proto = self.get(self.get(pointer.other)?.other)?;
        if proto.kind != KIND_FUNC_PROTO {
            return None;
        }
        // The first one is the tracepoint's own.
        (1..proto.count)
            .map(|n| Some(self.argument(read_u32(proto.rest, n * 8 + 4)?)))
            .collect()
    }

    fn argument(&self, id: u32) -> Argument {
        let name = |t: &Type<'_>| String::from_utf8_lossy(self.name(t.name)).into_owned();
        match self.get(id) {
            Some(t) if t.kind == KIND_ENUM => Argument::Enum(name(&t)),
            Some(t) if t.kind == KIND_PTR => {
                let mut to = self.get(t.other);
                for _ in 0..MODIFIERS_MAX {
                    let Some(next) = to.as_ref().filter(|t| t.kind == KIND_CONST) else {
                        break;
                    };
                    to = self.get(next.other);
                }
                Argument::Pointer(to.as_ref().map(name))
            }
            _ => Argument::Other,
        }
    }

    /// The names and numbers of an enumeration.
    pub fn enumeration(&self, name: &str) -> Vec<(String, u32)> {
        self.find(KIND_ENUM, name)
            .map_or_else(Vec::new, |t| self.enumerators(&t))
    }

    /// The same of all enumerations that have a name with this beginning.
    pub fn enumerations_with(&self, prefix: &str) -> Vec<(String, u32)> {
        let all = (1..=self.starts.len() as u32).filter_map(|id| self.get(id));
        all.filter(|t| t.kind == KIND_ENUM)
            .map(|t| self.enumerators(&t))
            .filter(|names| names.iter().any(|(name, _)| name.starts_with(prefix)))
            .flatten()
            .collect()
    }

    fn enumerators(&self, t: &Type<'_>) -> Vec<(String, u32)> {
        let each = |n: usize| {
            let name = self.name(read_u32(t.rest, n * 8)?);
            let number = read_u32(t.rest, n * 8 + 4)?;
            Some((String::from_utf8_lossy(name).into_owned(), number))
        };
        (0..t.count).map_while(each).collect()
    }

    /// Whether there is a structure of this name.
    pub fn has_struct(&self, name: &str) -> bool {
        self.find(KIND_STRUCT, name).is_some()
    }

    /// Whether there is a variable of this name among those that every CPU has.
    pub fn has_variable(&self, name: &str) -> bool {
        self.find(KIND_VAR, name).is_some()
    }

    /// Byte offset of a member, also of one inside unnamed members; of a bit field that
    /// of the byte it begins in.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.bit_offset(structure, member).map(|bits| bits / 8)
    }

    /// The same in bits.
    pub fn bit_offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.bit_offset_in(&self.find(KIND_STRUCT, structure)?, member, 0)
    }

    fn bit_offset_in(&self, structure: &Type<'_>, member: &str, depth: u32) -> Option<u64> {
        if depth > 8 {
            return None;
        }
        for i in 0..structure.count {
            let name = read_u32(structure.rest, i * 12)?;
            let of = read_u32(structure.rest, i * 12 + 4)?;
            let mut bits = read_u32(structure.rest, i * 12 + 8)?;
            if structure.kind_flag {
                bits &= 0x00ff_ffff;
            }
            let bits = u64::from(bits);
            let name = self.name(name);
            if name == member.as_bytes() {
                return Some(bits);
            }
            if name.is_empty()
                && let Some(inner) = self.get(of)
                && matches!(inner.kind, KIND_STRUCT | KIND_UNION)
                && let Some(offset) = self.bit_offset_in(&inner, member, depth + 1)
            {
                return Some(bits + offset);
            }
        }
        None
    }
}

/// Where each type starts.
fn index(types: &[u8]) -> Result<Vec<u32>, Error> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at < types.len() {
        let info = read_u32(types, at + 4).ok_or(Error::Format("type cut short"))?;
        let count = (info & 0xffff) as usize;
        let rest = match (info >> 24) & 0x1f {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
            KIND_ENUM | KIND_FUNC_PROTO => count * 8,
            1..=KIND_ENUM64 => 0,
            _ => return Err(Error::Format("kind of type")),
        };
        starts.push(at as u32);
        at += 12 + rest;
    }
    Ok(starts)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_can_be_asked() {
        let Ok(btf) = Btf::of_running_kernel() else {
            println!("skipped: this kernel has no BTF");
            return;
        };
        // Two that every kernel has had for twenty years.
        assert!(btf.has_struct("task_struct"));
        assert!(btf.offset("task_struct", "comm").is_some_and(|o| o > 0));
        assert!(btf.has_variable("runqueues") && !btf.has_variable("no_such_variable"));
        assert_eq!(btf.offset("list_head", "next"), Some(0));
        assert_eq!(btf.offset("list_head", "prev"), Some(8));
        assert_eq!(btf.offset("list_head", "no_such_member"), None);
        assert_eq!(btf.parameters("no_such_function"), None);
        assert!(
            btf.enumeration("skb_drop_reason_subsys")
                .iter()
                .all(|(name, _)| name.starts_with("SKB_DROP_REASON_SUBSYS_"))
        );
        let arguments = btf.tracepoint("kfree_skb").expect("since 2.6.30");
        assert_eq!(arguments[0], Argument::Pointer(Some("sk_buff".to_owned())));
        assert_eq!(arguments[1], Argument::Pointer(None));
        assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
        let bit = btf.bit_offset("sk_buff", "head_frag").expect("a bit field");
        assert_eq!(btf.offset("sk_buff", "head_frag"), Some(bit / 8));
    }

    #[test]
    fn a_type_that_refers_to_itself_has_an_end() {
        let kind = |kind: u32, count: u32| kind << 24 | count;
        // const 1; pointer to it; a function of nothing and that; a pointer to the function;
        // what a tracepoint's type is called.
        let types: [&[u32]; 5] = [
            &[0, kind(KIND_CONST, 0), 1],
            &[0, kind(KIND_PTR, 0), 1],
            &[0, kind(KIND_FUNC_PROTO, 2), 0, 0, 0, 0, 2],
            &[0, kind(KIND_PTR, 0), 3],
            &[1, kind(KIND_TYPEDEF, 0), 4],
        ];
        let types: Vec<u8> = types
            .concat()
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        let strings = b"\0btf_trace_x\0";
        let header = [24, 0, types.len(), types.len(), strings.len()];
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(header.into_iter().flat_map(|n| (n as u32).to_le_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        let btf = Btf::parse(bytes).expect("it adds up");
        let arguments = btf.tracepoint("x").expect("it is there");
        assert_eq!(arguments, [Argument::Pointer(Some(String::new()))]);
    }

    proptest::proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_an_answer_never_a_panic(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 24..400),
            magic in proptest::bool::ANY,
        ) {
            if magic {
                bytes[..8].copy_from_slice(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
                bytes[8..24].copy_from_slice(&[0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0]);
            }
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = (btf.offset("a", "b"), btf.parameters("c"), btf.has_struct("d"));
                let _ = (btf.tracepoint("e"), btf.enumeration("f"), btf.enumerations_with(""));
            }
        }
    }
}
