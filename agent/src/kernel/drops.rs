//! Dropped packets: loads the object that counts them, and reads what it counted.

mod layout;
mod wire;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use agent_common::drops::{lack, slot};
use agent_core::drops::{Filter, Protocol, Reading, Reasons};
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};

use super::attach::{Attempt, fill, last_words};
use super::btf::{self, Btf};
use super::caps::{Capability, have};
use super::role::Candidate;
use crate::telemetry::with_causes;
pub use wire::Sample;
use wire::{WireCount, WireKey};

/// The object built from `agent-ebpf/src/trace` (`cargo xtask build-ebpf`).
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LASTGASP_EBPF_TRACE_PATH"));

/// Why drops cannot be seen here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary holds no object.
    #[error("this binary was built without its eBPF object; build it with `cargo xtask build`")]
    NoObject,
    /// The kernel does not say where its fields lie.
    #[error("where the fields of a packet lie is not known")]
    NoTypes(#[source] btf::Error),
    /// It says, but not what is needed.
    #[error("this kernel's packets are not as known: {0}")]
    Layout(String),
    /// The object was refused.
    #[error("the kernel refused the eBPF object: {0}{hint}", hint = capabilities())]
    Load(String),
    /// No form of the program attaches.
    #[error("no form of the program attaches: {}{}", shown(.0), capabilities())]
    Refused(Vec<Attempt>),
    /// Object and binary differ.
    #[error("the eBPF object has no map {0}: binary and object do not belong together")]
    NoMap(&'static str),
    /// What was counted cannot be read.
    #[error("cannot read the eBPF map {0}")]
    Read(&'static str, #[source] aya::maps::MapError),
    /// The same of the program.
    #[error("cannot ask the kernel for what its program missed")]
    Info(#[source] io::Error),
}

/// What to do if that is the reason.
fn capabilities() -> &'static str {
    let both = have(Capability::Bpf) && have(Capability::Perfmon);
    if both || have(Capability::SysAdmin) {
        ""
    } else {
        "; it takes CAP_BPF and CAP_PERFMON: run it as root"
    }
}

fn shown(attempts: &[Attempt]) -> String {
    let each = |a: &Attempt| {
        let why = a.refused.as_deref().unwrap_or_default();
        let help = if a.how == "tracepoint" && why.contains("tracefs") {
            "; mount -t tracefs tracefs /sys/kernel/tracing"
        } else {
            ""
        };
        format!("{} {}: {why}{help}", a.how, a.target)
    };
    attempts.iter().map(each).collect::<Vec<_>>().join("; ")
}

/// What is asked of the running kernel before anything is loaded: its reasons.
pub struct Kernel {
    btf: Btf,
    /// What it calls its reasons.
    pub reasons: Reasons,
}

impl Kernel {
    /// Asks.
    pub fn running() -> Result<Self, Error> {
        let btf = Btf::of_running_kernel().map_err(Error::NoTypes)?;
        let reasons = layout::reasons(&btf);
        Ok(Self { btf, reasons })
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which packets.
    pub filter: Filter,
    /// Most keys that are kept apart.
    pub keys: u32,
    /// Whether samples have stacks.
    pub stacks: bool,
}

/// The program, attached. Dropping it detaches it.
pub struct Drops {
    ebpf: Ebpf,
    /// How it fared; the last one is attached.
    pub attempts: Vec<Attempt>,
    program: &'static str,
    /// Outlives the attachment, to be asked afterwards.
    fd: OwnedFd,
    counts: PerCpuHashMap<MapData, WireKey, WireCount>,
    no_room: PerCpuArray<MapData, u64>,
    lacking: PerCpuArray<MapData, u64>,
    samples: RingBuf<MapData>,
}

/// What the program cost, as far as the kernel keeps account (`kernel.bpf_stats_enabled`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    /// Calls.
    pub calls: u64,
    /// Nanoseconds in them.
    pub ns: u64,
}

/// Loads the object, and attaches the first of these ways that the kernel takes.
pub fn attach(
    kernel: Kernel,
    ways: &[&'static Candidate],
    wanted: &Wanted,
) -> Result<Drops, Error> {
    if OBJECT.is_empty() {
        return Err(Error::NoObject);
    }
    let mut globals = layout::globals(&kernel.btf).map_err(Error::Layout)?;
    let classic = layout::record(&kernel.btf);
    globals.extend(classic.iter().flatten());
    globals.extend(filter(&wanted.filter));
    globals.push(("STACKS", wanted.stacks.into()));
    // Gone before the loader reads its own copy.
    drop(kernel);
    let reasons = bits(&wanted.filter.reasons);
    let mut loader = EbpfLoader::new();
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    loader.override_global("REASONS", &reasons[..], true);
    loader.map_max_entries("COUNTS", wanted.keys);
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| Error::Load(last_words(&with_causes(&error))))?;
    let btf = aya::Btf::from_sys_fs().ok();
    let fits = |way: &'static Candidate| {
        let is_classic = matches!(way.how, super::role::How::Tracepoint(_));
        let unknown = is_classic && classic.is_none();
        let why = || "the kernel does not tell the layout of its record".to_owned();
        (way, if unknown { Err(why()) } else { Ok(()) })
    };
    let ways = ways.iter().copied().map(fits).collect();
    let (attempts, program) = fill(&mut ebpf, ways, btf.as_ref());
    let Some(name) = program else {
        return Err(Error::Refused(attempts));
    };
    let program = ebpf.program(name).ok_or(Error::NoMap(name))?;
    let fd = match program {
        Program::BtfTracePoint(p) => p.fd(),
        Program::RawTracePoint(p) => p.fd(),
        Program::TracePoint(p) => p.fd(),
        _ => return Err(Error::NoMap(name)),
    };
    let fd = fd
        .map_err(io::Error::other)
        .and_then(|fd| fd.as_fd().try_clone_to_owned())
        .map_err(Error::Info)?;
    let mut take = |name| ebpf.take_map(name).ok_or(Error::NoMap(name));
    let read = |name| move |error| Error::Read(name, error);
    Ok(Drops {
        counts: PerCpuHashMap::try_from(take("COUNTS")?).map_err(read("COUNTS"))?,
        no_room: PerCpuArray::try_from(take("NO_ROOM")?).map_err(read("NO_ROOM"))?,
        lacking: PerCpuArray::try_from(take("LACKING")?).map_err(read("LACKING"))?,
        samples: RingBuf::try_from(take("SAMPLES")?).map_err(read("SAMPLES"))?,
        program: name,
        attempts,
        fd,
        ebpf,
    })
}

impl Drops {
    /// How it is attached.
    pub fn how(&self) -> &'static str {
        self.attempts.last().map_or("", |attempt| attempt.how)
    }

    /// All that was counted so far.
    pub fn read(&self) -> Result<Reading, Error> {
        let mut reading = Reading::default();
        for entry in &self.counts {
            let (key, counts) = entry.map_err(|e| Error::Read("COUNTS", e))?;
            let packets = counts.iter().map(|WireCount(count)| count.packets).sum();
            // Reserved, and not counted yet.
            if packets > 0 {
                reading.counts.insert(key.into(), packets);
            }
        }
        let lacking = |number| -> Result<u64, Error> {
            let counts = self.lacking.get(&number, 0);
            Ok(counts.map_err(|e| Error::Read("LACKING", e))?.iter().sum())
        };
        // A call for each slot: not where all of them are zero.
        if lacking(lack::KINDS)? > 0 {
            for (slot, counts) in self.no_room.iter().enumerate() {
                let counts = counts.map_err(|e| Error::Read("NO_ROOM", e))?;
                let packets: u64 = counts.iter().sum();
                if packets > 0 {
                    let reason = agent_common::drops::reason(slot as u32).unwrap_or(u32::MAX);
                    reading.no_room.insert(reason, packets);
                }
            }
        }
        reading.samples_lost = lacking(lack::SAMPLES)?;
        reading.missed = wire::info(&self.fd).map_err(Error::Info)?.missed;
        Ok(reading)
    }

    /// What it cost so far.
    pub fn cost(&self) -> Result<Cost, Error> {
        Ok(wire::info(&self.fd).map_err(Error::Info)?.cost)
    }

    /// Hands over the samples that have come.
    pub fn samples(&mut self, mut take: impl FnMut(Sample)) {
        while let Some(bytes) = self.samples.next() {
            if let Some(sample) = Sample::parse(&bytes) {
                take(sample);
            }
        }
    }

    /// Detaches the program; what it counted can still be read.
    pub fn detach(&mut self) {
        // Its link goes with it. What cannot be unloaded is not loaded.
        let _ = match self.ebpf.program_mut(self.program) {
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::RawTracePoint(program)) => program.unload(),
            Some(Program::TracePoint(program)) => program.unload(),
            _ => return,
        };
        // A CPU may still be in it, for less than a microsecond.
        super::sched::sleep(std::time::Duration::from_millis(5));
    }
}

