//! One log out of two: what is proven, and what netconsole said beside it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::{Line, LogLine};

/// How far the clock of printk and the one of the agent may be apart: so much, and
/// a thousandth of what they show (the one is not slewed, the other is).
const APART_NS: u64 = 10_000_000_000;

/// Whether two clocks of one boot may have shown these at one time, in nanoseconds.
pub(super) fn same_time(one_ns: u64, other_ns: u64) -> bool {
    let slack = APART_NS.saturating_add(one_ns.max(other_ns) / 1_000);
    one_ns.abs_diff(other_ns) <= slack
}

/// Where a text stands among the proven lines.
struct Place {
    /// The first of its lines, and the one behind its last.
    first: usize,
    next: usize,
    mono_ns: u64,
}

/// Proven lines, oldest first, and between them what netconsole alone said, in its own
/// order (a time of zero is none). What both have is shown once, as proven. The others
/// stand behind the copy that came before them, with their time by the same clock;
/// where the two have nothing in common, by their time.
pub fn merged(proven: Vec<Line>, overheard: &[Line]) -> Vec<LogLine> {
    let mut places = places(&proven);
    let mut before: BTreeMap<usize, Vec<Line>> = BTreeMap::new();
    let mut leading = Vec::new();
    // Behind which line the next one stands, and how much later it is by that clock.
    let mut anchor: Option<(usize, i64)> = None;
    for line in pieces(overheard) {
        let after = anchor.map_or(0, |(next, _)| next);
        if let Some(copy) = take_copy(&mut places, &line, after) {
            let later = copy.mono_ns.cast_signed();
            let later = later.wrapping_sub(line.mono_ns.cast_signed());
            if anchor.is_none() {
                let leading = std::mem::take(&mut leading);
                let leading = leading.into_iter().map(|line| shifted(line, later));
                before.entry(copy.first).or_default().extend(leading);
            }
            anchor = Some((copy.next, later));
        } else if let Some((next, later)) = anchor {
            before.entry(next).or_default().push(shifted(line, later));
        } else {
            leading.push(line);
        }
    }
    for line in leading {
        let next = proven.partition_point(|other| other.mono_ns <= line.mono_ns);
        before.entry(next).or_default().push(line);
    }
    let mut merged = Vec::with_capacity(proven.len() + overheard.len());
    let unproven = |line| LogLine {
        line,
        unproven: true,
    };
    for (at, line) in proven.into_iter().enumerate() {
        merged.extend(before.remove(&at).into_iter().flatten().map(unproven));
        merged.push(LogLine {
            line,
            unproven: false,
        });
    }
    merged.extend(before.into_values().flatten().map(unproven));
    merged
}

/// The proven texts, put together where a CPU printed them in pieces.
fn places(proven: &[Line]) -> HashMap<String, VecDeque<Place>> {
    let mut whole: Vec<(Place, String)> = Vec::with_capacity(proven.len());
    let mut last_of: HashMap<u16, usize> = HashMap::new();
    for (at, line) in proven.iter().enumerate() {
        match last_of.get(&line.cpu) {
            Some(last) if line.continues => {
                let (place, text) = &mut whole[*last];
                place.next = at + 1;
                text.push_str(&line.text);
            }
            _ => {
                last_of.insert(line.cpu, whole.len());
                let (first, next, mono_ns) = (at, at + 1, line.mono_ns);
                let place = Place {
                    first,
                    next,
                    mono_ns,
                };
                whole.push((place, line.text.clone()));
            }
        }
    }
    let mut places: HashMap<String, VecDeque<Place>> = HashMap::new();
    for (place, text) in whole {
        // One printk may print several lines.
        for text in text
            .split('\n')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            let Place {
                first,
                next,
                mono_ns,
            } = place;
            let of_text = places.entry(text.to_owned()).or_default();
            of_text.push_back(Place {
                first,
                next,
                mono_ns,
            });
        }
    }
    places
}

/// The lines that were overheard, put together and taken apart in the same way.
fn pieces(overheard: &[Line]) -> Vec<Line> {
    let mut whole: Vec<Line> = Vec::with_capacity(overheard.len());
    for line in overheard {
        match whole.last_mut() {
            Some(last) if line.continues => last.text.push_str(&line.text),
            _ => whole.push(line.clone()),
        }
    }
    let mut pieces = Vec::with_capacity(whole.len());
    for line in whole {
        let texts = line.text.split('\n').map(str::trim_end);
        pieces.extend(texts.filter(|text| !text.is_empty()).map(|text| Line {
            text: text.to_owned(),
            continues: false,
            ..line.clone()
        }));
    }
    pieces
}

