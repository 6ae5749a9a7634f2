//! Features of network devices, by the kernel's ethtool netlink interface
//! (Documentation/networking/ethtool-netlink.rst): by name, each alone. The older
//! `ioctl` switches whole groups, which could not be undone exactly.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Device, Devices, Features};

/// Longest answer: four sets of some sixty features, each with its name.
const ANSWER_MAX: usize = 64 * 1024;
/// An answer comes while it is asked for; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers to one question.
const ANSWERS_MAX: usize = 8;

/// Bytes of `nlmsghdr`, of that with `genlmsghdr`, and of an attribute's header.
const HEADER: usize = 16;
const GENERIC: usize = HEADER + 4;
const ATTRIBUTE: usize = 4;

/// Constants of include/uapi/linux/genetlink.h and ethtool_netlink.h.
mod uapi {
    pub(super) const CTRL: u16 = 0x10;
    pub(super) const GETFAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const FEATURES_SET: u8 = 12;
    pub(super) const HEADER: u16 = 1;
    pub(super) const HW: u16 = 2;
    pub(super) const WANTED: u16 = 3;
    pub(super) const ACTIVE: u16 = 4;
    pub(super) const NOCHANGE: u16 = 5;
    pub(super) const DEV_INDEX: u16 = 1;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const OMIT_REPLY: u32 = 2;
    pub(super) const NOMASK: u16 = 1;
    pub(super) const BITS: u16 = 3;
    pub(super) const BIT: u16 = 1;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
    pub(super) const NESTED: u16 = 0x8000;
    /// `NLA_TYPE_MASK`.
    pub(super) const TYPE: u16 = 0x3fff;
}

/// The kernel's devices, as this network namespace has them.
#[derive(Debug)]
pub struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Ethtool {
    /// Finds the interface; [`io::ErrorKind::NotFound`] where the kernel is built without
    /// it (`CONFIG_ETHTOOL_NETLINK`).
    pub fn open() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_GENERIC);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut ethtool = Self {
            socket,
            family: uapi::CTRL,
            sequence: 0,
        };
        let mut body = Vec::new();
        put(&mut body, uapi::FAMILY_NAME, b"ethtool\0");
        let answers = ethtool.ask(uapi::GETFAMILY, &body)?;
        let id = answers.iter().flat_map(|answer| attributes(answer));
        let id = id.filter(|(kind, _)| *kind == uapi::FAMILY_ID);
        let id = id.last().and_then(|(_, value)| value.try_into().ok());
        ethtool.family = id
            .map(u16::from_ne_bytes)
            .ok_or_else(|| garbled("family"))?;
        Ok(ethtool)
    }

    /// Asks, and gives what is behind the headers of the answers, without the last one,
    /// which says whether it worked.
    fn ask(&mut self, command: u8, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(GENERIC + body.len());
        message.extend(((GENERIC + body.len()) as u32).to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([command, 1, 0, 0]);
        message.extend(body);
        self.socket.send(&message)?;
        let mut buffer = vec![0; ANSWER_MAX];
        let mut answers = Vec::new();
        for _ in 0..ANSWERS_MAX {
            let len = (&self.socket).read(&mut buffer)?;
            for (kind, sequence, payload) in messages(&buffer[..len]) {
                if sequence != self.sequence {
                    // Of a question that was given up.
                    continue;
                }
                if kind != libc::NLMSG_ERROR as u16 {
                    answers.push(payload.get(GENERIC - HEADER..).unwrap_or(&[]).to_vec());
                    continue;
                }
                let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
                return match code {
                    Some(0) => Ok(answers),
                    Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    None => Err(garbled("error")),
                };
            }
        }
        Err(garbled("number of answers"))
    }
}

impl Devices for Ethtool {
    fn find(&self, name: &str) -> Option<Device> {
        let index = nix::net::if_::if_nametoindex(name).ok()?;
        Some(Device {
            name: name.to_owned(),
            index,
        })
    }

    fn features(&mut self, device: &Device) -> io::Result<Features> {
        let mut body = Vec::new();
        put(&mut body, uapi::HEADER | uapi::NESTED, &header(device, 0));
        let answers = self.ask(uapi::FEATURES_GET, &body)?;
        answers
            .first()
            .map(|answer| read(answer))
            .ok_or_else(|| garbled("features"))
    }

