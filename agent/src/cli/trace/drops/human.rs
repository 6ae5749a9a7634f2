//! Lines for people.

use std::fmt::Write as _;

use agent_core::drops::{Class, Grown, Key, Total, totals};

use super::Text;
use super::view::View;
use crate::cli::out::{self, Style, sanitize, styled};
use crate::kernel::drops::Drops;

/// Most lines an interval; the rest is summed up.
const LINES: usize = 20;

pub(super) fn text(view: &mut View, text: &Text<'_>) -> String {
    match text {
        Text::Begin(drops) => begin(view, drops),
        Text::Grown(grown) => lines(view, grown),
        Text::End(drops, time) => end(view, drops, time.as_secs_f64()),
    }
}

fn begin(view: &View, drops: &Drops) -> String {
    let mut text = format!("counting drops by {} kfree_skb; Ctrl-C ends\n", drops.how());
    for attempt in &drops.attempts {
        if let Some(why) = &attempt.refused {
            let _ = writeln!(text, "{} was refused: {}", attempt.how, sanitize(why));
        }
    }
    if !view.reasons.are_given() {
        text.push_str("this kernel gives no reasons; the function has to do\n");
    }
    if view.hides_functions() {
        text.push_str(
            "this kernel shows no addresses, so functions have no names: it takes CAP_SYSLOG, \
             and kernel.kptr_restrict at most 1\n",
        );
    }
    text.push_str(&styled(
        &format!(
            "{:<8} {:>9} {:>9}  {:<20} {:<24} {:<10} {:<5} WHERE, LAST PACKET\n",
            "TIME", "RATE/S", "TOTAL", "REASON", "WHOSE", "DEVICE", "PROTO"
        ),
        Style::Bold,
        out::colour(),
    ));
    text
}

fn lines(view: &mut View, grown: &[Grown]) -> String {
    let mut text = String::new();
    let shown: Vec<&Grown> = grown.iter().filter(|g| view.shows(g.key.reason)).collect();
    let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    for grown in shown.iter().take(LINES) {
        let _ = writeln!(text, "{time} {}", line(view, grown));
        stack(view, &grown.key, &mut text);
    }
    let rest = shown.get(LINES..).unwrap_or_default();
    if !rest.is_empty() {
        let packets: u64 = rest.iter().map(|grown| grown.packets).sum();
        let _ = writeln!(
            text,
            "{time} … {packets} more packets of {} kinds",
            rest.len()
        );
    }
    text
}

fn line(view: &mut View, grown: &Grown) -> String {
    let key = &grown.key;
    let (whose, device) = place(view, key);
    let flow = view.flow(key).map(|flow| format!(", {flow}"));
    let rate = if grown.rate < 10.0 {
        format!("{:.1}", grown.rate)
    } else {
        format!("{:.0}", grown.rate)
    };
    format!(
        "{rate:>9} {:>9}  {:<20} {whose:<24} {device:<10} {:<5} {}{}",
        grown.total,
        sanitize(&view.reasons.name(key.reason)),
        key.protocol_name(),
        sanitize(&view.function(key.location)),
        flow.unwrap_or_default(),
    )
}

/// Whose it was, and at which device.
fn place(view: &mut View, key: &Key) -> (String, String) {
    let device = match (view.device(key), key.device) {
        (Some(name), _) => sanitize(&name),
        (None, 0) => "-".to_owned(),
        (None, index) => format!("if{index}"),
    };
    (sanitize(&view.whose(key.netns)), device)
}

fn stack(view: &View, key: &Key, text: &mut String) {
    for address in view.sample(key).map(|s| &s.stack[..]).unwrap_or_default() {
        let _ = writeln!(text, "           {}", sanitize(&view.function(*address)));
    }
}

fn end(view: &mut View, drops: &Drops, seconds: f64) -> String {
    let reading = view.tally.last().clone();
    let totals = totals(&reading, &view.reasons);
    let of = |class| -> u64 {
        let of_class = totals.iter().filter(|total| total.class == class);
        of_class.map(|total| total.packets).sum()
    };
    let mut text = format!(
        "\ndropped in {seconds:.1} s: {}; {} more ended without a reason, {} as packets normally do\n",
        match of(Class::Dropped) {
            1 => "1 packet".to_owned(),
            packets => format!("{packets} packets"),
        },
        of(Class::Unspecified),
        of(Class::Consumed),
    );
    if !totals.is_empty() {
        let rows: Vec<Vec<String>> = totals.iter().map(|total| row(view, total)).collect();
        let headings = [
            "REASON",
            "PACKETS",
            "KINDS",
            "MOST OF THEM",
            "WHOSE",
            "DEVICE",
            "PROTO",
            "WHERE",
        ];
        text.push('\n');
        text.push_str(&out::table(&headings, &rows));
    }
    for total in totals.iter().filter(|total| view.shows(total.reason)) {
        if let Some(advice) = total.advice {
            let name = view.reasons.name(total.reason);
            let name = styled(&sanitize(&name), Style::Bold, out::colour());
            let _ = writeln!(
                text,
                "\n{name}: {}\n  usually  {}\n  next     {}",
                advice.means, advice.causes, advice.next
            );
        }
    }
    text.push('\n');
    text.push_str(&unseen(&reading, drops.how()));
    if let Ok(cost) = drops.cost()
        && let Some(each) = cost.ns.checked_div(cost.calls)
    {
        let _ = writeln!(
            text,
            "a packet cost {each} ns in the program ({} calls)",
            cost.calls
        );
    }
    text
}

fn row(view: &mut View, total: &Total) -> Vec<String> {
    let mut row = vec![
        sanitize(&view.reasons.name(total.reason)),
        total.packets.to_string(),
        total.keys.to_string(),
    ];
    match total.most {
        Some((key, packets)) => {
            let (whose, device) = place(view, &key);
            let protocol = key.protocol_name();
            let function = sanitize(&view.function(key.location));
            row.extend([packets.to_string(), whose, device, protocol, function]);
        }
        None => row.push("-".to_owned()),
    }
    row
}

/// What the numbers do not have.
fn unseen(reading: &agent_core::drops::Reading, how: &str) -> String {
    let mut text = String::new();
    let no_room: u64 = reading.no_room.values().sum();
    if no_room > 0 {
        let _ = writeln!(
            text,
            "{no_room} packets were of kinds that there was no room for: they are counted by reason alone (--keys)"
        );
    }
    if reading.samples_lost > 0 {
        let _ = writeln!(
            text,
            "{} packets were counted, but not looked at: there was no room for more samples",
            reading.samples_lost
        );
    }
    if reading.missed > 0 {
        let _ = writeln!(
            text,
            "{} packets were not counted: they were dropped by an interrupt in the midst of counting ({how})",
            reading.missed
        );
    }
    if how == "tracepoint" {
        text.push_str(
            "packets that were dropped while another eBPF program ran on that CPU are not seen \
             by this form, and not every kernel counts them\n",
        );
    } else if text.is_empty() {
        text.push_str("nothing was missed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use agent_core::drops::Reading;

    use super::*;

    #[test]
    fn whatever_the_numbers_lack_is_said() {
        let whole = Reading::default();
        assert_eq!(unseen(&whole, "tp_btf"), "nothing was missed\n");
        assert!(unseen(&whole, "tracepoint").contains("another eBPF program"));
        let lacking = Reading {
            no_room: [(3, 40), (6, 2)].into(),
            samples_lost: 7,
            missed: 5,
            ..whole
        };
        let text = unseen(&lacking, "raw_tp");
        for part in [
            "42 packets were of kinds",
            "7 packets were counted, but",
            "5 packets were not",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
