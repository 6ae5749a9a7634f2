//! What may be special about a node when it dies, and what of its death must get out
//! all the same. A new one is an entry in `ALL`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::vm::{Machine, Vm};

use super::next_boot::{Keeper, NextBoot};
use super::ways::{self, Demand, Way};
use super::{drops, stories, traffic};
use crate::node;

/// One of them.
#[derive(Debug)]
pub struct Scene {
    /// What people call it.
    pub name: &'static str,
    /// What is special, and what is expected of it.
    pub about: &'static str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// What happens there.
    pub plot: Plot,
}

/// What happens in a scene.
#[derive(Debug)]
pub enum Plot {
    /// The kernel dies.
    Death(Death),
    /// Something else happens, told by a function, before a real annotator; with the
    /// way in which the kernel dies in it, if it does.
    Story(fn(&mut stories::Stage) -> Result<()>, Option<&'static str>),
    /// The kernel dies, and the next boot says why.
    NextBoot(NextBoot),
}

/// A death under special circumstances.
#[derive(Debug)]
pub struct Death {
    /// Network devices that lead nowhere, found before the real one.
    pub decoys: u32,
    /// Told to the machine's PID 1 before the agent starts.
    pub before: &'static [&'static str],
    /// Flags of the agent.
    pub flags: &'static str,
    /// Done when the agent is ready.
    pub then: &'static [Act],
    /// How it dies.
    pub way: &'static str,
    /// The CPU that is told to.
    pub on_cpu: u32,
    /// What must get out.
    pub demand: Demand,
}

