//! What an incident amounts to, once all its lines are read.

use crate::blame;
use crate::distribution::distribution;
use crate::frames::Frame;
use crate::header;
use crate::kind::{Kind, Weight};
use crate::report::{self, Report, Source};
use crate::wording;

use super::{Boot, Incident};

/// Functions of the stack that are in the fingerprint.
const FINGERPRINT_FRAMES: usize = 3;

impl Incident {
    /// The report, with what the boots around it say of the kernel.
    pub(crate) fn report(mut self, boot: &Boot, next: Option<&Boot>) -> Report {
        let fault = self.fault.clone().or_else(|| {
            let has_said = matches!(
                self.kind,
                Kind::Warning
                    | Kind::ListCorruption
                    | Kind::Refcount
                    | Kind::Usercopy
                    | Kind::Fortify
                    | Kind::NetdevWatchdog
            );
            has_said.then(|| self.named.clone()).flatten()
        });
        // Up to 4.20 sysrq-c wrote through a null pointer.
        if fault.as_deref() == Some("sysrq_handle_crash") {
            self.kind = Kind::SysrqCrash;
        }
        // Where the line before is lost, the address tells.
        if self.kind == Kind::PageFault && self.line.starts_with("Oops") && self.is_null() {
            self.kind = Kind::NullPointerDereference;
        }
        let named: Vec<&str> = if self.is_nowhere {
            Vec::new()
        } else {
            fault
                .iter()
                .chain(self.inlining.into.iter().map(|(function, _)| function))
                .chain(&self.named)
                .map(String::as_str)
                .collect()
        };
        let blamed = self
            .has_culprit()
            .then(|| blame::blamed(&named, self.culprits()))
            .flatten();
        let blamed = blamed.map(str::to_owned);
        let module = self.module_of(blamed.as_deref());
        let fingerprint = self.fingerprint(blamed.as_deref());
        let corrupted = self.corrupted(fault.is_some());
        let title = self.title(fault.as_deref(), blamed.as_deref(), module.as_deref());
        let (release, version, from) = match (self.release, &boot.release) {
            (Some(release), _) => (Some(release), self.version, Some(Source::Report)),
            (None, Some(release)) => (
                Some(release.clone()),
                boot.version.clone(),
                Some(Source::Boot),
            ),
            (None, None) => {
                let next = next.filter(|next| next.release.is_some());
                let from = next.map(|_| Source::NextBoot);
                let next = next.cloned().unwrap_or_default();
                (next.release, next.version, from)
            }
        };
        let hardware = self.hardware.or_else(|| boot.hardware.clone());
        let distribution = release
            .as_deref()
            .and_then(|r| distribution(r, version.as_deref()));
        let (source_file, source_line) = self.place.unzip();
        Report {
            kind: self.kind,
            title,
            line: self.line,
            panic: self.panic,
            fault_function: fault,
            blamed_function: blamed,
            module,
            source_file,
            source_line,
            condition: self.condition,
            frames: self.frames,
            kernel_release: release,
            kernel_release_from: from,
            kernel_version: version,
            distribution,
            taint: self.taint.map(|letters| header::taints(&letters)),
            modules: self.modules,
            cpu: self.cpu,
            pid: self.pid,
            comm: self.comm,
            workqueue: self.workqueue,
            hardware,
            registers: self.registers,
            uptime_s: self.printed_ns.map(|ns| (ns / 1_000) as f64 / 1e6),
            corrupted,
            fingerprint,
            start: self.start,
            end: self.end,
        }
    }

    /// The module of a function that this report knows of.
    fn module_of(&self, function: Option<&str>) -> Option<String> {
        let function = function?;
        let is = |name: &Option<String>| name.as_deref() == Some(function);
        if is(&self.fault) {
            return self.fault_module.clone();
        }
        let mut into = self.inlining.into.iter();
        if let Some((_, module)) = into.find(|(name, _)| name == function) {
            return module.clone();
        }
        if is(&self.named) && self.named_module.is_some() {
            return self.named_module.clone();
        }
        let frame = self.frames.iter().find(|frame| frame.function == function);
        frame.and_then(|frame| frame.module.clone())
    }

    /// Whether the address of a page fault (x86) is that of a field behind a null pointer.
    fn is_null(&self) -> bool {
        const PAGE: u64 = 4096;
        let address = self.registers.get("CR2");
        let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        address.is_some_and(|address| address < PAGE)
    }

