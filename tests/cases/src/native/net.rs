//! Three namespaces in a row: a client, a router, a server.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};
use harness::tool::{self, IP, Skip};
use nix::sched::{CloneFlags, setns};

/// One of the namespaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Sends.
    Client,
    /// Forwards; knows no other networks.
    Router,
    /// Receives; forwards nothing.
    Server,
}

/// The namespaces; dropping it deletes them.
#[derive(Debug)]
pub struct Net {
    prefix: String,
}

impl Net {
    /// The client's address.
    pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
    /// The server's address.
    pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
    /// An address to which nobody but the client has a route.
    pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// The largest packet between router and server.
    pub const SMALL_MTU: usize = 1000;

    /// Makes them; a [`Skip`] if that is not for this user.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::Uid::effective().is_root() {
            return Err(Skip("network namespaces are made by root alone".to_owned()).into());
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            prefix: format!("lastgasp-{}-{number}", std::process::id()),
        };
        for side in [Side::Client, Side::Router, Side::Server] {
            tool::run(IP.command()?.args(["netns", "add", &net.name(side)]))
                .map_err(|error| Skip(format!("no network namespace can be made: {error:#}")))?;
            net.ip(side, "link set lo up")?;
            // It speaks by itself, and some of that is dropped.
            let ipv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
            net.inside(side, || {
                // A kernel without IPv6 has no file to switch it off.
                let _ = fs::write(ipv6, "1");
                Ok(())
            })?;
        }
        let [router, server] = [Side::Router, Side::Server].map(|side| net.name(side));
        net.ip(
            Side::Client,
            &format!("link add up0 mtu 1500 type veth peer name down0 netns {router}"),
        )?;
        net.ip(
            Side::Router,
            &format!("link add down1 type veth peer name eth0 netns {server}"),
        )?;
        for (side, device, address) in [
            (Side::Client, "up0", "10.99.1.1/24"),
            (Side::Router, "down0", "10.99.1.2/24"),
            (Side::Router, "down1", "10.99.2.1/24"),
            (Side::Server, "eth0", "10.99.2.2/24"),
        ] {
            net.ip(side, &format!("address add {address} dev {device}"))?;
            net.ip(side, &format!("link set {device} up"))?;
        }
        net.ip(
            Side::Router,
            &format!("link set down1 mtu {}", Self::SMALL_MTU),
        )?;
        net.ip(Side::Client, "route add default via 10.99.1.2")?;
        net.ip(Side::Server, "route add 10.99.1.0/24 via 10.99.2.1")?;
        net.inside(Side::Router, || {
            Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
        })?;
        Ok(net)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self, side: Side) -> String {
        format!("{}-{side:?}", self.prefix).to_lowercase()
    }

    fn path(&self, side: Side) -> String {
        format!("/run/netns/{}", self.name(side))
    }

    /// Its number.
    pub fn number(&self, side: Side) -> Result<u64> {
        Ok(fs::metadata(self.path(side))?.ino())
    }

    fn ip(&self, side: Side, words: &str) -> Result<()> {
        let name = self.name(side);
        tool::run(IP.command()?.args(["-n", &name]).args(words.split(' '))).map(drop)
    }

    /// A command that runs in it.
    pub fn command(&self, side: Side, program: &str) -> Result<Command> {
        let mut command = IP.command()?;
        command.args(["netns", "exec", &self.name(side), program]);
        Ok(command)
    }

    /// Does something in it: sockets that are made there stay there.
    pub fn inside<T: Send>(
        &self,
        side: Side,
        body: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let file = File::open(self.path(side)).context("the namespace is gone")?;
        // A namespace is a thread's; this one has no other use for its own.
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                body()
            });
            thread
                .join()
                .map_err(|_| anyhow!("panicked in the namespace"))?
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in [Side::Client, Side::Router, Side::Server] {
            // What cannot be deleted was never made.
            if let Ok(mut ip) = IP.command() {
                let _ = tool::run(ip.args(["netns", "delete", &self.name(side)]));
            }
        }
    }
}
