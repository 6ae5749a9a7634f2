//! How the kernel says what happens: one table of wordings, old and current.

mod panics;

use std::sync::LazyLock;

use memchr::memchr2_iter;

use crate::kind::Kind;

pub(crate) use panics::{PanicText, panic_text};

/// How a line says that something happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Wording {
    /// What the line begins with, behind all that its transport put there.
    pub(crate) start: &'static str,
    /// What it must hold behind that (empty: nothing), so that firmware and applications
    /// that use the same word are not taken for the kernel.
    pub(crate) needs: &'static str,
    /// What it says.
    pub(crate) kind: Kind,
}

const fn w(start: &'static str, needs: &'static str, kind: Kind) -> Wording {
    Wording { start, needs, kind }
}

/// How panics begin; the text follows.
pub(crate) const PANICS: &[&str] = &[
    "Kernel panic - not syncing: ",
    "Kernel panic - syncing: ",
    "---[ end Kernel panic - not syncing: ",
    "Kernel panic: ",
];

/// The first that fits counts: what is more precise stands before what is general.
pub(crate) const WORDINGS: &[Wording] = {
    use Kind as K;
    &[
        // arch/x86/mm/fault.c, show_fault_oops(): 5.1 on, and before it.
        w(
            "BUG: kernel NULL pointer dereference",
            "",
            K::NullPointerDereference,
        ),
        w(
            "BUG: unable to handle kernel NULL pointer dereference",
            "",
            K::NullPointerDereference,
        ),
        w(
            "BUG: unable to handle page fault for address",
            "",
            K::PageFault,
        ),
        w(
            "BUG: unable to handle kernel paging request",
            "",
            K::PageFault,
        ),
        w(
            "kernel tried to execute NX-protected page",
            "",
            K::PageFault,
        ),
        w("unable to execute userspace code (SMEP?)", "", K::PageFault),
        // arch/powerpc/mm/fault.c, bad_page_fault().
        w(
            "BUG: Kernel NULL pointer dereference",
            "",
            K::NullPointerDereference,
        ),
        w("BUG: Unable to handle kernel ", "", K::PageFault),
        // arch/arm64/mm/fault.c, die_kernel_fault(), and others that took it from there.
        w(
            "Unable to handle kernel NULL pointer dereference",
            "",
            K::NullPointerDereference,
        ),
        w("Unable to handle kernel paging request", "", K::PageFault),
        w(
            "Unable to handle kernel pointer dereference",
            "",
            K::PageFault,
        ),
        w("Unable to handle kernel access", "", K::PageFault),
        w(
            "Unable to handle kernel ",
            "at virtual address",
            K::PageFault,
        ),
        w(
            "CPU ",
            "Unable to handle kernel paging request",
            K::PageFault,
        ),
        // include/linux/bug.h, CHECK_DATA_CORRUPTION(), and what reports through it.
        w("list_add corruption", "", K::ListCorruption),
        w("list_del corruption", "", K::ListCorruption),
        w("list_add double add", "", K::ListCorruption),
        w("refcount_t: ", "", K::Refcount),
        // mm/usercopy.c, usercopy_abort().
        w("usercopy: Kernel memory ", "attempt detected", K::Usercopy),
        w("usercopy: kernel memory ", "attempt detected", K::Usercopy),
        // lib/string_helpers.c, fortify_panic().
        w("detected buffer overflow in ", "", K::Fortify),
        w("memcpy: detected buffer overflow", "", K::Fortify),
        w("memset: detected buffer overflow", "", K::Fortify),
        w("memmove: detected buffer overflow", "", K::Fortify),
        w("strnlen: detected buffer overflow", "", K::Fortify),
        w("strlen: detected buffer overflow", "", K::Fortify),
        w("strscpy: detected buffer overflow", "", K::Fortify),
        w("strcpy: detected buffer overflow", "", K::Fortify),
        w("strcat: detected buffer overflow", "", K::Fortify),
        // lib/bug.c, report_bug().
        w("kernel BUG at ", "", K::Bug),
        w("Kernel BUG at ", "", K::Bug),
        // arch/riscv/kernel/traps.c, arch/mips/kernel/traps.c.
        w("Kernel BUG [#", "", K::Bug),
        w("Kernel bug detected", "[#", K::Bug),
        // arch/x86/kernel/traps.c, cet.c; kernel/cfi.c.
        w(
            "general protection fault, ",
            " for ",
            K::GeneralProtectionFault,
        ),
        w("general protection fault", "[#", K::GeneralProtectionFault),
        w("divide error: ", "[#", K::DivideError),
        w("Division by zero in kernel", "", K::DivideError),
        w("invalid opcode: ", "[#", K::InvalidOpcode),
        w("double fault: ", "[#", K::DoubleFault),
        w("PANIC: double fault", "", K::DoubleFault),
        w("PANIC: early exception ", "", K::Oops),
        w("traps: PANIC: double fault", "", K::DoubleFault),
        w("stack segment: ", "[#", K::Oops),
        w("stack segment fault", "[#", K::Oops),
        w("int3: ", "[#", K::Oops),
        w("alignment check: ", "[#", K::Oops),
        w("invalid TSS: ", "[#", K::Oops),
        w("segment not present: ", "[#", K::Oops),
        w("control protection ", "[#", K::Oops),
        w("SIMD exception: ", "[#", K::Oops),
        w("simd exception: ", "[#", K::Oops),
        w("overflow: ", "[#", K::Oops),
        w("bounds: ", "[#", K::Oops),
        w("CFI failure at ", "", K::Oops),
        w("Missing ENDBR: ", "", K::Oops),
        w("traps: Missing ENDBR: ", "", K::Oops),
        // Stacks: arch/x86/mm/fault.c, arch/arm64/kernel/traps.c and others.
        w("BUG: stack guard page was hit", "", K::StackOverflow),
        w("BUG: ", "stack guard page was hit", K::StackOverflow),
        w("kernel stack overflow", "", K::StackOverflow),
        w("Kernel stack overflow", "", K::StackOverflow),
        w(
            "Insufficient stack space to handle exception",
            "",
            K::StackOverflow,
        ),
        // arch/arm64/kernel/traps.c, die(), and its namesakes.
        w(
            "Internal error: Oops - Undefined instruction",
            "",
            K::InvalidOpcode,
        ),
        w(
            "Internal error: undefined instruction",
            "",
            K::InvalidOpcode,
        ),
        w(
            "Internal error: Oops - undefined instruction",
            "",
            K::InvalidOpcode,
        ),
        w("Internal error: Oops - BUG", "", K::Bug),
        w(
            "Internal error: synchronous external abort",
            "",
            K::ExternalAbort,
        ),
        w("Unhandled fault: ", "external abort", K::ExternalAbort),
        // Up to 4.14: an SError that nobody handles, and other exceptions.
        w("Bad mode in Error handler detected", "", K::SError),
        w("Bad mode in ", " handler detected", K::Oops),
        // What stands behind the word is the fault's status.
        w("Internal error: Oops: ", "[#", K::PageFault),
        w("Internal error: ", "[#", K::Oops),
        w("Oops - illegal instruction", "[#", K::InvalidOpcode),
        // Only page faults have a code and no name (x86, s390), or this one (powerpc).
        w("Oops: 0", "[#", K::PageFault),
        w("Oops: Kernel access of bad area", "[#", K::PageFault),
        w("Oops: Machine check", "[#", K::MachineCheck),
        w("Oops", "[#", K::Oops),
        // kernel/watchdog.c, kernel/watchdog_perf.c and their ancestors.
        w("watchdog: BUG: soft lockup", "", K::SoftLockup),
        w("NMI watchdog: BUG: soft lockup", "", K::SoftLockup),
        w("BUG: soft lockup - CPU#", "", K::SoftLockup),
        // Up to 2.6.20.
        w("BUG: soft lockup detected on CPU#", "", K::SoftLockup),
        w("watchdog: ", "detected hard LOCKUP", K::HardLockup),
        w("NMI watchdog: ", "detected hard LOCKUP", K::HardLockup),
        w("Watchdog ", "detected hard LOCKUP", K::HardLockup),
        // Up to 2.6.38.
        w("BUG: NMI Watchdog detected LOCKUP", "", K::HardLockup),
        w("NMI Watchdog detected LOCKUP", "", K::HardLockup),
        w("watchdog: ", "became unresponsive", K::HardLockup),
        // kernel/workqueue.c, wq_watchdog_timer_fn().
        w("BUG: workqueue lockup", "", K::WorkqueueLockup),
        // kernel/hung_task.c.
        // From 6.15 on a line "is blocked on a mutex likely owned by" follows, which is of it.
        w("INFO: task ", " for more ", K::HungTask),
        // mm/oom_kill.c.
        w("Memory cgroup out of memory: Kill", "", K::CgroupOomKill),
        w(
            "Memory cgroup out of memory (oom_kill_allocating_task): Kill",
            "",
            K::CgroupOomKill,
        ),
        w("Out of memory: Kill", "", K::OomKill),
        w(
            "Out of memory (oom_kill_allocating_task): Kill",
            "",
            K::OomKill,
        ),
        w("Out of memory and no killable processes", "", K::OomKill),
        // kernel/rcu/tree_stall.h, tree_exp.h, tasks.h, tiny.c, srcutree.c.
        w("rcu: INFO: ", "detected stall", K::RcuStall),
        w("rcu: INFO: ", "detected expedited stall", K::RcuStall),
        w("rcu: INFO: ", "self-detected stall", K::RcuStall),
        w("INFO: rcu_", "detected stall", K::RcuStall),
        w("INFO: rcu_", "detected expedited stall", K::RcuStall),
        w("INFO: rcu_", "self-detected stall", K::RcuStall),
        // arch/x86/kernel/cpu/mce/core.c, print_mce(); arch/arm64/kernel/traps.c.
        w(
            "mce: [Hardware Error]: ",
            "Machine Check Exception",
            K::MachineCheck,
        ),
        w(
            "[Hardware Error]: ",
            "Machine Check Exception",
            K::MachineCheck,
        ),
        w(
            "mce: [Hardware Error]: CPU ",
            ": Machine Check: ",
            K::MachineCheck,
        ),
        w("SError Interrupt on CPU", "", K::SError),
        // drivers/firmware/efi/cper.c, drivers/edac, drivers/pci/pcie/aer.c, mm/memory-failure.c.
        w("Memory failure: 0x", "recovery action", K::HardwareError),
        w(
            "mce: Uncorrected hardware memory error",
            "",
            K::HardwareError,
        ),
        w("EDAC ", ": 1 UE ", K::HardwareError),
        w(
            "{",
            "}[Hardware Error]: event severity: fatal",
            K::HardwareError,
        ),
        w(
            "{",
            "}[Hardware Error]: event severity: recoverable",
            K::HardwareError,
        ),
        // Up to 3.8.
        w(
            "{",
            "}[Hardware Error]: severity: 1, fatal",
            K::HardwareError,
        ),
        w(
            "{",
            "}[Hardware Error]: severity: 0, recoverable",
            K::HardwareError,
        ),
        w("pcieport ", "AER: Uncorrect", K::HardwareError),
        w("pcieport ", "severity=Uncorrect", K::HardwareError),
        // arch/x86/kernel/nmi.c.
        w("Uhhuh. NMI received for unknown reason", "", K::UnknownNmi),
        w("NMI: PCI system error (SERR)", "", K::HardwareError),
        w("NMI: IOCK error", "", K::HardwareError),
        // drivers/tty/sysrq.c.
        w("sysrq: Trigger a crash", "", K::SysrqCrash),
        w("sysrq: SysRq : Trigger a crash", "", K::SysrqCrash),
        w("SysRq : Trigger a crash", "", K::SysrqCrash),
        // mm/kasan/report.c, mm/kfence/report.c, kernel/kcsan/report.c, mm/kmsan/report.c,
        // lib/ubsan.c, mm/kmemleak.c.
        w("BUG: KASAN: ", "", K::Kasan),
        w("KASAN: ", "range [", K::Kasan),
        w("BUG: KFENCE: ", "", K::Kfence),
        w("BUG: KCSAN: ", "", K::Kcsan),
        w("BUG: KMSAN: ", "", K::Kmsan),
        // Others write titles such as `UBSAN: shift-out-of-bounds in foo`.
        w("UBSAN: ", ".c:", K::Ubsan),
        w("UBSAN: ", ".h:", K::Ubsan),
        w("UBSAN: ", ".rs:", K::Ubsan),
        w("BUG: memory leak", "", K::MemoryLeak),
        w("unreferenced object 0x", "(size ", K::MemoryLeak),
        // kernel/locking/lockdep.c, include/linux/rcupdate.h; [ INFO: up to 4.11.
        w(
            "WARNING: possible circular locking dependency detected",
            "",
            K::Lockdep,
        ),
        w(
            "WARNING: possible recursive locking detected",
            "",
            K::Lockdep,
        ),
        w(
            "WARNING: possible irq lock inversion dependency detected",
            "",
            K::Lockdep,
        ),
        w("WARNING: ", "-safe -> ", K::Lockdep),
        w("WARNING: inconsistent lock state", "", K::Lockdep),
        w("WARNING: bad unlock balance detected", "", K::Lockdep),
        w("WARNING: bad contention detected", "", K::Lockdep),
        w("WARNING: held lock freed", "", K::Lockdep),
        w(
            "WARNING: lock held when returning to user space",
            "",
            K::Lockdep,
        ),
        w("WARNING: ", "still has locks held", K::Lockdep),
        w("WARNING: Nested lock was not taken", "", K::Lockdep),
        w("WARNING: suspicious RCU usage", "", K::Lockdep),
        w(
            "WARNING: kernel/",
            "suspicious rcu_dereference_check() usage",
            K::Lockdep,
        ),
        w("[ INFO: possible ", " detected ]", K::Lockdep),
        w("[ INFO: inconsistent lock state ]", "", K::Lockdep),
        w("[ INFO: suspicious ", " usage. ]", K::Lockdep),
        w("[ INFO: ", "-safe -> ", K::Lockdep),
        // Nothing but what watches locks writes so.
        w("[ BUG: ", " ]", K::Lockdep),
        w("BUG: Invalid wait context", "", K::Lockdep),
        w(
            "INFO: possible circular locking dependency detected",
            "",
            K::Lockdep,
        ),
        w("INFO: possible recursive locking detected", "", K::Lockdep),
        w("INFO: inconsistent lock state", "", K::Lockdep),
        w("INFO: trying to register non-static key", "", K::Lockdep),
        w("BUG: MAX_LOCK", " too low!", K::Lockdep),
        // kernel/workqueue.c, process_one_work().
        w("BUG: workqueue leaked ", "", K::Lockdep),
        // kernel/locking/spinlock_debug.c, rtmutex, mutex-debug.
        w("BUG: spinlock ", " on CPU#", K::LockCorruption),
        w("BUG: rwlock ", " on CPU#", K::LockCorruption),
        w("BUG: rwlock-recursion on CPU#", "", K::LockCorruption),
        // kernel/sched/core.c, lib/smp_processor_id.c.
        w(
            "BUG: sleeping function called from invalid context at ",
            "",
            K::SleepInAtomic,
        ),
        w("BUG: using ", " in preemptible [", K::SleepInAtomic),
        w(
            "BUG: scheduling while atomic: ",
            "",
            K::SchedulingWhileAtomic,
        ),
        // mm/page_alloc.c, mm/memory.c, kernel/fork.c, mm/filemap.c.
        w("BUG: Bad page state in process ", "", K::BadPage),
        w("BUG: Bad page map in process ", "", K::BadPage),
        w("BUG: Bad page cache in process ", "", K::BadPage),
        w("BUG: Bad rss-counter state", "", K::BadPage),
        w("BUG: non-zero pgtables_bytes on freeing mm", "", K::BadPage),
        w("BUG: non-zero nr_p", " on freeing mm", K::BadPage),
        // mm/slub.c, slab_bug().
        w("BUG ", "ainted): ", K::SlabCorruption),
        w("BUG ", " (Tainted: ", K::SlabCorruption),
        // net/sched/sch_generic.c before its WARN; net/core/dev.c.
        w("NETDEV WATCHDOG: ", "timed out", K::NetdevWatchdog),
        w(
            "unregister_netdevice: waiting for ",
            " to become free",
            K::UnregisterNetdevice,
        ),
        // net/netfilter/nf_conntrack_core.c, __nf_conntrack_alloc().
        w(
            "nf_conntrack: ",
            "table full, dropping packet",
            K::ConntrackFull,
        ),
        w(
            "ip_conntrack: ",
            "table full, dropping packet",
            K::ConntrackFull,
        ),
        // kernel/panic.c, __warn(): up to 3.x, up to 6.17, since.
        w("WARNING: CPU: ", " PID: ", K::Warning),
        // 2.6.18.
        w("BUG: warning at ", ".c:", K::Warning),
        w("WARNING: at ", "+0x", K::Warning),
        // Architectures that name no function there (s390, powerpc up to 3.x).
        w("WARNING: at ", ".c:", K::Warning),
        w("WARNING: at ", ".h:", K::Warning),
        w("WARNING: ", ", CPU#", K::Warning),
        // drivers/watchdog.
        w("softdog: Initiating ", "", K::Watchdog),
        w("watchdog", ": pretimeout event", K::Watchdog),
        // kernel/module/.
        w("Loading of unsigned module is rejected", "", K::ModuleLoad),
        w("Loading of module with un", " is rejected", K::ModuleLoad),
    ]
};

