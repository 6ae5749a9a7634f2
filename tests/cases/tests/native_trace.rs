//! Packets that are lost on purpose: each is counted, once, where it was lost and why.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use cases::native::{Counted, Net, Packet, Side, Trace};
use harness::tool::{self, NFT, Skip};
use socket2::{Domain, Socket, Type};

/// Packets of each kind.
const MANY: u64 = 300;

/// Ports at the server: nobody listens, a rule is in the way, nobody reads.
const CLOSED: u16 = 9;
const FORBIDDEN: u16 = 7;
const FULL: u16 = 4000;

fn run(body: impl FnOnce() -> Result<()>) {
    match body() {
        Ok(()) => {}
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(reason) => println!("SKIPPED: {reason}"),
            None => panic!("{error:?}"),
        },
    }
}

/// Packets on their way from the client, and what is to come of them.
struct Loss {
    packet: Packet,
    at: Side,
    reason: &'static str,
    device: &'static str,
}

fn losses() -> Vec<Loss> {
    let packet = |to, port| Packet::to(Net::CLIENT, to, port);
    let to_server = |port| packet(Net::SERVER, port);
    vec![
        Loss {
            packet: to_server(CLOSED),
            at: Side::Server,
            reason: "NO_SOCKET",
            device: "eth0",
        },
        Loss {
            packet: to_server(FORBIDDEN),
            at: Side::Server,
            reason: "NETFILTER_DROP",
            device: "eth0",
        },
        Loss {
            packet: Packet {
                is_damaged: true,
                ..to_server(CLOSED)
            },
            at: Side::Server,
            reason: "UDP_CSUM",
            device: "eth0",
        },
        Loss {
            packet: Packet {
                ttl: 1,
                ..to_server(CLOSED)
            },
            at: Side::Router,
            reason: "IP_INHDR",
            device: "down0",
        },
        Loss {
            packet: Packet {
                is_whole: true,
                payload: vec![0; Net::SMALL_MTU],
                ..to_server(CLOSED)
            },
            at: Side::Router,
            reason: "PKT_TOO_BIG",
            device: "down0",
        },
        Loss {
            packet: packet(Net::NOWHERE, CLOSED),
            at: Side::Router,
            reason: "IP_INNOROUTES",
            device: "down0",
        },
    ]
}

fn forbid(net: &Net) -> Result<()> {
    let program = NFT.find()?;
    let rules = format!(
        "table inet lastgasp {{
            chain in {{
                type filter hook input priority 0
                udp dport {FORBIDDEN} drop
            }}
        }}"
    );
    let mut nft = net.command(Side::Server, &program.to_string_lossy())?;
    tool::run(nft.arg(rules)).map_err(|error| {
        // Kernels without nftables say so.
        if error.to_string().contains("not supported") {
            return Skip(format!("{error:#}")).into();
        }
        error
    })?;
    Ok(())
}

/// A socket at the server that nobody reads until the end.
fn small_socket() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, FULL).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// How many packets have waited in it.
fn waited(socket: &UdpSocket) -> u64 {
    let mut count = 0;
    while socket.recv(&mut [0; 64]).is_ok() {
        count += 1;
    }
    count
}

/// Loses all of it, and looks whether that, and nothing else, was counted.
fn loses_all(form: &str, how: &str) -> Result<()> {
    let net = Net::new()?;
    forbid(&net)?;
    let trace = Trace::start(&["--attach", form])?;
    assert_eq!(trace.how, how);
    let losses = losses();
    for loss in &losses {
        net.inside(Side::Client, || loss.packet.send(MANY))?;
    }
    let socket = net.inside(Side::Server, small_socket)?;
    let full = Packet::to(Net::CLIENT, Net::SERVER, FULL);
    net.inside(Side::Client, || full.send(MANY))?;
    let waited = waited(&socket);
    ensure!(waited > 0 && waited < MANY, "{waited} of {MANY} had room");
    let counted = trace.finish()?;
    for side in [Side::Client, Side::Router, Side::Server] {
        let found = counted.inside(net.number(side)?);
        let here = losses.iter().filter(|loss| loss.at == side);
        let count = |reason: &str, device: &str, n| {
            ((reason.to_owned(), device.to_owned(), "udp".to_owned()), n)
        };
        let mut expected: std::collections::BTreeMap<_, _> = here
            .map(|loss| count(loss.reason, loss.device, MANY))
            .collect();
        if side == Side::Server {
            expected.extend([count("SOCKET_RCVBUFF", "eth0", MANY - waited)]);
        }
        assert_eq!(found, expected, "{side:?} by {form}");
    }
    for lost in ["no_room", "missed"] {
        assert_eq!(counted.end(lost), 0, "{lost}");
    }
    told(&net, &counted)
}

