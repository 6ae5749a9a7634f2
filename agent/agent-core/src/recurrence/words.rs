//! What recurs, in words.

use std::fmt::Write;

use super::{DAY_MS, HasBug, Kernel, Kind, Recurrence, Telling};

/// Kernels of each sort that a sentence names; more are counted.
const NAMED: usize = 3;

/// `40 node-days`, `2.5 node-days`.
pub fn node_days_text(days: f64) -> String {
    match days {
        days if days < 0.05 => "less than 0.1 node-days".to_owned(),
        days if days < 10.0 => format!("{days:.1} node-days"),
        days => format!("{days:.0} node-days"),
    }
}

/// `12 of 12 deaths on 6.1.1; 0 on 6.1.81 over 40 node-days, but 6.1.81 has the same bug:
/// fixed in 6.1.103`. The kernels are those of one group, in order.
pub(super) fn sentence(deaths: u64, kernels: &[Kernel], kind: &Kind) -> String {
    if let Kind::Ordered(_) = kind {
        return "Ended by order: nothing is compared".to_owned();
    }
    let (died, lived): (Vec<&Kernel>, Vec<&Kernel>) = kernels.iter().partition(|k| k.deaths > 0);
    let mut text = String::new();
    for (index, kernel) in died.iter().take(NAMED).enumerate() {
        // Writing to a String cannot fail.
        let _ = match index {
            0 => write!(
                text,
                "{} of {} on {}",
                kernel.deaths,
                counted(deaths, "death", "deaths"),
                kernel.release
            ),
            _ => write!(text, ", {} on {}", kernel.deaths, kernel.release),
        };
    }
    let named: u64 = died.iter().take(NAMED).map(|k| k.deaths).sum();
    let rest = deaths.saturating_sub(named);
    if died.is_empty() {
        let all = counted(deaths, "death", "deaths");
        return format!("{all} on kernels that are not known");
    }
    if rest > 0 {
        let _ = write!(text, ", {rest} on other kernels or such as are not known");
    }
    for kernel in lived.iter().take(NAMED) {
        let _ = write!(text, "; {}", none_on(kernel));
    }
    match lived.len() {
        0 => text.push_str("; no other kernel was seen alive"),
        count if count > NAMED => {
            let more = counted((count - NAMED) as u64, "other kernel", "other kernels");
            let _ = write!(text, "; 0 on {more}");
        }
        _ => {}
    }
    text
}

/// That nobody died on a kernel, and what that is worth.
fn none_on(kernel: &Kernel) -> String {
    let release = &kernel.release;
    let mut text = format!("0 on {release} over {}", node_days_text(kernel.node_days));
    let telling = kernel.none.map(|none| none.telling);
    let doubt = match telling {
        Some(Telling::TooFewNodeDays) => ", too few to tell",
        Some(Telling::TooFewNodes) => ", but too few nodes died to tell",
        Some(Telling::NotObserved) => ", but the lives of those that died were not seen",
        Some(Telling::Yes) | None => "",
    };
    text.push_str(doubt);
    let and = if doubt.is_empty() { "but" } else { "and" };
    let bugs = &kernel.bugs;
    let there = bugs.iter().find_map(|bug| match &bug.has {
        HasBug::Yes { fixed_in } => Some((&bug.id, fixed_in)),
        HasBug::No | HasBug::Unknown => None,
    });
    if let Some((id, fixed_in)) = there {
        let fixed = fixed_in
            .as_ref()
            .map(|version| format!("fixed in {version}"));
        let _ = match (bugs.len(), fixed) {
            (1, Some(fixed)) => write!(text, ", {and} {release} has the same bug: {fixed}"),
            (1, None) => write!(text, ", {and} {release} has the same bug"),
            (_, Some(fixed)) => write!(
                text,
                ", {and} {release} has one of the bugs that it may be: {id}, {fixed}"
            ),
            (_, None) => write!(
                text,
                ", {and} {release} has one of the bugs that it may be: {id}"
            ),
        };
    } else if bugs.iter().any(|bug| bug.has == HasBug::Unknown) {
        let _ = write!(text, ", and nobody can know whether {release} has the bug");
    } else if !bugs.is_empty() {
        let _ = match doubt {
            "" => write!(text, ", which does not have the bug"),
            _ => write!(text, ", and {release} does not have the bug"),
        };
    }
    text
}

/// `third death of this fingerprint on this node in 6 days; 11 in the fleet on 4 nodes`.
pub(super) fn recurrence(found: &Recurrence, kind: &Kind, span_ms: u64) -> String {
    let kind = match kind {
        Kind::Crash(_) => "of this fingerprint",
        Kind::Code(_) | Kind::Ordered(_) => "with this reason code",
    };
    let mut text = format!("{} death {kind} on this node", ordinal(found.on_node));
    if found.on_node > 1 {
        let _ = write!(text, " in {}", span(span_ms));
    }
    if found.nodes > 1 {
        let _ = write!(
            text,
            "; {} in the fleet on {} nodes",
            found.in_fleet, found.nodes
        );
    } else if found.in_fleet > found.on_node {
        let _ = write!(text, "; {} by now", found.in_fleet);
    } else {
        text.push_str("; no other node died of it");
    }
    text
}

/// How often it is a node's: `w01 died of it 3 times in 6 days; 8 more deaths on 3 other
/// nodes`.
pub(super) fn on_node(node: &str, (own, span_ms): (u64, u64), others: (u64, u64)) -> String {
    let mut text = match own {
        1 => format!("{node} died of it once"),
        times => format!("{node} died of it {times} times in {}", span(span_ms)),
    };
    let (deaths, nodes) = others;
    let _ = match nodes {
        0 => write!(text, "; no other node did"),
        _ => write!(
            text,
            "; {} on {}",
            counted(deaths, "more death", "more deaths"),
            counted(nodes, "other node", "other nodes")
        ),
    };
    text
}

/// A time that went by, in the unit that fits it.
fn span(ms: u64) -> String {
    let days = ms as f64 / DAY_MS;
    match ms / 1_000 {
        seconds if seconds < 120 => counted(seconds, "second", "seconds"),
        seconds if seconds < 7_200 => format!("{} minutes", seconds / 60),
        seconds if seconds < 172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{days:.0} days"),
    }
}

fn counted(count: u64, one: &str, more: &str) -> String {
    let unit = if count == 1 { one } else { more };
    format!("{count} {unit}")
}

fn ordinal(n: u64) -> String {
    const WORDS: [&str; 10] = [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
        "tenth",
    ];
    let index = usize::try_from(n).unwrap_or(usize::MAX);
    if let Some(word) = WORDS.get(index.wrapping_sub(1)) {
        return (*word).to_owned();
    }
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        for (n, said) in [
            (1, "first"),
            (3, "third"),
            (10, "tenth"),
            (11, "11th"),
            (21, "21st"),
            (112, "112th"),
            (u64::MAX, "18446744073709551615th"),
        ] {
            assert_eq!(ordinal(n), said);
        }
        for (ms, said) in [
            (0, "0 seconds"),
            (1_000, "1 second"),
            (3_600_000, "60 minutes"),
            (86_400_000, "24 hours"),
            (6 * 86_400_000, "6 days"),
        ] {
            assert_eq!(span(ms), said);
        }
        for (days, said) in [
            (0.0, "less than 0.1 node-days"),
            (2.04, "2.0 node-days"),
            (40.3, "40 node-days"),
        ] {
            assert_eq!(node_days_text(days), said);
        }
    }
}