/// Wordings that stand somewhere in their line, behind a name.
pub(crate) const ANYWHERE: &[(&str, Kind)] = &[
    // net/sched/sch_generic.c, dev_watchdog(): 6.7 on.
    (": NETDEV WATCHDOG: CPU: ", Kind::NetdevWatchdog),
    // mm/oom_kill.c, dump_header(): the report that ends with who was killed.
    (": gfp_mask=", Kind::OomKill),
    // kernel/module/version.c, main.c.
    (": disagrees about version of symbol ", Kind::ModuleLoad),
    (": Unknown symbol ", Kind::ModuleLoad),
    (": version magic '", Kind::ModuleLoad),
    (": exports duplicate symbol ", Kind::ModuleLoad),
    // kernel/bpf/verifier.c, check_cfg() and do_check(), as loaders print its log.
    ("BPF program is too large. Processed ", Kind::BpfVerifier),
    (": BPF program load failed: ", Kind::BpfVerifier),
];

/// What each of [`ANYWHERE`] begins with.
const ANYWHERE_FIRST: [u8; 2] = *b":B";

/// By its first byte, the second bytes (the lower six bits of them) that a line which says
/// something may have. Most lines are none of those, and are not looked at any further.
const STARTS: [u64; 256] = {
    const fn with(mut starts: [u64; 256], text: &str) -> [u64; 256] {
        let bytes = text.as_bytes();
        if bytes.len() == 1 {
            starts[bytes[0] as usize] = u64::MAX;
        } else {
            starts[bytes[0] as usize] |= 1 << (bytes[1] & 63);
        }
        starts
    }
    let mut starts = with([0; 256], "Oops: ");
    let mut at = 0;
    while at < WORDINGS.len() {
        starts = with(starts, WORDINGS[at].start);
        at += 1;
    }
    starts
};

