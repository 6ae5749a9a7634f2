//! The packet that the kernel is about to stop at, behind the line of a word.

use agent_common::asked::{CGROUP_MAX, CGROUPS_MAX};
use agent_common::segment::{self, NAME_MAX, STACK_MAX, TOLD_MAX};
use agent_core::model::{Check, Element, Packet};

use super::part::{Bytes, PACKET, PART, PART_MAX, Part};
use crate::kernel::ring::until_zero;

/// Check, nine numbers of four bytes and one of eight.
const NUMBERS: usize = 1 + 9 * 4 + 8;

/// Bytes of an element.
const ELEMENT: usize = 9;

// Numbers, names, cgroups, elements, stack.
const _: () = assert!(
    PART + NUMBERS
        + 2 * (1 + NAME_MAX)
        + 1
        + CGROUPS_MAX * (1 + CGROUP_MAX)
        + 1
        + TOLD_MAX * ELEMENT
        + STACK_MAX
        <= PART_MAX
);

/// Writes it down.
pub(super) fn part(packet: &segment::Packet) -> Part {
    let mut part = Part::of(PACKET);
    part.push(&[packet.check]);
    for number in [
        packet.element,
        packet.elements,
        packet.size,
        packet.kind,
        packet.len,
        packet.linear,
        packet.frags,
        packet.device_index,
        packet.netns,
    ] {
        part.push(&number.to_le_bytes());
    }
    part.push(&packet.features.to_le_bytes());
    part.text(until_zero(&packet.device));
    part.text(until_zero(&packet.driver));
    part.names(&packet.cgroups);
    let told = packet.told.iter().take(packet.told_len.into());
    part.push(&[told.len() as u8]);
    for element in told {
        part.push(&element.len.to_le_bytes());
        part.push(&element.linear.to_le_bytes());
        part.push(&[u8::from(element.in_a_page != 0)]);
    }
    part.push(until_zero(&packet.stack));
    part
}

/// Reads it.
pub(super) fn read(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let [check] = bytes.take()?;
    let check = Check::from_wire(check)?;
    let (element, elements) = (bytes.u32()?, bytes.u32()?);
    let (gso_size, gso_type) = (bytes.u32()?, bytes.u32()?);
    let (len, linear, frags) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
    let (device_index, netns) = (bytes.u32()?, bytes.u32()?);
    let features = bytes.u64()?;
    let (device, driver) = (bytes.text()?, bytes.text()?);
    let cgroups = bytes.texts()?;
    let mut list = Vec::new();
    for _ in 0..bytes.count()? {
        list.push(Element {
            len: bytes.u32()?,
            linear: bytes.u32()?,
            in_a_page: bytes.take::<1>()? != [0],
        });
    }
    let stack = bytes.rest();
    // What is deeper than the stack is null.
    let functions = stack.lines().filter(|name| !matches!(*name, "" | "0x0"));
    Some(Packet {
        check,
        element,
        elements,
        gso_size,
        gso_type,
        len,
        linear,
        frags,
        features,
        device,
        device_index,
        driver,
        netns,
        cgroups,
        list,
        stack: functions.map(str::to_owned).collect(),
    })
}
