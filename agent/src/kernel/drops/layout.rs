//! What the running kernel says of its packets, as globals of the eBPF object.

use agent_core::drops::Reasons;

use crate::kernel::btf::{Argument, Btf};

/// Globals that are the offset of a member. What is needed is there in all kernels from 5.10
/// on; one that is not is named, and nothing is attached.
const NEEDED: &[(&str, &str, &str)] = &[
    ("SKB_LEN", "sk_buff", "len"),
    ("SKB_DATA_LEN", "sk_buff", "data_len"),
    ("SKB_PROTOCOL", "sk_buff", "protocol"),
    ("SKB_HEAD", "sk_buff", "head"),
    ("SKB_DATA", "sk_buff", "data"),
    ("SKB_TAIL", "sk_buff", "tail"),
    ("SKB_END", "sk_buff", "end"),
    ("SKB_NETWORK_HEADER", "sk_buff", "network_header"),
    ("SKB_DEVICE", "sk_buff", "dev"),
    ("SKB_SOCKET", "sk_buff", "sk"),
    ("SKB_ARRIVED_BY", "sk_buff", "skb_iif"),
    ("SHARED_SIZE", "skb_shared_info", "gso_size"),
    ("DEVICE_NAME", "net_device", "name"),
    ("DEVICE_INDEX", "net_device", "ifindex"),
    ("DEVICE_NET", "net_device", "nd_net"),
];

/// The same of what a sample may lack.
const WELCOME: &[(&str, &str, &str)] = &[
    ("SKB_MARK", "sk_buff", "mark"),
    ("SKB_HASH", "sk_buff", "hash"),
    ("SKB_QUEUE", "sk_buff", "queue_mapping"),
    ("SKB_VLAN", "sk_buff", "vlan_tci"),
];

/// Enumerations of subsystems, by what their names begin with, and the module that has them
/// if the kernel itself has not (include/net/dropreason.h lists the subsystems).
const SUBSYSTEMS: [(&str, &str); 2] = [("RX_DROP_U_", "mac80211"), ("OVS_DROP_", "openvswitch")];

/// What the kernel calls its reasons, with those of the subsystems that are there.
pub(super) fn reasons(btf: &Btf) -> Reasons {
    let mut all = btf.enumeration("skb_drop_reason");
    let has_subsystems = !btf.enumeration("skb_drop_reason_subsys").is_empty();
    if has_subsystems {
        for (prefix, module) in SUBSYSTEMS {
            let mut found = btf.enumerations_with(prefix);
            if found.is_empty()
                && let Ok(module) = Btf::of_module(module, btf)
            {
                found = module.enumerations_with(prefix);
            }
            all.extend(
                found
                    .into_iter()
                    .filter(|(name, _)| name.starts_with(prefix)),
            );
        }
    }
    Reasons::of(all)
}

/// Where everything lies; else what is missing.
pub(super) fn globals(btf: &Btf) -> Result<Vec<(&'static str, u64)>, String> {
    let mut globals = Vec::new();
    for (name, of, member) in NEEDED {
        let offset = btf.offset(of, member);
        let offset = offset.ok_or_else(|| format!("struct {of} has no {member}"))?;
        globals.push((*name, offset));
    }
    let within = |of, member, inner, name| Some(btf.offset(of, member)? + btf.offset(inner, name)?);
    let net = within("sock", "__sk_common", "sock_common", "skc_net");
    let number = within("net", "ns", "ns_common", "inum");
    globals.push(("SOCKET_NET", net.ok_or("struct sock has no skc_net")?));
    let family = within("sock", "__sk_common", "sock_common", "skc_family");
    let protocol = family.and_then(|_| btf.offset("sock", "sk_protocol"));
    globals.push(("SOCKET_FAMILY", family.unwrap_or(0)));
    globals.push(("SOCKET_PROTOCOL", protocol.unwrap_or(0)));
    globals.push(("NET_NUMBER", number.ok_or("struct net has no inum")?));
    for (name, of, member) in WELCOME {
        globals.push((*name, btf.offset(of, member).unwrap_or(0)));
    }
    globals.push(("ARGUMENTS", arguments(btf)?));
    Ok(globals)
}

/// How many arguments the tracepoint has; they must be those that the program reads.
fn arguments(btf: &Btf) -> Result<u64, String> {
    let known = [
        Argument::Pointer(Some("sk_buff".to_owned())),
        Argument::Pointer(None),
        Argument::Enum("skb_drop_reason".to_owned()),
        Argument::Pointer(Some("sock".to_owned())),
    ];
    let found = btf
        .tracepoint("kfree_skb")
        .ok_or("there is no tracepoint kfree_skb")?;
    let fits =
        (2..=known.len()).contains(&found.len()) && found.iter().zip(&known).all(|(a, b)| a == b);
    if fits {
        Ok(found.len() as u64)
    } else {
        Err(format!(
            "the tracepoint kfree_skb has other arguments: {found:?}"
        ))
    }
}

/// Where the record of the classic tracepoint has what.
pub(super) fn record(btf: &Btf) -> Option<[(&'static str, u64); 4]> {
    let offset = |member| btf.offset("trace_event_raw_kfree_skb", member);
    Some([
        ("RECORD_PACKET", offset("skbaddr")?),
        ("RECORD_LOCATION", offset("location")?),
        ("RECORD_REASON", offset("reason").unwrap_or(0)),
        ("RECORD_SOCKET", offset("rx_sk").unwrap_or(0)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_tells_all_that_is_needed() {
        let Ok(btf) = Btf::of_running_kernel() else {
            println!("SKIPPED: this kernel has no BTF");
            return;
        };
        let globals = globals(&btf).expect("its packets are as known");
        assert!(globals.iter().all(|(name, _)| !name.is_empty()));
        let reasons = reasons(&btf);
        if reasons.are_given() {
            let number = reasons.number("NO_SOCKET").expect("there since 5.17");
            assert_eq!(reasons.name(number), "NO_SOCKET");
        }
    }
}
