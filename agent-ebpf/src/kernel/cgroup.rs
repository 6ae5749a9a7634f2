//! `struct cgroup` (include/linux/cgroup-defs.h): what it and those around it are called.

use agent_common::asked::{CGROUP_MAX, CGROUPS_MAX};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;

use super::pointer;
use crate::maps;

const _: () = assert!(CGROUPS_MAX == 3, "see `names`");

/// Writes down the names of a cgroup and those around it; empty where not known.
///
/// # Safety
///
/// `into` is in a map value.
#[inline(always)]
pub unsafe fn names(cgroup: u64, into: *mut [[u8; CGROUP_MAX]; CGROUPS_MAX]) {
    let into = into.cast::<[u8; CGROUP_MAX]>();
    // Not in a loop, for the reason in `task::describe`.
    // SAFETY: the caller's promise.
    unsafe {
        let own = pointer(cgroup, maps::cgroup_kernfs());
        let outer = name(own, into);
        let outermost = name(outer, into.add(1));
        name(outermost, into.add(2));
    }
}

/// Writes down the name of one, and gives the one around it.
///
/// # Safety
///
/// As [`names`].
#[inline(always)]
unsafe fn name(node: u64, into: *mut [u8; CGROUP_MAX]) -> u64 {
    let from = pointer(node, maps::kernfs_name());
    // SAFETY: the caller's promise; the helper writes at most `CGROUP_MAX` bytes and
    // fails, rather than faults, on a bad address.
    unsafe {
        (*into)[0] = 0;
        if from != 0 {
            bpf_probe_read_kernel_str(into.cast(), CGROUP_MAX as u32, from as *const _);
        }
    }
    pointer(node, maps::kernfs_parent())
}
