//! What must be seen of the kernel, and the ways to see it: data only.

/// How a program is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// At a function's entry, by trampoline.
    Fentry,
    /// At a function's return; the number of parameters that the program was written for.
    Fexit(usize),
    /// At a function's entry, by breakpoint or ftrace.
    Kprobe,
    /// The same at its return, and another program at its entry.
    Kretprobe {
        /// The program at the entry.
        entry: &'static str,
        /// The number of parameters that both were written for.
        parameters: usize,
    },
    /// At a tracepoint, with typed arguments.
    TpBtf,
    /// At a tracepoint, with its arguments as numbers.
    RawTp,
    /// At a tracepoint of this group, with the record that it makes for perf.
    Tracepoint(&'static str),
}

impl How {
    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Fexit(_) => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe { .. } => "kretprobe",
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint(_) => "tracepoint",
        }
    }
}

/// Something that a kernel has, or has not.
#[derive(Clone, Copy, Debug)]
pub enum Thing {
    /// A structure, in its type information.
    Struct(&'static str),
    /// Members, each with its structure before it.
    Members(&'static [(&'static str, &'static str)]),
    /// [`Symbols::printk_text`](super::symbols::Symbols::printk_text).
    PrintkText,
}

/// One way to fill a role.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The program in the object.
    pub program: &'static str,
    /// How it is attached.
    pub how: How,
    /// The function or tracepoint.
    pub target: &'static str,
    /// What the kernel must have for this way to be safe; else why it is not.
    pub only_with: Option<(Thing, &'static str)>,
    /// What makes the way one for this kernel. Others do not hear of it, nor of
    /// a role that has no other way.
    pub meant_for: Option<Thing>,
}

impl Candidate {
    /// A way without conditions.
    pub const fn new(program: &'static str, how: How, target: &'static str) -> Self {
        Self {
            program,
            how,
            target,
            only_with: None,
            meant_for: None,
        }
    }
}

/// A thing that must be seen, and the ways to see it.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Name, as `doctor` shows it.
    pub name: &'static str,
    /// What is lost without it.
    pub without: &'static str,
    /// Ways, best first.
    pub candidates: &'static [Candidate],
}