    fn switch(&mut self, device: &Device, features: &[String], on: bool) -> io::Result<()> {
        let mut bits = Vec::new();
        for feature in features {
            let mut bit = Vec::new();
            put(
                &mut bit,
                uapi::BIT_NAME,
                &[feature.as_bytes(), b"\0"].concat(),
            );
            if on {
                put(&mut bit, uapi::BIT_VALUE, &[]);
            }
            put(&mut bits, uapi::BIT | uapi::NESTED, &bit);
        }
        let (mut set, mut body) = (Vec::new(), Vec::new());
        put(&mut set, uapi::BITS | uapi::NESTED, &bits);
        let header = header(device, uapi::OMIT_REPLY);
        put(&mut body, uapi::HEADER | uapi::NESTED, &header);
        put(&mut body, uapi::WANTED | uapi::NESTED, &set);
        self.ask(uapi::FEATURES_SET, &body).map(drop)
    }
}

fn header(device: &Device, flags: u32) -> Vec<u8> {
    let mut header = Vec::new();
    put(&mut header, uapi::DEV_INDEX, &device.index.to_ne_bytes());
    if flags != 0 {
        put(&mut header, uapi::FLAGS, &flags.to_ne_bytes());
    }
    header
}

fn garbled(what: &str) -> io::Error {
    let text = format!("the kernel's answer has no {what} that can be read");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Appends an attribute.
fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Kind, sequence number and content of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let number = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let len = u32::from_ne_bytes(number(0)) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let content = bytes.get(HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, u32::from_ne_bytes(number(8)), content))
    })
}

