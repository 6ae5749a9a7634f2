//! One object a line. Members may be added; what is there keeps its name and meaning as long
//! as [`SCHEMA`] does.

use agent_core::drops::{Advice, Class, Flow, Grown, Owner, totals};
use serde::Serialize;

use super::Text;
use super::view::View;
use crate::cli::out;
use crate::kernel::attach::Attempt;

/// Which form the objects have.
const SCHEMA: &str = "lastgasp.trace.drops/1";

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    schema: &'static str,
    kind: &'static str,
    time: String,
    #[serde(flatten)]
    of: &'a T,
}

#[derive(Serialize)]
struct Begin<'a> {
    attempts: &'a [Attempt],
    gives_reasons: bool,
    names_functions: bool,
}

#[derive(Serialize)]
struct Drops {
    reason: String,
    class: Class,
    packets: u64,
    total: u64,
    rate: f64,
    netns: u32,
    netns_name: Option<String>,
    owner: Option<Owner>,
    device: Option<String>,
    device_index: u32,
    protocol: String,
    function: String,
    location: String,
    last: Option<Last>,
}

/// The last packet that was looked at.
#[derive(Serialize)]
struct Last {
    /// Nanoseconds since boot.
    mono_ns: u64,
    len: u32,
    mark: u32,
    cpu: u32,
    queue: u16,
    vlan: u16,
    gso_size: u16,
    flow: Option<Flow>,
    /// From the network header on, in hex.
    bytes: String,
    stack: Vec<String>,
}

#[derive(Serialize)]
struct End {
    seconds: f64,
    packets: u64,
    reasons: Vec<Total>,
    no_room: u64,
    samples_lost: u64,
    missed: u64,
    /// Zero where `kernel.bpf_stats_enabled` is.
    calls: u64,
    cost_ns: u64,
}

#[derive(Serialize)]
struct Total {
    reason: String,
    class: Class,
    packets: u64,
    no_room: u64,
    kinds: usize,
    advice: Option<&'static Advice>,
}

pub(super) fn text(view: &mut View, text: &Text<'_>) -> serde_json::Result<String> {
    match text {
        Text::Begin(drops) => line(
            "begin",
            &Begin {
                attempts: &drops.attempts,
                gives_reasons: view.reasons.are_given(),
                names_functions: !view.hides_functions(),
            },
        ),
        Text::Grown(grown) => {
            let mut lines = String::new();
            for grown in *grown {
                if view.shows(grown.key.reason) {
                    lines.push_str(&line("drops", &of(view, grown))?);
                }
            }
            Ok(lines)
        }
        Text::End(drops, time) => {
            let reading = view.tally.last();
            let cost = drops.cost().unwrap_or_default();
            let sum = |total: agent_core::drops::Total| Total {
                reason: view.reasons.name(total.reason),
                class: total.class,
                packets: total.packets,
                no_room: total.no_room,
                kinds: total.keys,
                advice: total.advice,
            };
            let end = End {
                seconds: time.as_secs_f64(),
                packets: reading.packets(),
                no_room: reading.no_room.values().sum(),
                samples_lost: reading.samples_lost,
                missed: reading.missed,
                calls: cost.calls,
                cost_ns: cost.ns,
                reasons: totals(reading, &view.reasons)
                    .into_iter()
                    .map(sum)
                    .collect(),
            };
            line("end", &end)
        }
    }
}

fn line(kind: &'static str, of: &impl Serialize) -> serde_json::Result<String> {
    out::json_line(&Line {
        schema: SCHEMA,
        kind,
        time: jiff::Timestamp::now().to_string(),
        of,
    })
}

fn of(view: &mut View, grown: &Grown) -> Drops {
    let key = grown.key;
    let device = view.device(&key);
    let namespace = view.namespace(key.netns).cloned().unwrap_or_default();
    let last = view.sample(&key).map(|sample| Last {
        mono_ns: sample.mono_ns,
        len: sample.len,
        mark: sample.mark,
        cpu: sample.cpu,
        queue: sample.queue,
        vlan: sample.vlan,
        gso_size: sample.gso_size,
        flow: view.flow(&key),
        bytes: hex(&sample.header),
        stack: sample.stack.iter().map(|at| view.function(*at)).collect(),
    });
    Drops {
        reason: view.reasons.name(key.reason),
        class: view.reasons.class(key.reason),
        packets: grown.packets,
        total: grown.total,
        rate: grown.rate,
        netns: key.netns,
        netns_name: namespace.name,
        owner: namespace.owner,
        device,
        device_index: key.device,
        protocol: key.protocol_name(),
        function: view.function(key.location),
        location: format!("{:#x}", key.location),
        last,
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digits = |byte: &u8| [byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]);
    bytes.iter().flat_map(digits).collect()
}