/// Something that is done to a machine.
#[derive(Debug)]
pub enum Act {
    /// PID 1 is told.
    Tell(&'static str),
    /// This CPU stands still from now on, by the crash module.
    Still(u32),
    /// From now on nobody answers ARP.
    Deafen,
    /// The network cable is pulled.
    Unplug,
    /// So many seconds pass.
    Pass(u64),
}

/// A way that needs the crash module and nothing else.
const WITH_MODULE: &str = "panic-hardirq";

/// Moves the machine's address from eth0 to the device `$D`.
macro_rules! move_address {
    ($device:literal, $make:literal) => {
        concat!(
            "sh PATH=/bin; bb=/bin/busybox; ",
            $make,
            "; $bb ip addr flush dev eth0; $bb ip addr add 10.0.2.15/24 dev ",
            $device,
            "; $bb ip link set ",
            $device,
            " up; $bb ip route add default via 10.0.2.2"
        )
    };
}

const fn plain() -> Death {
    Death {
        decoys: 0,
        before: &[],
        flags: "",
        then: &[],
        way: "null-softirq",
        on_cpu: 0,
        demand: Demand::Everything,
    }
}

/// Every scene.
pub static ALL: &[Scene] = &[
    Scene {
        name: "sender-dies",
        about: "one of the two CPUs that send is the one that dies: the other one sends",
        cpus: 4,
        plot: Plot::Death(Death {
            on_cpu: 3,
            ..plain()
        }),
    },
    Scene {
        name: "nic-irq-dies",
        about: "the network device interrupts the CPU that dies, and no other: frames leave without it",
        cpus: 2,
        plot: Plot::Death(Death {
            then: &[Act::Tell(
                "sh for f in /proc/irq/[0-9]*/smp_affinity; do echo 1 > $f 2>/dev/null || true; done",
            )],
            ..plain()
        }),
    },
    Scene {
        name: "softirq-stopped",
        about: "the CPU that serves the network's soft interrupts stands still before another one dies",
        cpus: 4,
        plot: Plot::Death(Death {
            then: &[
                Act::Tell(
                    "sh for f in /proc/irq/[0-9]*/smp_affinity; do echo 2 > $f 2>/dev/null || true; done",
                ),
                Act::Still(1),
            ],
            way: "sysrq-c",
            on_cpu: 2,
            ..plain()
        }),
    },
    Scene {
        name: "hard-lockup-other",
        about: "a CPU is locked up with its interrupts off, the one that watches it panics, and \
                another one sends",
        cpus: 4,
        plot: Plot::Death(Death {
            way: "hard-lockup-panic",
            on_cpu: 2,
            ..plain()
        }),
    },
    Scene {
        name: "hard-lockup-sender",
        about: "one of the two CPUs that send is locked up, and the other one panics: nobody sends",
        cpus: 4,
        plot: Plot::Death(Death {
            way: "hard-lockup-panic",
            on_cpu: 0,
            demand: Demand::End,
            ..plain()
        }),
    },
    Scene {
        name: "queue-full",
        about: "programs send all the time as much as the device takes",
        cpus: 2,
        plot: Plot::Death(Death {
            then: &[Act::Tell("pour 10.0.2.2:9 2"), Act::Pass(1)],
            // What lies in the queue before it may be thrown away with it.
            demand: Demand::Word,
            ..plain()
        }),
    },
    Scene {
        name: "second-nic",
        about: "the way to the collector is by the second of two network devices",
        cpus: 2,
        plot: Plot::Death(Death {
            decoys: 1,
            before: &[move_address!("eth1", "true")],
            ..plain()
        }),
    },
    Scene {
        name: "vlan",
        about: "the uplink is a VLAN: frames carry its tag",
        cpus: 2,
        plot: Plot::Death(Death {
            before: &[
                "networks",
                move_address!("eth0.42", "$bb vconfig add eth0 42"),
            ],
            ..plain()
        }),
    },
    Scene {
        name: "bond",
        about: "the uplink is a bond: frames leave by its active port",
        cpus: 2,
        plot: Plot::Death(Death {
            before: &[
                "networks",
                move_address!(
                    "bond0",
                    "b=/sys/class/net/bond0; test -e $b || echo +bond0 > /sys/class/net/bonding_masters; \
                     echo active-backup > $b/bonding/mode; echo 100 > $b/bonding/miimon; \
                     $bb ip addr flush dev eth0; $bb ip link set eth0 down; $bb ip link set bond0 up; \
                     echo +eth0 > $b/bonding/slaves"
                ),
            ],
            ..plain()
        }),
    },
    Scene {
        name: "bridge",
        about: "the uplink is a bridge with the device in it",
        cpus: 2,
        plot: Plot::Death(Death {
            before: &[
                "networks",
                move_address!("br0", "$bb brctl addbr br0; $bb brctl addif br0 eth0"),
            ],
            ..plain()
        }),
    },
    Scene {
        name: "veth",
        about: "the uplink is one end of a veth whose other end is bridged to the device: what the \
                soft interrupt behind it has yet to pass on is not seen, so the last lines may be lost",
        cpus: 2,
        plot: Plot::Death(Death {
            before: &[
                "networks",
                move_address!(
                    "up0",
                    // The kernel calls the other end veth0.
                    "$bb ip link add up0 type veth; $bb brctl addbr br0; $bb brctl addif br0 eth0; \
                     $bb brctl addif br0 veth0; $bb ip link set veth0 up; $bb ip link set br0 up"
                ),
            ],
            way: "sysrq-c",
            demand: Demand::Word,
            ..plain()
        }),
    },
    Scene {
        name: "collector-away",
        about: "of two collectors one does not answer: the other one gets everything",
        cpus: 2,
        plot: Plot::Death(Death {
            flags: "--collector 10.0.2.66:9618",
            ..plain()
        }),
    },
    Scene {
        name: "arp-gone",
        about: "the next hop stopped answering ARP a while ago: frames go where it was",
        cpus: 2,
        plot: Plot::Death(Death {
            then: &[
                Act::Deafen,
                Act::Tell("sh /bin/busybox ip neigh flush dev eth0"),
                Act::Pass(15),
            ],
            ..plain()
        }),
    },
    Scene {
        name: "cable-pulled",
        about: "the network is gone before the kernel dies: nothing gets out, and nothing hangs",
        cpus: 2,
        plot: Plot::Death(Death {
            then: &[Act::Unplug],
            demand: Demand::End,
            ..plain()
        }),
    },
    Scene {
        name: "netconsole",
        about: "the agent has turned netconsole on: it tells the reason too, here of what is \
                survived, as kernels from 7 on send nothing of most panics",
        cpus: 2,
        plot: Plot::Death(Death {
            flags: "--netconsole auto",
            way: "oops-survived",
            ..plain()
        }),
    },
    Scene {
        name: "power-cut",
        about: "power goes; the next boot says that this one ended without a word",
        cpus: 2,
        plot: Plot::Story(stories::power_cut, None),
    },
    Scene {
        name: "disk-full",
        about: "power goes, and the disk was full: what was heard says that it died",
        cpus: 2,
        plot: Plot::Story(stories::disk_full, None),
    },
    Scene {
        name: "frozen-short",
        about: "the machine stands still for less than the silence limit: no death",
        cpus: 2,
        plot: Plot::Story(stories::frozen_short, None),
    },
    Scene {
        name: "frozen-long",
        about: "the machine stands still for longer than the silence limit: silent, no death",
        cpus: 2,
        plot: Plot::Story(stories::frozen_long, None),
    },
    Scene {
        name: "frozen-oops",
        about: "an oops, and the machine stands still for longer than the limit: it was survived",
        cpus: 2,
        plot: Plot::Story(stories::frozen_oops, Some("oops-survived")),
    },
    Scene {
        name: "uplink-flap",
        about: "the uplink goes for longer than the silence limit and comes back: no death",
        cpus: 2,
        plot: Plot::Story(stories::uplink_flap, None),
    },
    Scene {
        name: "merged-traffic",
        about: "packets that GRO merged are sent on and taken apart, thousands of them: none is foretold to kill the kernel",
        cpus: 2,
        plot: Plot::Story(traffic::merged, None),
    },
    Scene {
        name: "pod-traffic",
        about: "a pod sends to another one, by TCP, through VXLAN and by UDP in batches, over devices that take nothing apart: nothing is foretold",
        cpus: 2,
        plot: Plot::Story(traffic::between_pods, None),
    },
    Scene {
        name: "mitigated-traffic",
        about: "traffic kills the kernel; its next agent is advised to switch GRO and GSO off, and the same traffic kills no more, until that is undone",
        cpus: 2,
        plot: Plot::Story(traffic::mitigated, Some("segment-traffic")),
    },
    Scene {
        name: "dear-traffic",
        about: "looking at packets costs more than it may: the agent takes the probe away, and says so",
        cpus: 2,
        plot: Plot::Story(traffic::dear, None),
    },
    Scene {
        name: "dropped-packets",
        about: "packets to nobody and to a full socket: `trace drops` counts each, beside the agent, by each form of its program",
        cpus: 2,
        plot: Plot::Story(drops::lost, None),
    },
    Scene {
        name: "orderly-reboot",
        about: "somebody asks for it, the agent is told to stop, then the machine reboots: no death, and who asked is told",
        cpus: 2,
        plot: Plot::Story(stories::orderly_reboot, Some("reboot-f")),
    },
    Scene {
        name: "healthy",
        about: "two minutes of a machine that is busy and well: no death",
        cpus: 2,
        plot: Plot::Story(stories::healthy, None),
    },
    Scene {
        name: "agent-upgrade",
        about: "the agent is replaced, then killed and started again, in one boot: no death",
        cpus: 2,
        plot: Plot::Story(stories::agent_upgrade, None),
    },
    Scene {
        name: "ramoops",
        about: "no network: the next boot finds the log in RAM, says why, and deletes it then",
        cpus: 2,
        plot: Plot::NextBoot(NextBoot {
            way: "null-softirq",
            keeper: Keeper::Ramoops,
        }),
    },
    Scene {
        name: "erst",
        about: "no network: the next boot finds the log in the firmware's store of errors (ACPI \
                ERST), says why, and leaves it there",
        cpus: 2,
        plot: Plot::NextBoot(NextBoot {
            way: "sysrq-c",
            keeper: Keeper::Erst,
        }),
    },
    Scene {
        name: "efi",
        about: "no network: the next boot finds the log in variables of the EFI firmware, says \
                why, and deletes it then",
        cpus: 2,
        plot: Plot::NextBoot(NextBoot {
            way: "sysrq-c",
            keeper: Keeper::Efi,
        }),
    },
    Scene {
        name: "kdump",
        about: "a crash kernel saves the log, and the gasp goes out before it takes over",
        cpus: 2,
        plot: Plot::NextBoot(NextBoot {
            way: "null-process",
            keeper: Keeper::CrashKernel {
                after_notifiers: false,
            },
        }),
    },
    Scene {
        name: "kdump-notifiers",
        about: "a crash kernel that comes after the panic notifiers changes nothing of that",
        cpus: 2,
        plot: Plot::NextBoot(NextBoot {
            way: "sysrq-c",
            keeper: Keeper::CrashKernel {
                after_notifiers: true,
            },
        }),
    },
];

/// What must get out of a way to die with this many CPUs, or of a scene; nothing if
/// there is none of this name.
pub fn demand(name: &str, cpus: u32) -> Option<Demand> {
    match (ways::named(name), named(name)) {
        (Some(way), _) => Some(way.demand_on(cpus)),
        (
            None,
            Some(Scene {
                plot: Plot::Death(death),
                ..
            }),
        ) => Some(death.demand),
        // What the next boot says is another channel's.
        (
            None,
            Some(Scene {
                plot: Plot::NextBoot(_),
                ..
            }),
        ) => Some(Demand::End),
        // A story says itself what is wrong with it.
        (None, Some(_)) => Some(Demand::Everything),
        (None, None) => None,
    }
}

/// The names of all scenes.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|scene| scene.name)
}

