//! What a reason means, what it usually comes from in a cluster, and what to look at next.
//! Names are the kernel's (include/net/dropreason-core.h); one that is not here is shown
//! without advice.

use serde::Serialize;

/// What is known of a reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Advice {
    /// What happened.
    pub means: &'static str,
    /// What it usually comes from.
    pub causes: &'static str,
    /// What to run next, where the packet was dropped.
    pub next: &'static str,
}

/// What is known of the reason of this name.
pub fn advice(reason: &str) -> Option<&'static Advice> {
    let found = TABLE.iter().find(|(names, _)| names.contains(&reason));
    found.map(|(_, advice)| advice)
}

const fn row(means: &'static str, causes: &'static str, next: &'static str) -> Advice {
    Advice {
        means,
        causes,
        next,
    }
}

const TABLE: &[(&[&str], Advice)] = &[
    (
        &["NO_SOCKET"],
        row(
            "nobody listens on that port",
            "a process that is down or listens on 127.0.0.1 only, a Service whose targetPort is wrong, answers to a connection that is gone",
            "ss -lntup",
        ),
    ),
    (
        &["SOCKET_RCVBUFF", "PROTO_MEM"],
        row(
            "the socket's receive buffer is full",
            "a reader that is too slow or short of CPU (throttled by its limit), a buffer too small for bursts",
            "ss -uam (look at d and rb); sysctl net.core.rmem_max net.ipv4.udp_mem net.ipv4.tcp_mem",
        ),
    ),
    (
        &["SOCKET_BACKLOG"],
        row(
            "more came for a socket than it takes while its owner is at work in it",
            "a process that is short of CPU, or one connection that carries very much",
            "nstat -az TcpExtTCPBacklogDrop",
        ),
    ),
    (
        &["SOCKET_CLOSE", "UNIX_DISCONNECT"],
        row(
            "the socket was closed with data that nobody had read",
            "processes that end, and sockets within the machine (unix, netlink), which have no device; mostly harmless",
            "ss -xtanp",
        ),
    ),
    (
        &["SOCKET_FILTER"],
        row(
            "a filter on the socket did not want it",
            "packet captures and DHCP clients, which filter on purpose; mostly harmless",
            "ss -0bp",
        ),
    ),
    (
        &["NETFILTER_DROP"],
        row(
            "a rule of iptables or nftables drops it",
            "a NetworkPolicy, a Service without endpoints, a firewall of the node, conntrack INVALID",
            "nft list ruleset; conntrack -S",
        ),
    ),
    (
        &["BPF_CGROUP_EGRESS", "TC_INGRESS", "TC_EGRESS", "XDP"],
        row(
            "an eBPF program or a tc filter drops it",
            "a network plugin that enforces a NetworkPolicy; an old program that was left attached",
            "bpftool net; cilium monitor --type drop",
        ),
    ),
    (
        &["IP_OUTNOROUTES", "IP_INNOROUTES", "IP_LOCAL_SOURCE"],
        row(
            "there is no route to where it wants to go",
            "a network plugin whose agent is down, a node that has just joined or gone, a blackhole route for pod addresses that nobody has",
            "ip route get ADDRESS; ip route show table all",
        ),
    ),
    (
        &["IP_RPFILTER"],
        row(
            "the answer to it would leave by another device",
            "asymmetric routes, several uplinks, rp_filter=1 on the devices of pods",
            "sysctl -a -r 'conf.*rp_filter'",
        ),
    ),
    (
        &["IP_INHDR"],
        row(
            "its IP header is wrong, or it has made too many hops",
            "a routing loop (TTL expired), traceroute, a broken sender",
            "nstat -az IpInHdrErrors; traceroute -n ADDRESS",
        ),
    ),
    (
        &["IP_CSUM", "UDP_CSUM", "TCP_CSUM", "ICMP_CSUM", "SKB_CSUM"],
        row(
            "its checksum is wrong",
            "checksum offload of a tunnel or a virtual device that does not work, faulty hardware",
            "ethtool -k DEVICE; nstat -az | grep -i csum",
        ),
    ),
    (
        &["OTHERHOST"],
        row(
            "it was for another machine's MAC address",
            "promiscuous devices, bridges and switches that flood; mostly harmless",
            "ip -s link show DEVICE; bridge fdb show",
        ),
    ),
    (
        &[
            "UNICAST_IN_L2_MULTICAST",
            "INVALID_PROTO",
            "UNHANDLED_PROTO",
        ],
        row(
            "nothing in this kernel takes that protocol there",
            "LLDP, spanning tree and the like on the wire, IPv6 where it is off; mostly harmless",
            "tcpdump -eni DEVICE -c 10",
        ),
    ),
    (
        &["IPV6DISABLED"],
        row(
            "IPv6 is switched off there",
            "a sender that still has an IPv6 address of it",
            "sysctl net.ipv6.conf.all.disable_ipv6",
        ),
    ),
    (
        &["PKT_TOO_BIG"],
        row(
            "it is larger than the MTU and must not be cut",
            "a tunnel (VXLAN, WireGuard) whose overhead the pods' MTU does not allow for, ICMP that is filtered",
            "ip link show; ping -M do -s 1400 ADDRESS",
        ),
    ),
    (
        &[
            "NEIGH_FAILED",
            "NEIGH_QUEUEFULL",
            "NEIGH_CREATEFAIL",
            "NEIGH_DEAD",
        ],
        row(
            "nobody answers who has that address",
            "a pod or node that is gone but still addressed, too many neighbours for the table",
            "ip neigh; sysctl -r net.ipv4.neigh.default.gc_thresh",
        ),
    ),
    (
        &[
            "QDISC_DROP",
            "QDISC_OVERLIMIT",
            "QDISC_CONGESTED",
            "FQ_BAND_LIMIT",
            "FQ_FLOW_LIMIT",
        ],
        row(
            "the queue of the device is full, or its discipline drops",
            "a bandwidth limit of the pod, an uplink that is too slow",
            "tc -s qdisc show dev DEVICE",
        ),
    ),
    (
        &["CPU_BACKLOG"],
        row(
            "a CPU cannot keep up with what arrives",
            "all interrupts on one CPU, too small a net.core.netdev_max_backlog",
            "cat /proc/net/softnet_stat",
        ),
    ),
    (
        &["FULL_RING", "TAP_TXFILTER", "TAP_FILTER"],
        row(
            "a virtual device has no room, or does not want it",
            "a virtual machine or a VPN that reads too slowly",
            "ip -s -s link show DEVICE",
        ),
    ),
    (
        &["DEV_READY", "QUEUE_PURGE"],
        row(
            "its device is down, or was taken away",
            "pods that start or end; an uplink without a cable",
            "ip -d link show",
        ),
    ),
    (
        &["NOMEM"],
        row(
            "the kernel had no memory for it",
            "a node that is out of memory; DMA or atomic reserves too small",
            "dmesg | grep -i 'page allocation'; sysctl vm.min_free_kbytes",
        ),
    ),
    (
        &["SKB_GSO_SEG", "DEV_HDR", "HDR_TRUNC", "PKT_TOO_SMALL"],
        row(
            "it is broken: too short, or cannot be taken apart",
            "a driver or an eBPF program that changes packets wrongly; the same packets have stopped kernels (lastgasp bugs list)",
            "ethtool -k DEVICE",
        ),
    ),
    (
        &["FRAG_REASM_TIMEOUT", "FRAG_TOO_FAR", "DUP_FRAG"],
        row(
            "not all of its fragments came",
            "loss on the way, a firewall that drops fragments, an MTU that is too small for a tunnel",
            "nstat -az | grep -i reasm",
        ),
    ),
    (
        &[
            "TCP_OVERWINDOW",
            "TCP_INVALID_SEQUENCE",
            "TCP_INVALID_ACK_SEQUENCE",
            "TCP_ACK_UNSENT_DATA",
            "TCP_RFC7323_PAWS",
            "TCP_TOO_OLD_ACK",
        ],
        row(
            "it does not fit into the connection",
            "NAT that gives an address and port to two connections, a middlebox, an answer that comes much too late",
            "conntrack -S (insert_failed, invalid); ss -ti",
        ),
    ),
    (
        &[
            "TCP_OLD_DATA",
            "TCP_OLD_SEQUENCE",
            "TCP_OLD_ACK",
            "TCP_DSACK",
            "TCP_OFOMERGE",
        ],
        row(
            "it had arrived before",
            "data that was sent twice: loss or delay on the way",
            "nstat -az TcpRetransSegs",
        ),
    ),
    (
        &["TCP_ZEROWINDOW", "TCP_OFO_QUEUE_PRUNE", "TCP_OFO_DROP"],
        row(
            "the receiver has no room for more data of the connection",
            "a process that does not read, a memory limit that TCP buffers count against",
            "ss -tmi",
        ),
    ),
    (
        &[
            "TCP_FLAGS",
            "TCP_CLOSE",
            "TCP_FASTOPEN",
            "TCP_INVALID_SYN",
            "TCP_RESET",
            "TCP_INVALID_END_SEQUENCE",
            "TCP_ABORT_ON_DATA",
            "TCP_ABORT_ON_LINGER",
        ],
        row(
            "the connection was ending, or never was",
            "connections that are closed with data under way, port scans, load balancers' checks",
            "ss -tan state all | sort | uniq -c",
        ),
    ),
    (
        &["LISTEN_OVERFLOW", "TCP_LISTEN_OVERFLOW", "TCP_REQQFULLDROP"],
        row(
            "the queue of new connections is full",
            "a server that does not accept in time, a small backlog",
            "ss -lnt (Recv-Q against Send-Q); sysctl net.core.somaxconn",
        ),
    ),
    (
        &["XFRM_POLICY"],
        row(
            "a policy of IPsec does not allow it",
            "encryption between nodes whose keys or policies differ",
            "ip xfrm policy; nstat -az | grep Xfrm",
        ),
    ),
    (
        &[
            "VXLAN_INVALID_HDR",
            "VXLAN_VNI_NOT_FOUND",
            "VXLAN_ENTRY_EXISTS",
            "VXLAN_NO_REMOTE",
            "IP_TUNNEL_ECN",
            "TUNNEL_TXINFO",
        ],
        row(
            "a tunnel cannot take it, or does not know where to",
            "two overlays on one port, a node that the network plugin has not learnt yet",
            "bridge fdb show dev DEVICE; ip -d link show type vxlan",
        ),
    ),
    (
        &["NOT_SPECIFIED"],
        row(
            "that place in the kernel gives no reason",
            "how packets normally end there, as often as a drop: the function tells",
            "lastgasp trace drops --reason NOT_SPECIFIED --stacks",
        ),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_says_something_and_every_reason_has_one() {
        let mut seen = BTreeSet::new();
        for (names, advice) in TABLE {
            for name in *names {
                let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
                assert!(name.bytes().all(plain), "{name}");
                assert!(seen.insert(name), "{name} is there twice");
                assert_eq!(super::advice(name), Some(advice));
            }
            for text in [advice.means, advice.causes, advice.next] {
                assert!(text.len() > 5 && !text.ends_with('.'), "{text}");
            }
        }
        assert_eq!(super::advice("no_such_reason"), None);
    }
}