/// Details of the last packet of a kind are those of the packet.
fn told(net: &Net, counted: &Counted) -> Result<()> {
    let server = net.number(Side::Server)?;
    let found = counted
        .drops
        .iter()
        .find(|drops| drops["netns"] == server && drops["reason"] == "NO_SOCKET");
    let drops = found.context("was counted")?;
    assert_eq!(drops["class"], "dropped");
    assert_eq!(
        drops["netns_name"].as_str(),
        Some(net.name(Side::Server).as_str())
    );
    let last = &drops["last"];
    assert_eq!(last["flow"]["source"], Net::CLIENT.to_string());
    assert_eq!(last["flow"]["destination"], Net::SERVER.to_string());
    assert_eq!(last["flow"]["destination_port"], CLOSED);
    let bytes = last["bytes"].as_str().context("has bytes")?;
    assert!(
        bytes.ends_with("6c6f7374"),
        "ends with its payload: {bytes}"
    );
    let function = drops["function"].as_str().context("has a place")?;
    assert!(
        function.starts_with("__udp4_lib_rcv+") || function.starts_with("0x"),
        "{function}"
    );
    let reasons = counted.end["reasons"].as_array().context("has reasons")?;
    let no_socket = reasons
        .iter()
        .find(|reason| reason["reason"] == "NO_SOCKET");
    assert!(no_socket.context("is summed up")?["advice"]["next"].is_string());
    Ok(())
}

#[test]
fn every_loss_is_counted_where_it_happens_by_typed_arguments() {
    run(|| loses_all("btf", "tp_btf"));
}

#[test]
fn every_loss_is_counted_where_it_happens_by_raw_arguments() {
    run(|| loses_all("raw", "raw_tp"));
}

#[test]
fn every_loss_is_counted_where_it_happens_by_the_record() {
    run(|| loses_all("tracepoint", "tracepoint"));
}

#[test]
fn a_filter_lets_through_what_it_names_and_nothing_else() {
    run(|| {
        let net = Net::new()?;
        forbid(&net)?;
        let server = net.number(Side::Server)?.to_string();
        let router = net.name(Side::Router);
        for (flags, expected) in [
            (&["--netns", &server][..], 3 * MANY),
            (&["--netns", &router], 3 * MANY),
            (&["--netns", &server, "--port", "7"], MANY),
            (&["--netns", &server, "--port", "40000"], 3 * MANY),
            (&["--netns", &server, "--port", "10"], 0),
            (&["--netns", &server, "--protocol", "udp"], 3 * MANY),
            (&["--netns", &server, "--protocol", "ip"], 3 * MANY),
            (&["--netns", &server, "--protocol", "tcp"], 0),
            (&["--netns", &server, "--device", "eth0"], 3 * MANY),
            (&["--netns", &server, "--device", "eth"], 0),
            (
                &["--netns", &server, "--reason", "no_socket,UDP_CSUM"],
                2 * MANY,
            ),
            (
                &[
                    "--device", "down0", "--reason", "IP_INHDR", "--netns", &router,
                ],
                MANY,
            ),
        ] {
            let trace = Trace::start(flags)?;
            for loss in losses() {
                net.inside(Side::Client, || loss.packet.send(MANY))?;
            }
            let counted = trace.finish()?;
            let drops: u64 = counted
                .drops
                .iter()
                .filter_map(|drops| drops["packets"].as_u64())
                .sum();
            assert_eq!(drops, expected, "{flags:?}: {:?}", counted.drops);
        }
        Ok(())
    });
}

#[test]
fn without_room_for_a_kind_the_sum_is_still_exact() {
    run(|| {
        let net = Net::new()?;
        forbid(&net)?;
        let server = net.number(Side::Server)?.to_string();
        let trace = Trace::start(&["--keys", "2", "--netns", &server])?;
        for loss in losses() {
            net.inside(Side::Client, || loss.packet.send(MANY))?;
        }
        let counted = trace.finish()?;
        let reasons = counted.end["reasons"].as_array().context("has reasons")?;
        for loss in losses().iter().filter(|loss| loss.at == Side::Server) {
            let found = reasons
                .iter()
                .find(|reason| reason["reason"] == loss.reason);
            assert_eq!(
                found.context(loss.reason)?["packets"],
                MANY,
                "{}",
                counted.end
            );
        }
        assert_eq!(counted.end("no_room"), MANY, "{}", counted.end);
        Ok(())
    });
}

#[test]
fn of_a_tunnel_the_inner_packet_is_told_too() {
    run(|| {
        let net = Net::new()?;
        let inner = Packet::to(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), 53);
        let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0];
        payload.extend([&[2; 12][..], &[8, 0], &inner.bytes()].concat());
        let outer = Packet {
            payload,
            ..Packet::to(Net::CLIENT, Net::SERVER, 4789)
        };
        let trace = Trace::start(&["--port", "4789", "--stacks"])?;
        net.inside(Side::Client, || outer.send(MANY))?;
        let counted = trace.finish()?;
        let server = net.number(Side::Server)?;
        let found = counted.drops.iter().find(|drops| drops["netns"] == server);
        let last = &found.context("was counted")?["last"];
        let flow = &last["flow"]["inner"];
        assert_eq!(flow["source"], "192.0.2.1", "{last}");
        assert_eq!(flow["destination_port"], 53, "{last}");
        assert!(
            last["stack"]
                .as_array()
                .is_some_and(|stack| stack.len() > 3),
            "{last}"
        );
        Ok(())
    });
}

#[test]
fn what_was_asked_for_wrongly_is_said_with_what_there_is() {
    run(|| {
        for (flags, said) in [
            (&["--reason", "NO_SOKET"][..], "has no reason"),
            (&["--netns", "no-such-name"], "no network namespace"),
        ] {
            let error = match Trace::start(flags) {
                Ok(_) => panic!("{flags:?} was taken"),
                Err(error) if error.downcast_ref::<Skip>().is_some() => return Err(error),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(said), "{error}");
        }
        Ok(())
    });
}