/// The proven copy of a line, the first that is not `after` another's place if there
/// is one. Each is a copy of one line only.
fn take_copy(
    places: &mut HashMap<String, VecDeque<Place>>,
    line: &Line,
    after: usize,
) -> Option<Place> {
    let of_text = places.get_mut(line.text.trim())?;
    let fits = |place: &Place| line.mono_ns == 0 || same_time(place.mono_ns, line.mono_ns);
    let in_order = |place: &Place| place.next >= after && fits(place);
    let at = of_text.iter().position(in_order);
    let at = at.or_else(|| of_text.iter().position(fits))?;
    of_text.remove(at)
}

fn shifted(line: Line, later: i64) -> Line {
    Line {
        mono_ns: line.mono_ns.saturating_add_signed(later),
        ..line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn line(at: u64, text: &str) -> Line {
        Line {
            seq: at,
            mono_ns: at,
            cpu: 0,
            level: None,
            continues: text.starts_with('+'),
            text: text.trim_start_matches('+').to_owned(),
        }
    }

    /// What comes of both, with `?` where nothing is proven, and the seconds.
    fn shown(proven: &[(u64, &str)], overheard: &[(u64, &str)]) -> Vec<String> {
        let lines = |all: &[(u64, &str)]| -> Vec<Line> {
            all.iter().map(|(s, text)| line(s * S, text)).collect()
        };
        let merged = merged(lines(proven), &lines(overheard));
        let brief = |line: LogLine| {
            let mark = if line.unproven { "?" } else { "" };
            format!("{mark}{} {}", line.line.mono_ns / S, line.line.text)
        };
        merged.into_iter().map(brief).collect()
    }

    #[test]
    fn each_line_is_shown_once_and_where_it_belongs() {
        type Lines = &'static [(u64, &'static str)];
        let rows: [(Lines, Lines, &[&str]); 9] = [
            (&[], &[(1, "a"), (2, "b")], &["?1 a", "?2 b"]),
            (
                &[(1, "a"), (2, "b")],
                &[(1, "a"), (2, "b")],
                &["1 a", "2 b"],
            ),
            // Behind what it was printed behind, and with its time by the other clock.
            (
                &[(103, "a"), (105, "c")],
                &[(99, "x"), (100, "a"), (101, "b"), (102, "c"), (103, "d")],
                &["?102 x", "103 a", "?104 b", "105 c", "?106 d"],
            ),
            // By their times, if there is nothing else.
            (&[(1, "a"), (5, "c")], &[(3, "b")], &["1 a", "?3 b", "5 c"]),
            // As often as it was printed.
            (
                &[(1, "a"), (2, "a")],
                &[(1, "a"), (2, "a"), (3, "a")],
                &["1 a", "2 a", "?3 a"],
            ),
            // The same words, but long ago.
            (&[(1, "a")], &[(500, "a")], &["1 a", "?500 a"]),
            // No times: all that is known is the order.
            (
                &[(7, "a"), (8, "c")],
                &[(0, "a"), (0, "b"), (0, "c")],
                &["7 a", "?7 b", "8 c"],
            ),
            // Space in front is lost in the basic format.
            (
                &[(1, "  f+0x1/0x2")],
                &[(1, "f+0x1/0x2")],
                &["1   f+0x1/0x2"],
            ),
            // In pieces, or several at once.
            (
                &[(1, "Code:"), (1, "+ 0f"), (1, "+ 0b"), (2, "x\ny")],
                &[(1, "Code: 0f 0b"), (2, "x"), (2, "y"), (2, "z")],
                &["1 Code:", "1  0f", "1  0b", "2 x\ny", "?2 z"],
            ),
        ];
        for (proven, overheard, want) in rows {
            assert_eq!(shown(proven, overheard), want, "{proven:?} {overheard:?}");
        }
    }

    proptest! {
        /// Whatever somebody sends, what is proven is shown as it is.
        #[test]
        fn nothing_alters_what_is_proven(
            proven in prop::collection::vec((0u64..50, "\\+?[ab]{0,2}"), 0..12),
            overheard in prop::collection::vec((any::<u64>(), "\\+?[ab\n]{0,3}"), 0..12),
        ) {
            let mut proven: Vec<Line> = proven.iter().map(|(at, t)| line(at * S, t)).collect();
            proven.sort_by_key(|line| line.mono_ns);
            let overheard: Vec<Line> = overheard.iter().map(|(at, t)| line(*at, t)).collect();
            let merged = merged(proven.clone(), &overheard);
            let kept = merged.iter().filter(|line| !line.unproven).map(|line| &line.line);
            prop_assert!(kept.eq(&proven));
        }
    }
}