/// The wordings by their first byte, in their order.
static BY_FIRST: LazyLock<[Vec<&Wording>; 256]> = LazyLock::new(|| {
    std::array::from_fn(|first| {
        let begins = |w: &&Wording| usize::from(w.start.as_bytes()[0]) == first;
        WORDINGS.iter().filter(begins).collect()
    })
});

/// What this line says happened, if anything. It is stripped of what its transport put
/// before it. With it comes what it says behind the word `Oops: ` where there is one.
pub(crate) fn of(line: &str) -> Option<Kind> {
    let find = |line: &str| {
        let fits = |w: &&&Wording| {
            let rest = line.strip_prefix(w.start);
            rest.is_some_and(|rest| w.needs.is_empty() || rest.contains(w.needs))
        };
        let may_fit = &BY_FIRST[usize::from(*line.as_bytes().first()?)];
        may_fit.iter().find(fits).map(|w| w.kind)
    };
    let may_begin = match line.as_bytes() {
        [first, second, ..] => STARTS[usize::from(*first)] & (1 << (second & 63)) != 0,
        _ => false,
    };
    // From 6.10 on traps are named behind the word: `Oops: divide error: 0000 [#1]`.
    let begins = may_begin.then(|| {
        let trap = line.strip_prefix("Oops: ").and_then(find);
        trap.or_else(|| find(line))
    });
    begins.flatten().or_else(|| somewhere(line))
}

