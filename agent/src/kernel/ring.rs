//! The memory shared with the eBPF object: the crash ring and its control page.
//!
//! Reading it takes no system call, no lock and no allocation, so a drain
//! thread may do it while the machine dies.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use agent_common::asked::Asked;
use agent_common::segment::Packet;
use agent_common::{Control, DETAIL_ASKED, DETAIL_PACKET, RING_SLOTS, SENDERS, Slot, TEXT_MAX};

/// A mapping of a whole BPF array.
pub(super) struct Mapping {
    pub(super) start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub(super) fn new(map: &impl AsFd, len: usize, write: bool) -> io::Result<Self> {
        let page = 4096;
        let len = len.next_multiple_of(page);
        let access = if write {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                access,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// One entry, copied out of the ring.
pub struct Entry {
    slot: Slot,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            // SAFETY: a slot is plain numbers, for which zero is valid.
            slot: unsafe { std::mem::zeroed() },
        }
    }
}

impl Entry {
    /// The entry's fields; `text` and `comm` by the methods below.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The line's text.
    pub fn text(&self) -> &[u8] {
        &self.slot.text[..usize::from(self.slot.len).min(TEXT_MAX)]
    }

    /// `comm` of the task that a mark was made in.
    pub fn comm(&self) -> &[u8] {
        until_zero(&self.slot.comm)
    }

    /// Who asked for what a mark announces.
    pub fn asked(&self) -> Option<&Asked> {
        let text = NonNull::from(&self.slot.text);
        // SAFETY: there is room for one, aligned, which `agent_common::asked` asserts;
        // it is plain numbers, for which every bit pattern is valid.
        (self.slot.detail == DETAIL_ASKED).then(|| unsafe { text.cast::<Asked>().as_ref() })
    }

    /// The packet that the kernel is about to stop at.
    pub fn packet(&self) -> Option<&Packet> {
        let text = NonNull::from(&self.slot.text);
        // SAFETY: as above, by `agent_common::segment`.
        (self.slot.detail == DETAIL_PACKET).then(|| unsafe { text.cast::<Packet>().as_ref() })
    }
}

/// A text of the kernel's, up to its first zero byte.
pub fn until_zero(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| *b == 0);
    &text[..end.unwrap_or(text.len())]
}

/// What a look at one sequence number found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Read {
    /// The entry is there, and was copied.
    Entry,
    /// Somebody is writing it, or died while doing so.
    Unfinished,
    /// The ring has gone round since.
    Overwritten,
}

/// The crash ring.
pub struct CrashRing {
    control: Mapping,
    slots: Mapping,
}

// SAFETY: the mappings live as long as this value, and all access is by atomics
// or by copies that are checked for tearing.
unsafe impl Send for CrashRing {}
// SAFETY: as above.
unsafe impl Sync for CrashRing {}

macro_rules! field {
    ($ring:expr, $field:ident $([$index:expr])?) => {{
        let control: *mut Control = $ring.control.start.as_ptr().cast();
        // SAFETY: the mapping holds one Control, page-aligned; each field is
        // an aligned u64 that both sides access as a whole.
        unsafe { AtomicU64::from_ptr(&raw mut (*control).$field $([$index])?) }
    }};
}

/// Says for as long as it lives that a drain thread is sending.
pub struct Sending<'a> {
    ring: &'a CrashRing,
    bit: u64,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        field!(self.ring, sending).fetch_and(!self.bit, Ordering::Release);
    }
}

impl CrashRing {
    /// Maps the two arrays of the object.
    pub fn map(control: &impl AsFd, slots: &impl AsFd) -> io::Result<Self> {
        Ok(Self {
            control: Mapping::new(control, size_of::<Control>(), true)?,
            slots: Mapping::new(slots, RING_SLOTS as usize * size_of::<Slot>(), false)?,
        })
    }

    /// Sequence number of the next entry.
    pub fn head(&self) -> u64 {
        field!(self, head).load(Ordering::Acquire)
    }

    /// What changes when there is something to do: an entry, a hold, its end.
    pub fn news(&self) -> (u64, u64, u64) {
        (
            self.head(),
            field!(self, hold_since_ns).load(Ordering::Acquire),
            field!(self, closed).load(Ordering::Acquire),
        )
    }

    /// Sequence number of the mark that declared the present death, or `None`
    /// while nothing dies.
    pub fn declared(&self) -> Option<u64> {
        let declared = field!(self, declared).load(Ordering::Acquire);
        (declared > self.cleared()).then(|| declared - 1)
    }

    /// Sequence number of the mark after which the present death is certain.
    pub fn fatal(&self) -> Option<u64> {
        let fatal = field!(self, fatal).load(Ordering::Acquire);
        (fatal > self.cleared()).then(|| fatal - 1)
    }

