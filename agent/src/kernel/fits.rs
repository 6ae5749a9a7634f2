//! What the running kernel has, and which ways to attach are for it. Asked
//! before anything is loaded, because the loader's own words for it are unclear.

use super::btf::Btf;
use super::role::{Candidate, How, Role, Thing};
use super::symbols::Symbols;

/// Globals of the eBPF object that are the offset of a member.
const OFFSETS: &[(&str, &str, &str)] = &[
    ("OOM_MEMCG", "oom_control", "memcg"),
    ("PRINTK_ASIDE", "printk_safe_seq_buf", "buffer"),
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_COMM", "task_struct", "comm"),
    ("TASK_LEADER", "task_struct", "group_leader"),
    ("TASK_PARENT", "task_struct", "real_parent"),
    ("TASK_CGROUPS", "task_struct", "cgroups"),
    ("TASK_THREAD_PID", "task_struct", "thread_pid"),
    ("TASK_MEMORY", "task_struct", "mm"),
    ("PID_LEVEL", "pid", "level"),
    ("MEMORY_ARG_START", "mm_struct", "arg_start"),
    ("MEMORY_ARG_END", "mm_struct", "arg_end"),
    ("CSS_SET_CGROUP", "css_set", "dfl_cgrp"),
    ("CGROUP_KERNFS", "cgroup", "kn"),
    ("KERNFS_NAME", "kernfs_node", "name"),
    ("SKB_LEN", "sk_buff", "len"),
    ("SKB_DATA_LEN", "sk_buff", "data_len"),
    ("SKB_PROTOCOL", "sk_buff", "protocol"),
    ("SKB_HEAD", "sk_buff", "head"),
    ("SKB_END", "sk_buff", "end"),
    ("SKB_DEVICE", "sk_buff", "dev"),
    ("SKB_SOCKET", "sk_buff", "sk"),
    ("SHARED_FRAGS", "skb_shared_info", "nr_frags"),
    ("SHARED_SIZE", "skb_shared_info", "gso_size"),
    ("SHARED_KIND", "skb_shared_info", "gso_type"),
    ("SHARED_LIST", "skb_shared_info", "frag_list"),
    ("DEVICE_NAME", "net_device", "name"),
    ("DEVICE_INDEX", "net_device", "ifindex"),
    ("DEVICE_NET", "net_device", "nd_net"),
    ("DEVICE_DRIVER", "device", "driver"),
    ("DEVICE_LINK", "net_device", "rtnl_link_ops"),
    ("LINK_KIND", "rtnl_link_ops", "kind"),
];

/// The running kernel, as far as it tells.
pub(super) struct Kernel {
    btf: Option<Btf>,
    symbols: Symbols,
}

/// A role, and the ways to try, each with whether the kernel allows it.
pub(super) struct Plan {
    pub(super) role: &'static Role,
    pub(super) ways: Vec<(&'static Candidate, Result<(), String>)>,
}

impl Kernel {
    pub(super) fn running() -> Self {
        let btf = Btf::of_running_kernel().ok();
        let symbols = btf.as_ref().map(Symbols::of_running_kernel);
        Self {
            symbols: symbols.unwrap_or_default(),
            btf,
        }
    }

