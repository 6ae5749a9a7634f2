//! What left the machine, read as it arrives: for the eyes and for the times.
//! What it means is the annotator's to say.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agent_core::model::{Body, Line, Word};
use harness::wire::Datagram;
use lastgasp::gasp::protocol::{Frame, Kind};

use crate::lab::ways::Way;

/// Everything heard since the kill.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the kernel's hook ran, of the first word, by our clock: the guest
    /// says how long before sending that was.
    pub(super) hook: Option<Instant>,
    /// The first datagram of the death.
    pub(super) first: Option<Instant>,
    /// The first word with the true line.
    pub(super) true_word: Option<Instant>,
    /// The first word that says that the kernel does not go on.
    pub(super) final_word: Option<Instant>,
    /// Longest time that the kernel was held, in all.
    pub(super) held: Duration,
    /// Datagrams of the death.
    pub(super) datagrams: usize,
    lines: BTreeSet<(u64, bool, String)>,
}

/// Something new in a datagram.
#[derive(Debug)]
pub(super) enum News {
    /// A word.
    Word(Word),
    /// A line that did not arrive before.
    Line(Line),
}

impl Heard {
    /// Takes a datagram; gives what is new in it.
    pub(super) fn take(&mut self, datagram: &Datagram, way: &Way) -> Vec<News> {
        let Ok(frame) = Frame::parse(&datagram.payload) else {
            return Vec::new();
        };
        if !matches!(frame.kind(), Kind::Word | Kind::Lines | Kind::Survived) {
            return Vec::new();
        }
        self.datagrams += 1;
        let is_first = self.first.is_none();
        self.first.get_or_insert(datagram.at);
        let Ok(body) = frame.body() else {
            return Vec::new();
        };
        let Ok(gasp) = frame.gasp(body) else {
            return Vec::new();
        };
        match gasp.body {
            Body::Word(word) => {
                let ago = Duration::from_nanos(gasp.mono_ns.saturating_sub(word.at_ns));
                if self.hook.is_none() {
                    self.hook = datagram.at.checked_sub(ago);
                }
                self.held = self.held.max(Duration::from_nanos(word.held_ns));
                let is_true = way.is_why(&word.line);
                if word.is_final() {
                    self.final_word.get_or_insert(datagram.at);
                }
                let is_news = is_first || (is_true && self.true_word.is_none());
                if is_true {
                    self.true_word.get_or_insert(datagram.at);
                }
                if is_news {
                    vec![News::Word(word)]
                } else {
                    Vec::new()
                }
            }
            Body::Lines(lines) => lines
                .into_iter()
                .filter(|line| {
                    self.lines
                        .insert((line.seq, line.continues, line.text.clone()))
                })
                .map(News::Line)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Lines that arrived.
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }
}

/// How a line begins that tells the story, if it is one of the few that do.
pub(super) fn telling(text: &str) -> Option<&'static str> {
    const TELLING: [&str; 9] = [
        "BUG: ",
        "kernel BUG at ",
        "Oops: ",
        "CPU: ",
        "RIP: ",
        "sysrq: ",
        "Call Trace:",
        "Kernel panic - ",
        "reboot: ",
    ];
    TELLING.into_iter().find(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::ways;

    #[test]
    fn what_is_no_frame_of_ours_is_nothing() {
        let mut heard = Heard::default();
        for payload in [Vec::new(), vec![0; 200], b"LGSP".to_vec()] {
            let datagram = Datagram {
                at: Instant::now(),
                port: 9618,
                payload,
            };
            assert!(heard.take(&datagram, &ways::ALL[0]).is_empty());
        }
        assert_eq!((heard.datagrams, heard.first), (0, None));
    }

    #[test]
    fn the_lines_that_tell_the_story_of_a_null_dereference() {
        for line in [
            "BUG: kernel NULL pointer dereference",
            "RIP: 0010:boom_null+0x5/0x10 [boom]",
        ] {
            assert!(telling(line).is_some(), "{line}");
        }
        assert_eq!(telling("R10: 0000000000000000 R11: 0000000000000001"), None);
    }
}
