//! Clocks, CPUs, priorities, memory locks.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Wall clock, in nanoseconds since the Unix epoch.
pub fn wall_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable; these clocks always exist.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The CPU this thread runs on now.
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).unwrap_or(u32::MAX)
}

/// The CPUs this process may run on, ascending.
pub fn allowed_cpus() -> io::Result<Vec<u32>> {
    // SAFETY: an all-zero set is valid, and the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        let limit = libc::CPU_SETSIZE as usize;
        Ok((0..limit)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .map(|cpu| cpu as u32)
            .collect())
    }
}

/// The CPUs of the drain threads unless configured: the first and the last, far
/// apart on most machines; one if there is only one.
pub fn two_of(allowed: &[u32]) -> Vec<u32> {
    let mut cpus: Vec<u32> = allowed
        .first()
        .into_iter()
        .chain(allowed.last())
        .copied()
        .collect();
    cpus.dedup();
    cpus
}

/// Pins the calling thread to one CPU, so that its timers are that CPU's too.
pub fn pin(cpu: u32) -> io::Result<()> {
    // SAFETY: as above; `cpu` is checked against the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu as usize >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        libc::CPU_SET(cpu as usize, &mut set);
        check(libc::sched_setaffinity(
            0,
            size_of::<libc::cpu_set_t>(),
            &raw const set,
        ))
    }
}

/// Gives the calling thread a real-time priority (`SCHED_FIFO`, 1 to 99).
/// Needs `CAP_SYS_NICE` or `RLIMIT_RTPRIO`.
pub fn fifo(priority: u8) -> io::Result<()> {
    // SAFETY: an all-zero parameter is valid; only the priority counts.
    unsafe {
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = priority.into();
        // musl's wrapper refuses to act on a thread; the system call does what its man page says.
        let zero: libc::pid_t = 0;
        check(libc::syscall(
            libc::SYS_sched_setscheduler,
            zero,
            libc::SCHED_FIFO,
            &raw const parameter,
        ) as libc::c_int)
    }
}

/// Keeps every page of what is mapped now in memory, from its first use on.
/// Needs `CAP_IPC_LOCK` or `RLIMIT_MEMLOCK`.
///
/// Not what is mapped later: without the capability that would count against
/// the limit, and allocations would fail.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: flags only.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) })
}

/// Waits until the descriptor is readable, and says whether it is, or until the
/// time is over. Does not allocate.
pub fn wait_readable(fd: RawFd, at_most: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let time = timespec(at_most);
    // SAFETY: one valid pollfd; a null signal mask leaves the mask alone.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) > 0 }
}

/// Waits; a signal may cut it short. Does not allocate.
pub fn sleep(time: Duration) {
    let time = timespec(time);
    // SAFETY: a valid time; what is left of it is not asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