/// Kind and value of each attribute, up to the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<ATTRIBUTE>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & uapi::TYPE;
        let value = bytes.get(ATTRIBUTE..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// What an answer says of a device.
fn read(answer: &[u8]) -> Features {
    let mut features = Features::default();
    let mut fixed = BTreeSet::new();
    for (kind, value) in attributes(answer) {
        match kind {
            uapi::HW => features.changeable = names(value),
            uapi::ACTIVE => features.active = names(value),
            uapi::NOCHANGE => fixed = names(value),
            _ => {}
        }
    }
    features.changeable.retain(|name| !fixed.contains(name));
    features
}

/// The names of the bits that are set.
fn names(set: &[u8]) -> BTreeSet<String> {
    let is_list = attributes(set).any(|(kind, _)| kind == uapi::NOMASK);
    let bits = attributes(set).filter(|(kind, _)| *kind == uapi::BITS);
    let bits = bits.flat_map(|(_, bits)| attributes(bits));
    let bits = bits.filter(|(kind, _)| *kind == uapi::BIT);
    let name = |(_, bit): (u16, &[u8])| {
        let of = |wanted| attributes(bit).find(|(kind, _)| *kind == wanted);
        let is_set = is_list || of(uapi::BIT_VALUE).is_some();
        let (_, name) = of(uapi::BIT_NAME).filter(|_| is_set)?;
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        String::from_utf8(name.to_vec()).ok()
    };
    bits.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use agent_core::model::{
        BootId, MitigationCause, MitigationMode, MitigationState, RECEIVE, SEND, Timestamp,
    };
    use proptest::prelude::*;

    use super::super::{Mitigator, Outcome, Settings, undo};
    use super::*;
    use crate::node::netns;

    fn set(list: bool, bits: &[(&str, bool)]) -> Vec<u8> {
        let (mut set, mut all) = (Vec::new(), Vec::new());
        if list {
            put(&mut set, uapi::NOMASK, &[]);
        }
        for (name, value) in bits {
            let mut bit = Vec::new();
            put(&mut bit, uapi::BIT_NAME, &[name.as_bytes(), b"\0"].concat());
            if *value {
                put(&mut bit, uapi::BIT_VALUE, &[]);
            }
            put(&mut all, uapi::BIT | uapi::NESTED, &bit);
        }
        put(&mut set, uapi::BITS | uapi::NESTED, &all);
        set
    }

    #[test]
    fn an_answer_says_what_is_on_and_what_can_be_changed() {
        let mut answer = Vec::new();
        let hw = set(true, &[("rx-gro", false), ("rx-lro", false)]);
        put(&mut answer, uapi::HW | uapi::NESTED, &hw);
        let active = set(false, &[("rx-gro", true), ("rx-gro-hw", false)]);
        put(&mut answer, uapi::ACTIVE | uapi::NESTED, &active);
        let fixed = set(true, &[("rx-lro", false)]);
        put(&mut answer, uapi::NOCHANGE | uapi::NESTED, &fixed);
        let features = read(&answer);
        assert_eq!(features.changeable, ["rx-gro".to_owned()].into());
        assert_eq!(features.active, ["rx-gro".to_owned()].into());
    }

    const BOOT: BootId = BootId([1; 16]);

    fn settings(dir: &Path) -> Settings {
        Settings {
            dir: dir.to_owned(),
            mode: MitigationMode::Apply,
            boot: BOOT,
            release: "6.1.1".to_owned(),
        }
    }

    #[test]
    fn a_real_kernel_switches_and_undoes() {
        netns::tests::with_a_veth(
            "node::mitigate::ethtool::tests::a_real_kernel_switches_and_undoes",
            on_a_real_kernel,
        );
    }

    fn on_a_real_kernel() {
        let mut kernel = match Ethtool::open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("SKIPPED: a kernel without ethtool's netlink interface");
                return;
            }
            opened => opened.expect("generic netlink"),
        };
        let ours = |kernel: &mut Ethtool, name: &str| -> BTreeSet<String> {
            let device = kernel.find(name).expect("a device");
            let features = kernel.features(&device).expect("features");
            let mut on = features.active;
            on.retain(|f| RECEIVE.contains(&f.as_str()) || SEND.contains(&f.as_str()));
            on
        };
        // A veth has GRO off: as an uplink has it.
        let up = kernel.find("up0").expect("a device");
        kernel
            .switch(&up, &["rx-gro".to_owned()], true)
            .expect("root");
        let before = [ours(&mut kernel, "up0"), ours(&mut kernel, "out0")];
        println!("before: {before:?}");
        assert!(before[0].contains("rx-gro") && before[1].contains("tx-tcp-segmentation"));
        assert_eq!(kernel.find("none0"), None);

        let dir = tempfile::tempdir().expect("temporary directory");
        let apply = settings(dir.path());
        let opened = || Ethtool::open().expect("generic netlink");
        let mut mitigator = Mitigator::begin(apply.clone(), opened());
        mitigator.set_uplinks(vec!["up0".into()]);
        let left_by = MitigationCause {
            packet: Some("BUG_ON(!list_skb->head_frag)".into()),
            device: Some("out0".into()),
            ..MitigationCause::default()
        };
        mitigator.met(left_by, Timestamp(1));
        mitigator.turn(Timestamp(2));
        assert_eq!(
            mitigator.status().state,
            MitigationState::Applied,
            "{:?}",
            mitigator.status()
        );
        let after = [ours(&mut kernel, "up0"), ours(&mut kernel, "out0")];
        println!("after: {after:?}");
        assert!(!after[0].contains("rx-gro"));
        assert!(
            after[0].contains("tx-generic-segmentation"),
            "it left by another"
        );
        assert!(after[1].iter().all(|f| !SEND.contains(&f.as_str())));

        let undone = undo(dir.path(), BOOT, &mut opened(), Timestamp(3));
        let undone = undone.expect("a disk").expect("something was done");
        assert!(undone.problem.is_none(), "{undone:?}");
        let back = [ours(&mut kernel, "up0"), ours(&mut kernel, "out0")];
        println!("undone: {back:?}");
        assert_eq!(back, before);

        // A device that goes takes its features along.
        let dir = tempfile::tempdir().expect("temporary directory");
        let apply = settings(dir.path());
        let mut mitigator = Mitigator::begin(apply, opened());
        mitigator.set_uplinks(vec!["up0".into()]);
        mitigator.met(MitigationCause::default(), Timestamp(4));
        mitigator.turn(Timestamp(5));
        let gone = Command::new("ip").args(["link", "del", "up0"]).status();
        assert!(gone.is_ok_and(|status| status.success()));
        let undone = undo(dir.path(), BOOT, &mut opened(), Timestamp(6));
        let undone = undone.expect("a disk").expect("something was done");
        assert_eq!(undone.devices.len(), 1);
        assert_eq!(undone.devices[0].1, Outcome::Gone);
    }

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
            prop_assert!(attributes(&bytes).count() <= bytes.len() / ATTRIBUTE);
        }
    }
}
