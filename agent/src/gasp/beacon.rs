//! What a node says while all is well: hello, heartbeats, goodbye, and what an
//! earlier boot left.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_common::asked::Told;
use agent_core::model::{Inventory, Record};

use super::drain::Shared;
use super::protocol::{Kind, MAX_FRAME, MAX_MESSAGE};

/// Between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Between two hellos: what a restarted annotator waits for at most.
pub const HELLO: Duration = Duration::from_secs(60);

/// Says hello with the boot's inventory, in as many frames as it takes. An
/// inventory that is too long loses its modules, then its pods.
pub fn hello(shared: &Shared, inventory: &Inventory) -> usize {
    let mut inventory = inventory.clone();
    let mut json = serde_json::to_vec(&inventory).unwrap_or_default();
    if json.len() > MAX_MESSAGE {
        inventory.modules.clear();
        json = serde_json::to_vec(&inventory).unwrap_or_default();
    }
    if json.len() > MAX_MESSAGE {
        inventory.pods.clear();
        json = serde_json::to_vec(&inventory).unwrap_or_default();
    }
    fragments(shared, Kind::Hello, &json);
    json.len()
}

/// Sends a record that [`fits`].
pub fn record(shared: &Shared, record: &Record) {
    let json = serde_json::to_vec(record).unwrap_or_default();
    fragments(shared, Kind::Record, &json);
}

/// Whether a record fits a message.
pub fn fits(record: &Record) -> bool {
    serde_json::to_vec(record).is_ok_and(|json| json.len() <= MAX_MESSAGE)
}

fn fragments(shared: &Shared, kind: Kind, json: &[u8]) {
    let room = shared.sealer.capacity();
    let count = json.len().div_ceil(room).max(1) as u16;
    // Consecutive numbers name the message.
    let first = shared.next_seq.fetch_add(count.into(), Ordering::Relaxed);
    let mut frame = [0; MAX_FRAME];
    for (index, chunk) in json.chunks(room).enumerate() {
        let mut draft = shared.sealer.begin(&mut frame, kind);
        draft.bytes(chunk);
        let mut stamp = shared.stamp_numbered(first + index as u64);
        stamp.fragment = (index as u16, count);
        let len = draft.seal(stamp);
        send(shared, &frame[..len]);
    }
}

/// Says that the node lives.
pub fn heartbeat(shared: &Shared) {
    say(shared, Kind::Heartbeat, None);
}

/// Says that silence from now on means nothing, and who told PID 1 to stop the
/// machine, if anybody did. Twice, as UDP may lose it.
pub fn goodbye(shared: &Shared, told: Option<&Told>) {
    say(shared, Kind::Goodbye, told);
    say(shared, Kind::Goodbye, told);
}

fn say(shared: &Shared, kind: Kind, told: Option<&Told>) {
    let mut frame = [0; MAX_FRAME];
    let stamp = shared.stamp(false);
    let mut draft = shared.sealer.begin(&mut frame, kind);
    if let Some(told) = told {
        draft.told(told, stamp.mono_ns);
    }
    let len = draft.seal(stamp);
    send(shared, &frame[..len]);
}

fn send(shared: &Shared, frame: &[u8]) {
    for socket in &shared.udp {
        if UdpSocket::send(socket, frame).is_err() {
            shared.losses.udp_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
