//! What an init does: file systems, modules, the network.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Names of the modules to load, in order; made with the initramfs.
const MODULES: &str = "/modules/order";
/// The same of those for other kinds of network.
pub(crate) const NETWORKS: &str = "/modules/networks";

/// The disk, if the machine has one, and where the agent keeps what outlives it.
const DISK: &str = "/dev/vda";
pub(crate) const STATE: &str = "/var/lib/lastgasp";

const ADDRESS: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const NETMASK: [u8; 4] = [255, 255, 255, 0];

/// Everything up to a network with an address.
pub(crate) fn set_up() -> Result<()> {
    for (kind, target) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        let _ = fs::create_dir_all(target);
        // Some kernels have no debugfs; the agent needs none.
        if let Err(error) = mount(kind, kind, target)
            && kind != "debugfs"
        {
            return Err(error).with_context(|| format!("cannot mount {target}"));
        }
    }
    load(MODULES)?;
    // There once a module has registered it; the agent can do without.
    let _ = mount("configfs", "configfs", "/sys/kernel/config");
    if Path::new(DISK).exists() {
        fs::create_dir_all(STATE)?;
        mount("ext4", DISK, STATE).with_context(|| format!("cannot mount {DISK}"))?;
    }
    network()
}

/// Loads the modules of a list.
pub(crate) fn load(list: &str) -> Result<()> {
    for name in fs::read_to_string(list).unwrap_or_default().lines() {
        let file = format!("/modules/{name}");
        insert(Path::new(&file), "").with_context(|| format!("cannot load {file}"))?;
    }
    Ok(())
}

/// The virtio port of this name.
pub(crate) fn port(name: &str) -> Result<File> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
            let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim() == name {
                let device = Path::new("/dev").join(entry.file_name());
                return Ok(OpenOptions::new().read(true).write(true).open(device)?);
            }
        }
        if Instant::now() > deadline {
            bail!("no virtio port {name}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn mount(kind: &str, what: &str, target: &str) -> Result<()> {
    let (kind, target) = (CString::new(kind)?, CString::new(target)?);
    let what = CString::new(what)?;
    // SAFETY: all strings outlive the call; no data is passed.
    check(unsafe {
        libc::mount(
            what.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    })?;
    Ok(())
}

/// Loads a module.
pub(crate) fn insert(file: &Path, parameters: &str) -> Result<()> {
    let image = fs::read(file)?;
    let parameters = CString::new(parameters)?;
    // SAFETY: the image is readable for its length, the parameters end in NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_init_module,
            image.as_ptr(),
            image.len(),
            parameters.as_ptr(),
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error.into());
        }
    }
    Ok(())
}

fn network() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Path::new("/sys/class/net/eth0").exists() {
        if Instant::now() > deadline {
            bail!("no eth0");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    up("lo", [127, 0, 0, 1], [255, 0, 0, 0])?;
    up("eth0", ADDRESS, NETMASK)?;
    default_route(GATEWAY)
}

fn socket() -> Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: numbers only; the descriptor is owned by the File.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        check(fd.min(0))?;
        Ok(File::from_raw_fd(fd))
    }
}

fn address(bytes: [u8; 4]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as u16,
        sa_data: data,
    }
}

/// Gives a device an address, and takes it up.
pub(crate) fn up(name: &str, local: [u8; 4], mask: [u8; 4]) -> Result<()> {
    use std::os::fd::AsRawFd;
    let socket = socket()?;
    // SAFETY: an all-zero ifreq is valid; the union's field is the one that
    // each request reads.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_addr = address(local);
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFADDR as _,
            &raw mut request,
        ))?;
        request.ifr_ifru.ifru_netmask = address(mask);
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFNETMASK as _,
            &raw mut request,
        ))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))?;
    }
    Ok(())
}

/// Takes a device down.
pub(crate) fn down(name: &str) -> Result<()> {
    flags(name, 0)
}

/// Locks as much memory as it takes: before 5.11 BPF programs and maps count as that.
pub(crate) fn lock_any_memory() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is read, and nothing else.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
}

/// Sets the flags of a device.
pub(crate) fn flags(name: &str, flags: libc::c_int) -> Result<()> {
    use std::os::fd::AsRawFd;
    let socket = socket()?;
    // SAFETY: an all-zero ifreq is valid; the union's field is the one that is read.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))?;
    }
    Ok(())
}

/// Everything else goes by way of `gateway`.
pub(crate) fn default_route(gateway: [u8; 4]) -> Result<()> {
    use std::os::fd::AsRawFd;
    let socket = socket()?;
    // SAFETY: an all-zero rtentry is valid: any destination, no device.
    unsafe {
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = address([0; 4]);
        route.rt_genmask = address([0; 4]);
        route.rt_gateway = address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCADDRT as _,
            &raw mut route,
        ))?;
    }
    Ok(())
}

/// Binds the calling thread to a CPU; one that is not there is left alone.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: an all-zero set is valid; a CPU that is not there is refused.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu.min(libc::CPU_SETSIZE as usize - 1), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Has the threads of these names run on all CPUs but the calling thread's, if there are
/// others.
pub(crate) fn keep_off(names: &[&str]) -> io::Result<()> {
    // SAFETY: numbers only.
    let (here, cpus) = unsafe {
        (
            libc::sched_getcpu(),
            libc::sysconf(libc::_SC_NPROCESSORS_ONLN),
        )
    };
    if cpus < 2 {
        return Ok(());
    }
    // SAFETY: an all-zero set is valid; CPUs of small numbers have a place in it.
    let others = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in (0..cpus as usize).filter(|cpu| *cpu as libc::c_int != here) {
            libc::CPU_SET(cpu, &mut set);
        }
        set
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let pid = entry.file_name().to_string_lossy().parse();
        if let (true, Ok(pid)) = (names.contains(&name.trim()), pid) {
            // SAFETY: the set is readable for its size.
            check(unsafe {
                libc::sched_setaffinity(pid, size_of_val(&others), &raw const others)
            })?;
        }
    }
    Ok(())
}

