//! `struct task_struct` (include/linux/sched.h): who runs, who started it, and in
//! which cgroups it is. What user space could not find a place for stays unknown.

use agent_common::{
    COMM_MAX,
    asked::{Asker, CGROUP_MAX, CGROUPS_MAX, COMMAND_MAX, PARENTS_MAX, Process},
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel, bpf_probe_read_user,
    bpf_probe_read_user_str,
};

use super::{cgroup, field, pointer};
use crate::maps;

const _: () = assert!(PARENTS_MAX == 3, "see `describe`");

/// `pid` of the thread that makes all other kernel threads.
pub const KTHREADD: u32 = 2;

/// Writes down the process that runs now.
///
/// # Safety
///
/// `asker` is in a map value.
#[inline(always)]
pub unsafe fn describe(asker: *mut Asker) {
    // SAFETY: helpers without arguments, and the caller's promise.
    unsafe {
        let task = bpf_get_current_task();
        (*asker).uid = bpf_get_current_uid_gid() as u32;
        let process = leader(task);
        name(process, &raw mut (*asker).process);
        // Not in a loop: before 6.4 or so the verifier takes none that ends with a
        // call ("back-edge"), and how one is laid out is the compiler's choice.
        let parents = (&raw mut (*asker).parents).cast::<Process>();
        let first = parent(process, parents);
        let second = parent(first, parents.add(1));
        parent(second, parents.add(2));
        let own = pointer(pointer(task, maps::task_cgroups()), maps::css_set_cgroup());
        cgroup::names(own, &raw mut (*asker).cgroups);
    }
}

/// Writes down who started a process, and gives it.
///
/// # Safety
///
/// As [`describe`].
#[inline(always)]
unsafe fn parent(of: u64, into: *mut Process) -> u64 {
    let process = leader(pointer(of, maps::task_parent()));
    // SAFETY: the caller's promise.
    unsafe { name(process, into) };
    process
}

/// Writes down that it was no process.
///
/// # Safety
///
/// As [`describe`].
#[inline(always)]
pub unsafe fn nobody(asker: *mut Asker) {
    // SAFETY: the caller's promise; all of it is plain numbers.
    unsafe {
        (*asker).process.pid = 0;
        (*asker).process.comm[0] = 0;
        (*asker).uid = 0;
        let parents = (&raw mut (*asker).parents).cast::<Process>();
        for i in 0..PARENTS_MAX {
            (*parents.add(i)).pid = 0;
        }
        let cgroups = (&raw mut (*asker).cgroups).cast::<[u8; CGROUP_MAX]>();
        for i in 0..CGROUPS_MAX {
            cgroups.add(i).cast::<u8>().write(0);
        }
    }
}

/// The first thread of a task's process.
#[inline(always)]
fn leader(task: u64) -> u64 {
    pointer(task, maps::task_leader())
}

/// # Safety
///
/// As [`describe`].
#[inline(always)]
unsafe fn name(task: u64, process: *mut Process) {
    let pid = process_id(task);
    // SAFETY: the caller's promise; the helper writes `COMM_MAX` bytes.
    unsafe {
        (*process).pid = pid;
        let comm = &raw mut (*process).comm;
        let from = (task + maps::task_comm()) as *const _;
        if pid == 0 || bpf_probe_read_kernel(comm.cast(), COMM_MAX as u32, from) != 0 {
            (*comm)[0] = 0;
        }
    }
}

/// Its process id, or zero.
#[inline(always)]
pub fn process_id(task: u64) -> u32 {
    field(task, maps::task_tgid()).unwrap_or(0)
}

/// The first eight bytes of its name.
#[inline(always)]
pub fn name_begin(task: u64) -> [u8; 8] {
    field(task, maps::task_comm()).unwrap_or([0; 8])
}

/// Whether the process that runs now has the machine's own process ids, not a
/// container's. Where that is not known, it has.
#[inline(always)]
pub fn is_of_the_machine() -> bool {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    field::<u32>(pointer(task, maps::task_thread_pid()), maps::pid_level()).unwrap_or(0) == 0
}

/// The command line of the process that runs now, in its own memory.
pub struct CommandLine {
    /// Address of its first byte.
    pub start: u64,
    end: u64,
}

impl CommandLine {
    #[inline(always)]
    pub fn of_current() -> Self {
        // SAFETY: a helper without arguments.
        let task = unsafe { bpf_get_current_task() };
        let memory = pointer(task, maps::task_memory());
        Self {
            start: pointer(memory, maps::memory_arg_start()),
            end: pointer(memory, maps::memory_arg_end()),
        }
    }

    /// The first eight bytes of the argument at this address, and its length with
    /// the zero byte behind it.
    #[inline(always)]
    pub fn argument(&self, at: u64) -> Option<(u64, u64)> {
        if at == 0 || at >= self.end {
            return None;
        }
        let mut text = [0_u64; COMMAND_MAX / 8];
        // SAFETY: the helper writes at most the size of `text` and fails, rather than
        // faults, on memory that is not there.
        let len = unsafe {
            bpf_probe_read_user_str(text.as_mut_ptr().cast(), COMMAND_MAX as u32, at as *const _)
        };
        (len > 0).then_some((text[0], len as u64))
    }

    /// Copies the beginning of it; gives how many bytes.
    ///
    /// # Safety
    ///
    /// `into` is in a map value.
    #[inline(always)]
    pub unsafe fn copy(&self, into: *mut [u8; COMMAND_MAX]) -> u32 {
        let mut len = self.end.saturating_sub(self.start);
        if len > COMMAND_MAX as u64 {
            len = COMMAND_MAX as u64;
        }
        // SAFETY: the caller's promise; as above.
        let failed =
            unsafe { bpf_probe_read_user(into.cast(), len as u32, self.start as *const _) != 0 };
        if failed { 0 } else { len as u32 }
    }
}