/// What stands behind a name, which has no blanks: `eth0`, `nf_tables`, or of a device
/// with its driver and bus.
pub(crate) fn somewhere(line: &str) -> Option<Kind> {
    let bytes = line.as_bytes();
    let [first, other] = ANYWHERE_FIRST;
    memchr2_iter(first, other, bytes).find_map(|at| {
        let is_there = |(text, kind): &&(&str, Kind)| {
            bytes[at..].starts_with(text.as_bytes()) && is_said_by(*kind, &line[..at])
        };
        ANYWHERE.iter().find(is_there).map(|(_, kind)| *kind)
    })
}

/// Whether the kernel says that behind what stands before it: of a module its name alone,
/// as tools that load modules use the same words; of a task its name, which is short.
fn is_said_by(kind: Kind, before: &str) -> bool {
    const TASK_MAX: usize = 15;
    match kind {
        Kind::ModuleLoad => !before.contains(' '),
        Kind::OomKill => {
            let task = before.strip_suffix("oom-killer");
            task.is_some_and(|task| task.len() <= TASK_MAX + " invoked ".len())
        }
        _ => true,
    }
}

/// The text of a panic, if this line is one's.
pub(crate) fn panic(line: &str) -> Option<&str> {
    let text = PANICS.iter().find_map(|p| line.strip_prefix(p))?.trim_end();
    Some(text.strip_suffix(" ]---").unwrap_or(text))
}

/// Whether a panic says nothing behind this line.
pub(crate) fn is_end(line: &str) -> bool {
    line.starts_with("---[ end Kernel panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_anywhere_is_found_by_its_first_byte() {
        for (text, kind) in ANYWHERE {
            assert!(ANYWHERE_FIRST.contains(&text.as_bytes()[0]), "{text:?}");
            let line = format!("B:oom-killer{text}b");
            assert_eq!(somewhere(&line), Some(*kind), "{text:?}");
        }
    }
}