/// Runs the calling thread as the agent runs its drain threads: on one CPU, in
/// real time.
pub(crate) fn like_a_drain(cpu: usize) -> io::Result<()> {
    pin(cpu);
    let priority: libc::c_int = 90;
    // SAFETY: the kernel's `struct sched_param` is one int. musl's wrapper
    // refuses to act on a thread, hence the system call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_FIFO,
            &raw const priority,
        )
    };
    check(result as libc::c_int)
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps a CPU busy for ever.
pub(crate) fn burn(cpu: usize) -> ! {
    pin(cpu);
    loop {
        std::hint::spin_loop();
    }
}

/// Maps and unmaps memory on a CPU for ever, as programs of several threads do.
/// Each time the CPUs on which other threads of this process have run are asked to
/// forget it, and waited for: a CPU that dies never answers.
pub(crate) fn churn(cpu: usize) -> ! {
    pin(cpu);
    loop {
        if let Some(bite) = Bite::take(64 << 10) {
            drop(bite);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does something in a process of its own.
pub(crate) fn in_child(body: impl FnOnce()) -> io::Result<()> {
    // SAFETY: the child calls nothing but system calls and its own code, and
    // ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(1) };
    }
    check(child)
}

/// Takes memory, and uses it, until the kernel ends this process for that.
pub(crate) fn eat_memory() {
    // Of all processes the kernel shall take this one.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    while let Some(bite) = Bite::take(1 << 20) {
        std::mem::forget(bite);
    }
}

/// Memory in use.
struct Bite {
    start: *mut libc::c_void,
    len: usize,
}

impl Bite {
    fn take(len: usize) -> Option<Self> {
        // SAFETY: a new mapping, which nobody else knows; written within its length.
        unsafe {
            let start = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if start == libc::MAP_FAILED {
                return None;
            }
            std::ptr::write_bytes(start.cast::<u8>(), 0xa5, len);
            Some(Self { start, len })
        }
    }
}

impl Drop for Bite {
    fn drop(&mut self) {
        // SAFETY: mapped by `take` with this length, and not used after this.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// PID 1 ends; returns only if it cannot. It becomes another program first, of
/// one thread: where several end, the first kills every process before the last
/// one has the kernel panic.
pub(crate) fn exit() -> anyhow::Error {
    Command::new("/proc/self/exe").arg(EXIT).exec().into()
}

/// Has PID 1 end at once.
pub(crate) const EXIT: &str = "exit";

/// reboot(2) with this command: it does not shut anything down by itself.
pub(crate) fn reboot(command: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::reboot(command) })
}

/// Gives the calling thread, and the process that it is the first of, a name.
pub(crate) fn name(name: &CStr) {
    // SAFETY: the kernel reads the name up to its end, at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Sends a signal.
pub(crate) fn signal(pid: libc::pid_t, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::kill(pid, signal) })
}

/// From now on this signal has the machine restart at once, as systemd does for
/// some.
pub(crate) fn on_signal(signal: libc::c_int) -> io::Result<()> {
    extern "C" fn restart(_signal: libc::c_int) {
        let _ = reboot(libc::LINUX_REBOOT_CMD_RESTART);
    }
    let handler: extern "C" fn(libc::c_int) = restart;
    // SAFETY: the handler makes one system call and nothing else.
    let before = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What `kexec` starts here: not a kernel, but what ends the machine at once.
/// x86: a pulse on the reset line of the keyboard controller. arm64: PSCI's
/// SYSTEM_RESET.
#[cfg(target_arch = "x86_64")]
const NEXT_KERNEL: [u8; 6] = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];
#[cfg(target_arch = "aarch64")]
const NEXT_KERNEL: [u8; 16] = [
    0x20, 0x01, 0x80, 0xd2, 0x00, 0x80, 0xb0, 0xf2, 0x02, 0x00, 0x00, 0xd4, 0x00, 0x00, 0x00, 0x14,
];

/// Where in memory it goes, and how much of it that takes.
const NEXT_KERNEL_AT: usize = if cfg!(target_arch = "aarch64") {
    0x4800_0000
} else {
    0x0100_0000
};
const PAGE: usize = 4096;

/// Loads what `kexec` starts (kexec_load(2)).
pub(crate) fn load_kernel() -> io::Result<()> {
    #[repr(C)]
    struct Segment {
        from: *const u8,
        len: usize,
        to: usize,
        room: usize,
    }
    let segment = Segment {
        from: NEXT_KERNEL.as_ptr(),
        len: NEXT_KERNEL.len(),
        to: NEXT_KERNEL_AT,
        room: PAGE,
    };
    // SAFETY: one segment, readable for its length, which the kernel copies.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            NEXT_KERNEL_AT,
            1,
            &raw const segment,
            0,
        )
    };
    check(result as libc::c_int)
}

/// Ends the machine.
pub(crate) fn power_off() -> ! {
    let _ = reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