    /// The globals of the eBPF object that are about the kernel; zero where it
    /// does not tell.
    pub(super) fn globals(&self) -> Vec<(&'static str, u64)> {
        let offset = |structure, member| self.offset(structure, member).unwrap_or(0);
        // Renamed when it became one that is read under RCU (6.15).
        let parent = match offset("kernfs_node", "__parent") {
            0 => offset("kernfs_node", "parent"),
            known => known,
        };
        let within = |structure, member, of, inner| {
            let outer = self.offset(structure, member)?;
            Some(outer + self.offset(of, inner)?)
        };
        let bit = |btf: &Btf| btf.bit_offset("sk_buff", "head_frag");
        let mut globals = vec![
            ("PER_CPU_OFFSETS", self.symbols.preempt.per_cpu_offsets),
            ("PREEMPT_COUNT", self.symbols.preempt.offset),
            ("PREEMPT_IN_TASK", self.preempt_in_task().unwrap_or(0)),
            ("HARDIRQ_SHIFT", self.hardirq_shift()),
            ("PRINTK_TEXT", self.symbols.printk_text),
            ("KERNFS_PARENT", parent),
            (
                "SKB_HEAD_FRAG",
                self.btf.as_ref().and_then(bit).unwrap_or(0),
            ),
            (
                "NET_NUMBER",
                within("net", "ns", "ns_common", "inum").unwrap_or(0),
            ),
            (
                "DEVICE_PARENT",
                within("net_device", "dev", "device", "parent").unwrap_or(0),
            ),
            (
                // One address, not a number that may be one, from 5.15 on.
                "SOCKET_CGROUP",
                within("sock", "sk_cgrp_data", "sock_cgroup_data", "cgroup").unwrap_or(0),
            ),
        ];
        let plain = OFFSETS
            .iter()
            .map(|(name, of, member)| (*name, offset(of, member)));
        globals.extend(plain);
        globals
    }

    fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.btf.as_ref()?.offset(structure, member)
    }

    /// Whether marks can tell their context.
    pub(super) fn knows_context(&self) -> bool {
        self.symbols.preempt.offset != 0 || self.preempt_in_task().is_some()
    }

    /// Where in the count the depth of hard interrupts begins; that of NMIs is behind it
    /// (`HARDIRQ_SHIFT`, include/linux/preempt.h). Kernels that count how often interrupts
    /// were disabled (include/linux/interrupt_rc.h) do so in eight bits before it.
    fn hardirq_shift(&self) -> u64 {
        let counts_disabled = |btf: &Btf| btf.has_variable("local_interrupt_disable_state");
        if self.btf.as_ref().is_some_and(counts_disabled) {
            24
        } else {
            16
        }
    }

    /// Where the count is in the task (`arch/arm64/include/asm/thread_info.h`).
    fn preempt_in_task(&self) -> Option<u64> {
        let btf = self.btf.as_ref()?;
        let count = btf.offset("thread_info", "preempt_count")?;
        Some(btf.offset("task_struct", "thread_info")? + count)
    }

    /// `None` for a role of other kernels.
    pub(super) fn plan(&self, role: &'static Role) -> Option<Plan> {
        let meant = |c: &&Candidate| c.meant_for.is_none_or(|thing| self.has(thing));
        let ways: Vec<_> = role
            .candidates
            .iter()
            .filter(meant)
            .map(|c| (c, self.fits(c)))
            .collect();
        (!ways.is_empty()).then_some(Plan { role, ways })
    }

    fn has(&self, thing: Thing) -> bool {
        match (thing, &self.btf) {
            (Thing::Struct(name), Some(btf)) => btf.has_struct(name),
            (Thing::Struct(_), None) => false,
            (Thing::Members(members), _) => members
                .iter()
                .all(|(structure, member)| self.offset(structure, member).is_some()),
            (Thing::PrintkText, _) => self.symbols.printk_text != 0,
        }
    }

    fn fits(&self, candidate: &Candidate) -> Result<(), String> {
        let Some(btf) = &self.btf else { return Ok(()) };
        if let Some((thing, why)) = candidate.only_with
            && !self.has(thing)
        {
            return Err(why.to_owned());
        }
        let expected = match candidate.how {
            How::Fentry => None,
            How::Fexit(parameters) | How::Kretprobe { parameters, .. } => Some(parameters),
            How::Kprobe | How::TpBtf | How::RawTp | How::Tracepoint(_) => return Ok(()),
        };
        match (btf.parameters(candidate.target), expected) {
            (None, _) => Err("this kernel has no such function".to_owned()),
            (Some(n), Some(expected)) if n != expected => {
                Err(format!("takes {n} parameters here, not {expected}"))
            }
            (Some(_), _) => Ok(()),
        }
    }
}