    /// The part of the stack that has who is to blame.
    fn culprits(&self) -> &[Frame] {
        match self.kind {
            Kind::SoftLockup | Kind::HardLockup | Kind::RcuStall => {
                blame::interrupted(&self.frames)
            }
            _ => &self.frames,
        }
    }

    fn fingerprint(&self, blamed: Option<&str>) -> String {
        let path = blame::path(self.culprits(), FINGERPRINT_FRAMES);
        let nothing = blamed.is_none() && path.is_empty();
        // What has no place is told by its words, of which numbers are chance.
        let words = if nothing {
            without_numbers(&self.line)
        } else {
            String::new()
        };
        let path = path
            .into_iter()
            .filter(|f| Some(*f) != blamed)
            .take(FINGERPRINT_FRAMES - 1);
        let parts = [self.kind.as_str(), blamed.unwrap_or(""), &words];
        report::fingerprint(parts.into_iter().chain(path))
    }

    fn title(&self, fault: Option<&str>, blamed: Option<&str>, module: Option<&str>) -> String {
        let phrase = self.kind.phrase();
        let after = |mark: &str| self.line.split_once(mark).map(|(_, rest)| rest);
        let until = |text: &str, mark: &str| text.split(mark).next().unwrap_or(text).to_owned();
        let mut title = match self.kind {
            Kind::Panic | Kind::Oops => match wording::panic(&self.line).unwrap_or(&self.line) {
                "" => phrase.to_owned(),
                said => format!("{phrase}: {said}"),
            },
            Kind::Bug => match after(" BUG at ") {
                Some(place) => format!("{phrase} at {}", place.trim_end_matches('!')),
                None => phrase.to_owned(),
            },
            // That one asked for memory; who was killed is not said.
            Kind::OomKill if self.is_undecided() => phrase.to_owned(),
            Kind::HungTask | Kind::SoftLockup | Kind::OomKill | Kind::CgroupOomKill => {
                match &self.comm {
                    Some(comm) => format!("{phrase} of {comm}"),
                    None => phrase.to_owned(),
                }
            }
            Kind::Kasan | Kind::Kfence | Kind::Kcsan | Kind::Kmsan | Kind::Ubsan => {
                match after(&format!("{phrase}: ")) {
                    Some(said) => format!("{phrase}: {}", until(said, " in ")),
                    None => phrase.to_owned(),
                }
            }
            // Where sysrq is handled says nothing.
            Kind::SysrqCrash => return phrase.to_owned(),
            Kind::ModuleLoad
            | Kind::BpfVerifier
            | Kind::ConntrackFull
            | Kind::UnregisterNetdevice
            | Kind::NetdevWatchdog
            | Kind::HardwareError
            | Kind::UnknownNmi
            | Kind::LockCorruption
            | Kind::SlabCorruption => return format!("{phrase}: {}", self.line),
            Kind::Lockdep => {
                let boxed = self.line.strip_prefix("[ ");
                let boxed = boxed.map(|said| said.trim_end_matches([']', ' ', '.']));
                let said = boxed.unwrap_or(&self.line);
                let said = ["WARNING: ", "INFO: ", "BUG: "]
                    .iter()
                    .find_map(|w| said.strip_prefix(w));
                format!("{phrase}: {}", said.unwrap_or(&self.line))
            }
            _ => phrase.to_owned(),
        };
        // Of a panic the text says more than who called it.
        let place = match self.kind {
            Kind::Panic => None,
            _ => blamed.or(fault),
        };
        if let Some(function) = place {
            title.push_str(" in ");
            title.push_str(function);
            if let Some(module) = module {
                title.push_str(" [");
                title.push_str(module);
                title.push(']');
            }
        }
        title
    }

    fn corrupted(&self, has_fault: bool) -> Option<String> {
        let is_panic = wording::panic(&self.line).is_some();
        let is_oops = self.weight() == Weight::Oops && !is_panic;
        if is_oops && !has_fault && self.frames.is_empty() && self.release.is_none() {
            return Some("the report breaks off after the line that says why".to_owned());
        }
        if is_oops && !has_fault && !self.is_nowhere && self.named.is_none() {
            return Some("it does not say where the CPU was".to_owned());
        }
        None
    }
}

/// The words of a line without its numbers: `0x1f`, `12`, `ffff888012345678`.
fn without_numbers(line: &str) -> String {
    let is_number = |word: &&str| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && digits.bytes().any(|b| b.is_ascii_digit())
    };
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words: Vec<&str> = words.filter(|w| !w.is_empty() && !is_number(w)).collect();
    words.join(" ")
}