/// The scene of this name.
pub fn named(name: &str) -> Option<&'static Scene> {
    ALL.iter().find(|scene| scene.name == name)
}

impl Scene {
    /// The ways that a machine must be able to die in for it.
    pub fn ways(&self) -> impl Iterator<Item = &'static str> {
        let (way, stands_still) = match &self.plot {
            Plot::Death(death) => {
                let is_still = |act: &Act| matches!(act, Act::Still(_));
                (Some(death.way), death.then.iter().any(is_still))
            }
            Plot::Story(_, way) => (*way, false),
            Plot::NextBoot(it) => (Some(it.way), false),
        };
        way.into_iter().chain(stands_still.then_some(WITH_MODULE))
    }

    /// Whether its agent has netconsole on, which must tell of the death then.
    pub fn has_netconsole(&self) -> bool {
        matches!(&self.plot, Plot::Death(death) if death.flags.contains("--netconsole auto"))
    }

    /// The CPU that is told to die.
    pub fn on_cpu(&self) -> u32 {
        match &self.plot {
            Plot::Death(death) => death.on_cpu,
            Plot::Story(..) | Plot::NextBoot(_) => 0,
        }
    }
}

impl Death {
    /// How the kernel dies.
    pub fn way(&self) -> Result<&'static Way> {
        ways::named(self.way).with_context(|| format!("no way {}", self.way))
    }

    /// The machine with all that is special about it, the agent ready.
    pub fn stage(&self, machine: &Machine) -> Result<Vm> {
        let mut machine = machine.clone();
        machine.decoys = self.decoys;
        let mut vm = Vm::boot(&machine)?;
        for command in self.before {
            vm.ask(command)?;
        }
        node::start_agent(&mut vm, self.flags)?;
        for act in self.then {
            act.on(&mut vm).with_context(|| format!("{act:?}"))?;
        }
        Ok(vm)
    }
}

impl Act {
    fn on(&self, vm: &mut Vm) -> Result<()> {
        match self {
            Self::Tell(command) => vm.ask(command).map(drop)?,
            Self::Still(cpu) => vm.ask(&format!("still {cpu}")).map(drop)?,
            Self::Deafen => vm.deafen(),
            Self::Unplug => vm.cable(false)?,
            // Nothing in the machine says that this much time went by unchanged.
            Self::Pass(seconds) => std::thread::sleep(Duration::from_secs(*seconds)),
        }
        Ok(())
    }
}