fn filter(filter: &Filter) -> Vec<(&'static str, u64)> {
    let mut globals = vec![
        ("BY_REASON", u64::from(!filter.reasons.is_empty())),
        ("NETNS", filter.netns.unwrap_or(0).into()),
        ("PORT", filter.port.unwrap_or(0).into()),
    ];
    match filter.protocol {
        Some(Protocol::Ethernet(number)) => globals.push(("PROTOCOL", number.into())),
        Some(Protocol::Transport(number, over_6)) => {
            globals.push(("TRANSPORT", number.into()));
            globals.push(("TRANSPORT_TOO", over_6.into()));
        }
        None => {}
    }
    if let Some(device) = &filter.device {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(device.bytes().take(15)) {
            *to = from;
        }
        let half = |at: usize| {
            let bytes = name.get(at..at + 8).and_then(|half| half.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        globals.extend([("DEVICE", half(0)), ("DEVICE_REST", half(8))]);
    }
    globals
}

/// A bit for the slot of each reason.
fn bits(reasons: &[u32]) -> [u64; 64] {
    let mut bits = [0; 64];
    for reason in reasons {
        let slot = slot(*reason) as usize;
        bits[slot / 64] |= 1 << (slot % 64);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_globals_and_no_filter_lets_all_through() {
        assert!(
            filter(&Filter::default())
                .iter()
                .all(|(_, value)| *value == 0)
        );
        let wanted = Filter {
            reasons: vec![3],
            netns: Some(4_026_531_840),
            protocol: Some("icmp".parse().expect("known")),
            port: Some(53),
            device: Some("cali0123456789a".to_owned()),
        };
        let globals: std::collections::BTreeMap<_, _> = filter(&wanted).into_iter().collect();
        let half = |text: &[u8; 8]| u64::from_ne_bytes(*text);
        for (name, value) in [
            ("BY_REASON", 1),
            ("NETNS", 4_026_531_840),
            ("TRANSPORT", 1),
            ("TRANSPORT_TOO", 58),
            ("PORT", 53),
            ("DEVICE", half(b"cali0123")),
            ("DEVICE_REST", half(b"456789a\0")),
        ] {
            assert_eq!(globals.get(name), Some(&value), "{name}");
        }
    }

    #[test]
    fn each_reason_has_its_bit() {
        let bits = bits(&[0, 63, 64, 0x2_0001, u32::MAX]);
        let set: u32 = bits.iter().map(|word| word.count_ones()).sum();
        assert_eq!((bits[0], bits[1], bits[63]), (1 | 1 << 63, 1, 1 << 63));
        assert_eq!((bits[16], set), (2, 5));
    }

    #[test]
    fn a_sample_that_is_cut_short_is_none() {
        let size = size_of::<agent_common::drops::Sample>();
        assert!(Sample::parse(&vec![0xff; size - 1]).is_none());
        // Lengths in it are the kernel side's, and not trusted.
        let sample = Sample::parse(&vec![0xff; size]).expect("any bytes are one");
        assert_eq!(sample.header.len(), agent_common::drops::HEADER_MAX);
        assert_eq!(sample.stack.len(), agent_common::drops::STACK_MAX);
    }
}
