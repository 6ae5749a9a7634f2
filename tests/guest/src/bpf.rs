//! BPF programs by hand (bpf(2)).

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use anyhow::{Context as _, Result, ensure};

use crate::machine;

/// One instruction (Documentation/bpf/standardization/instruction-set.rst): code,
/// registers (source above destination), offset, number.
pub(crate) const fn instruction(code: u8, registers: u8, offset: i16, number: i32) -> u64 {
    let number = number as u32;
    code as u64 | (registers as u64) << 8 | (offset as u16 as u64) << 16 | (number as u64) << 32
}

/// Load four bytes; set to a number; copy; jump if equal to a number; call; end.
pub(crate) const LOAD: u8 = 0x61;
pub(crate) const SET: u8 = 0xb7;
pub(crate) const COPY: u8 = 0xbf;
pub(crate) const JUMP_IF_EQUAL: u8 = 0x15;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const END: u8 = 0x95;

/// Commands of bpf(2).
const PROG_LOAD: libc::c_long = 5;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;

/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_RAW_TRACEPOINT`, `BPF_PROG_TYPE_TRACING`.
const CLASSIFIER: u32 = 3;
const RAW: u32 = 17;
const TRACING: u32 = 26;
/// `BPF_TRACE_RAW_TP`, `BPF_TRACE_FENTRY`.
const TYPED: u32 = 23;
const ENTRY: u32 = 24;

/// Kinds of BTF (Documentation/bpf/btf.rst).
const TYPEDEF: u32 = 8;
const FUNCTION: u32 = 12;

/// Where a program runs.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    /// On the packets of a device.
    Classifier,
    /// At the entry of a function of the kernel.
    Entry(&'a str),
    /// At a tracepoint, with arguments that have types.
    Typed(&'a str),
    /// At a tracepoint.
    Raw(&'a str),
}

/// What is loaded.
pub(crate) struct Program<'a> {
    pub(crate) at: At<'a>,
    /// At most 15 bytes.
    pub(crate) name: &'a str,
    pub(crate) instructions: &'a [u64],
}

/// The beginning of `union bpf_attr` for it.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
    /// What debuggers want to know.
    debug: [u32; 9],
    function: u32,
    object: u64,
}

/// Loads a program.
pub(crate) fn load(program: &Program<'_>) -> Result<File> {
    let license = c"GPL";
    let (kind, attach, function) = match program.at {
        At::Classifier => (CLASSIFIER, 0, 0),
        At::Raw(_) => (RAW, 0, 0),
        At::Entry(function) => (TRACING, ENTRY, btf_number(FUNCTION, function)?),
        At::Typed(point) => {
            let function = btf_number(TYPEDEF, &format!("btf_trace_{point}"))?;
            (TRACING, TYPED, function)
        }
    };
    let mut name = [0; 16];
    for (to, from) in name[..15].iter_mut().zip(program.name.bytes()) {
        *to = from;
    }
    let mut load = Load {
        kind,
        count: program.instructions.len() as u32,
        instructions: program.instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        version: 0,
        flags: 0,
        name,
        interface: 0,
        attach,
        debug: [0; 9],
        function,
        object: 0,
    };
    // SAFETY: what `load` points at outlives the call.
    let fd = unsafe { call(PROG_LOAD, &mut load) }?;
    // SAFETY: the call gave a new descriptor.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Has a program that does nothing run there, until what this gives is dropped. Packets of a
/// device are no place for it.
pub(crate) fn empty(at: At<'_>) -> Result<[File; 2]> {
    let program = load(&Program {
        at,
        name: "empty",
        instructions: &[instruction(SET, 0, 0, 0), instruction(END, 0, 0, 0)],
    })?;
    let point = match at {
        At::Raw(point) => CString::new(point)?,
        At::Classifier | At::Entry(_) | At::Typed(_) => CString::default(),
    };
    // Who has an entry or a type has no name.
    let name = if point.is_empty() {
        0
    } else {
        point.as_ptr() as u64
    };
    let mut open = [name, program.as_raw_fd() as u64];
    // SAFETY: `struct { __u64 name; __u32 prog_fd; }`; the name outlives the call.
    let link = unsafe { call(RAW_TRACEPOINT_OPEN, &mut open) }?;
    // SAFETY: the call gave a new descriptor.
    Ok([program, unsafe { File::from_raw_fd(link) }])
}

/// Name, nanoseconds and runs of every program that is loaded, as far as they were counted
/// (`kernel.bpf_stats_enabled`).
pub(crate) fn runs() -> Result<Vec<(String, u64, u64)>> {
    /// `struct bpf_prog_info` up to `run_cnt`, in words of eight bytes, and the places of
    /// `name`, `run_time_ns` and `run_cnt`.
    const WORDS: usize = 26;
    const NAME: usize = 8;
    const TIME: usize = 24;
    const COUNT: usize = 25;
    let mut all = Vec::new();
    let mut id = [0_u32; 3];
    // SAFETY: `start_id` and `next_id`; it fails behind the last program.
    while unsafe { call(PROG_GET_NEXT_ID, &mut id) }.is_ok() {
        id[0] = id[1];
        // SAFETY: `prog_id`.
        let fd = unsafe { call(PROG_GET_FD_BY_ID, &mut [id[0], 0, 0]) }?;
        // SAFETY: the call gave a new descriptor.
        let program = unsafe { File::from_raw_fd(fd) };
        let mut info = [0_u64; WORDS];
        let len = size_of_val(&info) as u64;
        let mut ask = [
            program.as_raw_fd() as u64 | len << 32,
            info.as_mut_ptr() as u64,
        ];
        // SAFETY: the kernel writes as much as there is room for.
        unsafe { call(OBJ_GET_INFO_BY_FD, &mut ask) }?;
        let name: Vec<u8> = info[NAME..NAME + 2]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        let name = String::from_utf8_lossy(&name).into_owned();
        all.push((name, info[TIME], info[COUNT]));
    }
    Ok(all)
}

/// One call.
///
/// # Safety
///
/// `attribute` is what the command reads and writes.
unsafe fn call<T>(command: libc::c_long, attribute: &mut T) -> Result<libc::c_int> {
    // SAFETY: the caller's promise; the size is that of `attribute`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size_of::<T>()) };
    machine::check(result as libc::c_int)?;
    Ok(result as libc::c_int)
}

/// The number in BTF of what has this kind and this name.
fn btf_number(wanted: u32, name: &str) -> Result<u32> {
    let btf = fs::read("/sys/kernel/btf/vmlinux").context("the kernel shows no BTF")?;
    let number = |at: usize| -> Result<u32> {
        let bytes = btf.get(at..at + 4).context("BTF is cut off")?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    ensure!(number(0)? & 0xffff == 0xeb9f, "that is no BTF");
    let (header, types) = (number(4)?, number(8)?);
    let (len, strings) = (number(12)?, number(16)?);
    let mut at = (header + types) as usize;
    let end = at + len as usize;
    let mut id = 0;
    while at < end {
        id += 1;
        let (text, info) = (number(at)?, number(at + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, info as usize & 0xffff);
        let text = (header + strings + text) as usize;
        let is_it = || {
            btf.get(text..).is_some_and(|rest| {
                rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
            })
        };
        if kind == wanted && is_it() {
            return Ok(id);
        }
        at += 12
            + match kind {
                // Numbers, variables and tags of declarations; arrays; structures, unions, data
                // sections and large enumerations; enumerations and prototypes.
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * members,
                6 | 13 => 8 * members,
                _ => 0,
            };
    }
    anyhow::bail!("BTF has no {name}")
}
