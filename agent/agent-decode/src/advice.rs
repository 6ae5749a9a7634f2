//! What a kind means, and what to do: for people who meet it for the first time.

use crate::kind::Kind;

impl Kind {
    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Panic => {
                "The kernel found a state that it cannot go on from, and stopped the machine."
            }
            Self::SysrqCrash => "Somebody asked the kernel to crash, to get a dump or to test.",
            Self::InitExited => "PID 1 ended; without it a kernel stops the machine.",
            Self::Bug => "The kernel's own check of what must always hold did not hold.",
            Self::NullPointerDereference => "Kernel code used a pointer that points at nothing.",
            Self::PageFault => {
                "Kernel code used an address where no memory is, or none that it may use so."
            }
            Self::GeneralProtectionFault => {
                "Kernel code used an address that no pointer can have: mostly memory that was freed or overwritten."
            }
            Self::DivideError => "Kernel code divided by zero.",
            Self::InvalidOpcode => "The CPU was told to run something that is no instruction.",
            Self::DoubleFault => {
                "A fault happened while another was being handled: mostly the stack was used up."
            }
            Self::StackOverflow => "The kernel's stack was used up, or overwritten.",
            Self::Oops => "Kernel code did what the CPU refuses.",
            Self::Warning => "The kernel found something that should not be, and went on.",
            Self::SoftLockup => "A CPU ran kernel code for long without letting anything else run.",
            Self::HardLockup => "A CPU took no interrupts for long: it was stuck with them off.",
            Self::HungTask => {
                "A task waits for long, and nothing can end its wait but what it waits for."
            }
            Self::RcuStall => {
                "A CPU or task kept all others from finishing what they wait for together (RCU)."
            }
            Self::WorkqueueLockup => {
                "Work that the kernel has put off is not done: its workers are stuck."
            }
            Self::OomKill => {
                "The machine had no memory left, and the kernel killed a process to get some."
            }
            Self::CgroupOomKill => {
                "A container reached its memory limit, and the kernel killed a process in it."
            }
            Self::OomPanic => {
                "The machine had no memory left, and is set to panic then or had nothing to kill."
            }
            Self::MachineCheck => "The CPU reported that hardware failed.",
            Self::HardwareError => {
                "Hardware or firmware reported an error that it could not correct."
            }
            Self::SError => {
                "An access failed late, and nobody can say which: mostly hardware or firmware."
            }
            Self::ExternalAbort => {
                "A device or memory did not answer an access: mostly hardware or firmware."
            }
            Self::UnknownNmi => {
                "An interrupt came that nobody asked for: mostly hardware, or somebody's NMI button."
            }
            Self::Kasan => {
                "Kernel code used memory that is not its own; the sanitizer saw it happen."
            }
            Self::Kfence => {
                "Kernel code used memory that is not its own; a sample of all objects saw it happen."
            }
            Self::Kcsan => "Two CPUs used the same memory at the same time without a lock.",
            Self::Kmsan => "Kernel code used memory that nobody had written to.",
            Self::Ubsan => "Kernel code did what the language leaves undefined.",
            Self::MemoryLeak => "Memory is allocated that nothing points at any more.",
            Self::Lockdep => {
                "Locks are used in a way that can stop CPUs for ever, though it has not happened yet."
            }
            Self::LockCorruption => "A lock is taken twice, by the wrong one, or was overwritten.",
            Self::SleepInAtomic => {
                "Kernel code may sleep where it must not: other CPUs may wait for it for ever."
            }
            Self::SchedulingWhileAtomic => "Kernel code slept where it must not.",
            Self::BadPage => {
                "The kernel's account of a page of memory is wrong: freed twice, or overwritten."
            }
            Self::SlabCorruption => {
                "Memory of an object was overwritten, often after it was freed."
            }
            Self::ListCorruption => {
                "A list's links do not fit: an element was freed or added twice."
            }
            Self::Refcount => "An object was given back more often than it was taken.",
            Self::Usercopy => {
                "The kernel was about to copy more than one object to or from a program."
            }
            Self::Fortify => "The kernel was about to copy more than fits.",
            Self::Watchdog => "The machine's watchdog was not served in time.",
            Self::ModuleLoad => "A kernel module does not fit this kernel, and was not loaded.",
            Self::BpfVerifier => {
                "The kernel refused a BPF program: it cannot prove that the program is safe."
            }
            Self::ConntrackFull => {
                "The table of connections is full: packets of new ones are dropped."
            }
            Self::NetdevWatchdog => "A network device has not sent for long what it was given.",
            Self::UnregisterNetdevice => "A network device is to go, and something still holds it.",
        }
    }

    /// What to do first.
    pub fn advice(self) -> &'static str {
        match self {
            Self::SysrqCrash => {
                "Nothing, if it was meant; else find out who may write to /proc/sysrq-trigger."
            }
            Self::InitExited => {
                "Read what PID 1 said last; in a VM or container host look for a broken image."
            }
            Self::MachineCheck | Self::HardwareError | Self::SError | Self::ExternalAbort => {
                "Take the node out of service, and have its hardware looked at; read the firmware's event log."
            }
            Self::UnknownNmi => {
                "Read the firmware's event log; look for a BMC or hypervisor that sends NMIs."
            }
            Self::OomKill | Self::OomPanic => {
                "Give pods memory limits and the kubelet enough in reserve; look at who grew (kubectl top)."
            }
            Self::CgroupOomKill => "Raise the container's memory limit, or find out why it grew.",
            Self::HungTask => "Look at what it waits for: storage and network filesystems first.",
            Self::SoftLockup | Self::HardLockup | Self::RcuStall | Self::WorkqueueLockup => {
                "In a VM look first whether the host let it run (steal); else for a known bug of the function."
            }
            Self::ConntrackFull => {
                "Raise net.netfilter.nf_conntrack_max, or find who opens so many connections (conntrack -L)."
            }
            Self::NetdevWatchdog => {
                "Update driver and firmware of the device; look for errors of its link."
            }
            Self::UnregisterNetdevice => {
                "Harmless if it ends; else it is a leak in the kernel: look for a known bug."
            }
            Self::ModuleLoad => {
                "Install the module that was built for this kernel, and load it again."
            }
            Self::BpfVerifier => {
                "Use a version of the program that supports this kernel, or the kernel before."
            }
            Self::Watchdog => {
                "Look at what the machine did in the minute before: load, I/O, lockups."
            }
            Self::Kcsan | Self::Lockdep | Self::Ubsan | Self::MemoryLeak => {
                "Report it; it kills nobody now, and says where something will."
            }
            _ => {
                "Look whether it is a known bug (lastgasp bugs explain), and whether a newer kernel has its fix."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_in_one_sentence() {
        for kind in Kind::ALL {
            for text in [kind.meaning(), kind.advice()] {
                assert!(text.ends_with('.') && text.len() < 130, "{kind:?}: {text}");
            }
        }
    }
}