    /// CPU of the last mark.
    pub fn dying_cpu(&self) -> u64 {
        field!(self, dying_cpu).load(Ordering::Relaxed)
    }

    /// Nanoseconds that the kernel was held for the present death, up to `now`
    /// (`CLOCK_MONOTONIC`), and whether it is being held.
    pub fn held(&self, now: u64) -> (u64, bool) {
        let used = field!(self, hold_used_ns).load(Ordering::Relaxed);
        match field!(self, hold_since_ns).load(Ordering::Acquire) {
            0 => (used, false),
            since => (used + now.saturating_sub(since), true),
        }
    }

    /// Where the kernel is held, or was last: one of `agent_common::hold`, or
    /// zero.
    pub fn hold_point(&self) -> u8 {
        field!(self, hold_point).load(Ordering::Relaxed) as u8
    }

    /// Holds that ended by their limit.
    pub fn holds_expired(&self) -> u64 {
        field!(self, holds_expired).load(Ordering::Relaxed)
    }

    /// Lines that the kernel side could not read.
    pub fn unreadable(&self) -> u64 {
        field!(self, unreadable).load(Ordering::Relaxed)
    }

    /// Everything below this sequence number has left the machine.
    pub fn acked(&self) -> u64 {
        field!(self, acked).load(Ordering::Acquire)
    }

    /// Says that everything below `seq` has left the machine; never goes back.
    pub fn ack(&self, seq: u64) {
        field!(self, acked).fetch_max(seq, Ordering::AcqRel);
    }

    fn cleared(&self) -> u64 {
        field!(self, cleared).load(Ordering::Acquire)
    }

    /// The death whose mark is `declared` was none: the kernel lives on. The
    /// next one has the whole hold again.
    pub fn clear(&self, declared: u64) {
        field!(self, hold_used_ns).store(0, Ordering::Relaxed);
        field!(self, cleared).fetch_max(declared + 1, Ordering::AcqRel);
    }

    /// Sets how long one death may be held at most; zero never holds.
    pub fn set_hold_max_ns(&self, ns: u64) {
        field!(self, hold_max_ns).store(ns, Ordering::Release);
    }

    /// Tells the kernel side whether a crash kernel is loaded.
    pub fn set_crash_kernel(&self, loaded: bool) {
        field!(self, crash_kernel).store(loaded.into(), Ordering::Release);
    }

    /// Sets the CPU that a drain thread has to itself, so that a hold on another
    /// one waits until it has come back from sending. Threads from
    /// `agent_common::SENDERS` on are not waited for.
    pub fn set_sender(&self, thread: usize, cpu: u32) {
        if thread < SENDERS {
            field!(self, sender_cpus[thread]).store(u64::from(cpu) + 1, Ordering::Release);
        }
    }

    /// A drain thread begins to send; `None`: it must not, as the CPUs are about to
    /// be stopped, and whoever is stopped in a driver keeps its locks.
    pub fn begin_sending(&self, thread: usize) -> Option<Sending<'_>> {
        let bit = if thread < SENDERS { 1 << thread } else { 0 };
        field!(self, sending).fetch_or(bit, Ordering::SeqCst);
        let sending = Sending { ring: self, bit };
        // The kernel side writes the one before it reads the other, as we do.
        fence(Ordering::SeqCst);
        (!self.is_closed()).then_some(sending)
    }

    /// Whether the CPUs are about to be stopped, and nothing more is to be sent.
    pub fn is_closed(&self) -> bool {
        field!(self, closed).load(Ordering::SeqCst) != 0
    }

    /// Copies the entry with this sequence number into `entry`.
    pub fn read(&self, seq: u64, entry: &mut Entry) -> Read {
        let index = (seq & u64::from(RING_SLOTS - 1)) as usize;
        // SAFETY: the index is below the number of slots mapped, and a mapping
        // begins at a page.
        let slot = unsafe { self.slots.start.cast::<Slot>().add(index) }.as_ptr();
        // SAFETY: an aligned u64 of the mapping. It is mapped read-only, and a
        // load does not write.
        let published = unsafe { AtomicU64::from_ptr(&raw mut (*slot).published) };
        let before = published.load(Ordering::Acquire);
        if before != seq + 1 {
            return if before > seq + 1 || self.head() > seq + u64::from(RING_SLOTS) {
                Read::Overwritten
            } else {
                Read::Unfinished
            };
        }
        // SAFETY: plain numbers, for which every bit pattern is valid; whether
        // they were torn by a writer is checked below.
        unsafe { std::ptr::copy_nonoverlapping(slot.cast_const(), &raw mut entry.slot, 1) };
        fence(Ordering::Acquire);
        if published.load(Ordering::Relaxed) == before {
            Read::Entry
        } else {
            Read::Overwritten
        }
    }
}
