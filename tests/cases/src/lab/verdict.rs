//! What one death brought out, judged by the product's own reading of it:
//! receiver, assembler, decoder and engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use agent_core::engine::{self, Engine, Input};
use agent_core::model::{
    Asked, Body, Death, DeathState, HoldPoint, Inventory, KnownBug, Line, Means, Packet, Proof,
    ReasonCode, Timestamp, Word,
};
use anyhow::{Context as _, Result};
use harness::vm::{ConsoleLine, Outcome};
use harness::wire::Datagram;
use lastgasp::channels::gasp::{self as channel, Assembler};
use lastgasp::gasp::counters::Counters;
use lastgasp::gasp::protocol::{Frame, Key, KeyRing, Kind};
use lastgasp::gasp::queue::queue;
use lastgasp::gasp::receiver::{self, Handler};

use super::ways::{self, Demand, Foreseen, Way};
use crate::node;

/// What became of one death.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Everything wrong with it; empty is as it should be.
    pub misses: Vec<String>,
    /// For how long the machine had not all of its CPUs (`Outcome::waited_ms`).
    pub waited_ms: Option<u64>,
    /// From the kernel's hook to the first datagram, by the guest's clock.
    pub first_ms: Option<f64>,
    /// From the kernel's hook to the first word with the true reason.
    pub word_ms: Option<f64>,
    /// Lines that the console shows between the first line of the death and
    /// the stop of the other CPUs.
    pub lines_expected: usize,
    /// How many of these arrived.
    pub lines_received: usize,
    /// How long the kernel was held.
    pub hold_ms: f64,
    /// Where it was held, in order, as far as the words tell.
    pub held_at: Vec<HoldPoint>,
    /// Holds that ended by their limit.
    pub holds_expired: u8,
    /// How sure the engine is.
    pub proof: Option<Proof>,
    /// The engine's reason code.
    pub reason: Option<ReasonCode>,
    /// What each of the other channels said, if it was asked: `yes`, or why not; and when,
    /// in milliseconds after it could have.
    pub channels: BTreeMap<&'static str, (String, Option<f64>)>,
}

impl Verdict {
    /// That of a story, which says itself what is wrong.
    pub fn of(story: Result<()>) -> Self {
        Self {
            misses: story
                .err()
                .map(|error| format!("{error:#}"))
                .into_iter()
                .collect(),
            ..Self::default()
        }
    }

    /// Whether the first word with the true kind and reason got out.
    pub fn has_word(&self) -> bool {
        self.word_ms.is_some()
    }

    /// Whether the whole log got out.
    pub fn is_complete(&self) -> bool {
        self.lines_received == self.lines_expected
    }
}

/// Judges what a machine left behind after it was told to die at `since`.
pub fn judge(way: &Way, demand: Demand, since: Instant, outcome: &Outcome) -> Result<Verdict> {
    let heard = Heard::from(&outcome.datagrams)?;
    let mut words: Vec<(u64, &Word)> = heard.words().collect();
    // Two threads send them, and one of them may be kept waiting meanwhile.
    words.sort_by_key(|(sent, _)| *sent);
    let is_true = |word: &Word| {
        let kind = word.notice == way.notice || !word.notice.is_final() && way.notice.is_final();
        kind && way.is_why(&word.line)
    };
    let after = |sent: u64, word: &Word| sent.saturating_sub(word.at_ns) as f64 / 1e6;
    let first_ms = words.first().map(|(sent, word)| after(*sent, word));
    let word_ms = words
        .iter()
        .find(|(_, w)| is_true(w))
        .map(|(sent, w)| after(*sent, w));
    let hold_ms = words
        .iter()
        .map(|(_, word)| word.held_ns)
        .max()
        .unwrap_or(0) as f64
        / 1e6;
    let held_at = held(words.iter().map(|(_, word)| word.held_at));
    let holds_expired = words.iter().map(|(_, word)| word.holds_expired).max();
    let expected = expected_lines(way, since, &outcome.console);
    let missing = missing_lines(&expected, &heard.lines);
    let death = heard.death.as_ref();

    let facts = Facts {
        ended: outcome.ended,
        is_ahead: is_ahead(way, since, outcome),
        word: word_ms.is_some(),
        missing: &missing,
        words: &words,
        survived: heard.survived,
        refused: heard.refused,
        death,
    };
    Ok(Verdict {
        waited_ms: outcome.waited_ms,
        misses: facts.misses(way, demand),
        first_ms,
        word_ms,
        lines_expected: expected.len(),
        lines_received: expected.len() - missing.len(),
        hold_ms,
        held_at,
        holds_expired: holds_expired.unwrap_or(0),
        proof: death.map(|d| d.proof),
        reason: death.map(engine::reason_code),
        channels: BTreeMap::new(),
    })
}

/// What a boot says that it is made of; `None` until its hello is whole.
pub fn inventory(said: &[Datagram]) -> Result<Option<Inventory>> {
    let bodies = Heard::from(said)?.bodies.into_iter();
    let mut hello = bodies.filter_map(|(_, body)| match body {
        Body::Hello(inventory) => Some(*inventory),
        _ => None,
    });
    Ok(hello.next_back())
}

/// Whether a boot that said `before`, and no word of its end, is known to be dead
/// once the next one has said `after`.
pub fn next_boot(before: &[Datagram], after: &[Datagram]) -> Result<String> {
    let heard = Heard::from(&[before, after].concat())?;
    let Some(death) = heard.death else {
        return Ok("nobody says that it died".to_owned());
    };
    let is_told = death.state == DeathState::Returned && death.proof == Proof::P4;
    Ok(if is_told {
        "yes".to_owned()
    } else {
        format!("{:?}, {:?}", death.state, death.proof)
    })
}

/// The points of words one after another, each once.
pub fn held(points: impl IntoIterator<Item = HoldPoint>) -> Vec<HoldPoint> {
    let mut held: Vec<HoldPoint> = points.into_iter().collect();
    held.retain(|point| *point != HoldPoint::None);
    held.dedup();
    held
}

/// Whether this is the packet that was to be foreseen.
fn is_told(packet: &Packet, as_is: &Foreseen, is_old: bool) -> bool {
    let list: Vec<u32> = packet.list.iter().map(|element| element.len).collect();
    let called = |function: &String| function.contains(as_is.caller);
    packet.check == as_is.check
        && packet.gso_size == as_is.gso_size
        && list == as_is.list
        && (packet.device.as_str(), packet.driver.as_str()) == as_is.device
        && packet.netns != 0
        && (is_old || packet.stack.iter().any(called))
}

/// What a way's expectations are held against.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct Facts<'a> {
    ended: bool,
    /// Something was out before the console had the line that says why.
    is_ahead: bool,
    word: bool,
    missing: &'a [String],
    words: &'a [(u64, &'a Word)],
    survived: bool,
    refused: usize,
    death: Option<&'a Death>,
}

impl Facts<'_> {
    fn misses(&self, way: &Way, demand: Demand) -> Vec<String> {
        let mut misses = Vec::new();
        let mut must = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                misses.push(what());
            }
        };
        // Whatever gets out, it must not be false, and the machine must not hang.
        let lives = way.is_survived();
        must(self.ended == way.ends(), &|| {
            if way.ends() {
                "the machine hung"
            } else {
                "the machine is gone"
            }
            .to_owned()
        });
        let is_false = |word: &Word| word.notice.is_final() && word.notice != way.notice;
        must(!self.words.iter().any(|(_, w)| is_false(w)), &|| {
            "a word with a false kind".to_owned()
        });
        must(self.refused == 0, &|| {
            format!("{} datagrams refused", self.refused)
        });
        if demand == Demand::End {
            return misses;
        }
        must(self.word, &|| {
            "no word with the true kind and line".to_owned()
        });
        let last = self.words.last().map(|(_, word)| *word);
        must(last.is_none_or(|w| w.notice == way.notice), &|| {
            format!("the last word is not {:?}", way.notice)
        });
        must(last.is_none_or(|w| way.happens_in(w.context)), &|| {
            format!(
                "context {:?}, not {:?}",
                last.map(|w| w.context),
                way.context
            )
        });
        if let Some((name, means)) = way.asked() {
            let asked = last.and_then(|w| w.asked.as_deref());
            must(is_asked(asked, name, means), &|| {
                format!("not asked for by {name} of the pod ({means:?}), but by {asked:?}")
            });
        }
        let reason = self.death.map(engine::reason_code);
        must(reason == Some(way.code), &|| {
            format!("reason {reason:?}, not {:?}", way.code)
        });
        if let Some(bug) = way.bug() {
            let report = self.death.and_then(|death| death.report.as_ref());
            let named = report.and_then(|report| report.known_bugs.first());
            let tells = |known: &KnownBug| known.id == bug && known.workaround.is_some();
            must(named.is_some_and(tells), &|| {
                format!("not named as {bug} with what helps, but {named:?}")
            });
        }
        if let Some(foreseen) = way.foreseen() {
            let first = self.words.first().map(|(_, word)| *word);
            let packet = first.and_then(|word| word.packet.as_deref());
            // Before 5.17 no program can write the names of functions.
            let report = self.death.and_then(|d| d.report.as_ref());
            let release = report.and_then(|report| report.kernel_release.as_deref());
            let is_old = release.is_some_and(|release| release.starts_with("5.1"));
            must(
                packet.is_some_and(|packet| is_told(packet, foreseen, is_old)),
                &|| format!("not foreseen as {foreseen:?}, but {packet:?}"),
            );
            must(self.is_ahead, &|| {
                "foreseen, but not outside before it happened".to_owned()
            });
        }
        let function = self
            .death
            .and_then(|d| d.report.as_ref()?.fault_function.as_deref());
        must(way.function.is_none() || function == way.function, &|| {
            format!("function {function:?}, not {:?}", way.function)
        });
        must(!lives || self.survived, &|| {
            "the agent did not say that it was survived".to_owned()
        });
        if demand == Demand::Everything {
            must(self.missing.is_empty(), &|| {
                format!(
                    "{} lines missing, first {:?}",
                    self.missing.len(),
                    self.missing.first()
                )
            });
        }
        misses
    }
}

/// Whether it began with this process of the pod, a child of PID 1, and in this way.
fn is_asked(asked: Option<&Asked>, name: &str, means: Option<Means>) -> bool {
    let Some((asked, origin)) = asked.and_then(|asked| Some((asked, asked.origin()?))) else {
        return false;
    };
    origin.process.comm == name
        && origin.pod_uid().as_deref() == Some(ways::POD_UID)
        && origin.cgroups.first().map(String::as_str) == ways::POD_CGROUPS.last().copied()
        && origin.parents.iter().map(|p| p.pid).eq([1])
        && asked.told.as_ref().map(|told| told.means) == means
}

/// What an annotator would know.
struct Heard {
    /// When each was sent, by the guest's clock, and what it said.
    bodies: Vec<(u64, Body)>,
    lines: Vec<Line>,
    death: Option<Death>,
    survived: bool,
    refused: usize,
}

impl Heard {
    fn from(datagrams: &[Datagram]) -> Result<Self> {
        let key = Key::new(node::KEY.trim_ascii()).context("the lab's key")?;
        let (sender, mut taker) = queue(8192);
        let mut messages = Vec::new();
        let counters = Arc::new(Counters::new(16));
        let keys = Arc::new(KeyRing::pre_shared(key));
        let mut handler = Handler::new(keys, sender, counters, receiver::Limits::default());
        let mut assembler = Assembler::new(channel::Limits::default());
        let mut engine = Engine::new(engine::Limits::default());
        let source = SocketAddr::from(([10, 0, 2, 15], 1));
        let mut heard = Self {
            bodies: Vec::new(),
            lines: Vec::new(),
            death: None,
            survived: false,
            refused: 0,
        };
        let ours = |datagram: &&Datagram| datagram.port == node::COLLECTOR_PORT;
        for (i, datagram) in datagrams.iter().filter(ours).enumerate() {
            let now = Timestamp(1_000_000 + i as u64);
            let outcome = handler.handle(&datagram.payload, source, now).as_str();
            if !matches!(outcome, "accepted" | "duplicate" | "fragment") {
                heard.refused += 1;
            }
            taker.take_now(&mut messages, usize::MAX);
            for received in messages.drain(..) {
                heard
                    .bodies
                    .push((received.gasp.mono_ns, received.gasp.body.clone()));
                heard.survived |= received.gasp.body == Body::Survived;
                engine.step(now, Input::Said(received.gasp.clone()));
                if let Some(update) = assembler.take(&received) {
                    heard.lines.extend(update.fresh_lines);
                    if let Some(report) = update.report {
                        let (node, boot) = (update.node, update.boot);
                        engine.step(now, Input::Decoded { node, boot, report });
                    }
                }
            }
        }
        heard.death = engine.deaths().next().cloned();
        heard.lines.sort_by_key(|line| line.seq);
        Ok(heard)
    }

    fn words(&self) -> impl Iterator<Item = (u64, &Word)> {
        self.bodies.iter().filter_map(|(sent, body)| match body {
            Body::Word(word) => Some((*sent, word)),
            _ => None,
        })
    }
}

/// Whether a word was outside before the console had the line that says why.
fn is_ahead(way: &Way, since: Instant, outcome: &Outcome) -> bool {
    let is_word = |datagram: &&Datagram| {
        let frame = Frame::parse(&datagram.payload);
        datagram.at >= since && frame.is_ok_and(|frame| frame.kind() == Kind::Word)
    };
    let is_why =
        |(at, line): &&ConsoleLine| *at >= since && text(line).is_some_and(|t| way.is_why(t));
    let word = outcome.datagrams.iter().find(is_word).map(|d| d.at);
    let why = outcome.console.iter().find(is_why).map(|(at, _)| *at);
    word.zip(why).is_some_and(|(word, why)| word < why)
}

/// What the kernel prints once the other CPUs are stopped, or while it stops them
/// (arm64's `smp_send_stop`).
const AFTER_THE_STOP: &[&str] = &[
    "SMP: stopping secondary CPUs",
    "Shutting down cpus with NMI",
    "Kernel Offset: ",
    "Rebooting in ",
    "---[ end Kernel panic",
    "reboot: ",
    "pstore: ",
];

/// A warning behind the panic: a CPU that is about to be stopped finds that another is
/// offline (`native_smp_send_reschedule`, `set_task_cpu`), as stopping marks them so.
const WARNING: &str = "------------[ cut here ]------------";
/// How panics say so.
const PANIC: &str = "Kernel panic - not syncing: ";

/// Behind a line during which another CPU took the console over: it comes again
/// (`nbcon_emit_next_record`, kernel/printk/nbcon.c).
const REPLAY: &str = "** replaying previous printk message **";

/// The times that one kernel prints never go back by more, in seconds.
const CLOCKS_DIFFER: f64 = 1.0;

/// The lines of the console from the first of the death to the stop, or to the first of
/// the crash kernel.
fn expected_lines(way: &Way, since: Instant, console: &[ConsoleLine]) -> Vec<String> {
    if way.line.is_empty() {
        // Nothing is printed before the devices go.
        return Vec::new();
    }
    let console: Vec<&ConsoleLine> = console.iter().filter(|(at, _)| *at >= since).collect();
    let next = console.iter().skip(1).map(Some).chain([None]);
    let mut newest = 0.0;
    let texts = console
        .iter()
        .zip(next)
        .take_while(|((_, line), _)| {
            let time = seconds(line).unwrap_or(newest);
            newest = time.max(newest);
            // A crash kernel's begins anew.
            time > newest - CLOCKS_DIFFER
        })
        .filter(|(_, next)| next.is_none_or(|(_, next)| next != REPLAY))
        .filter_map(|((_, line), _)| text(line));
    let from_cause = texts.skip_while(|text| !way.is_why(text));
    let mut is_panic = false;
    let to_stop = from_cause.take_while(|text| {
        is_panic |= text.starts_with(PANIC);
        let is_after = AFTER_THE_STOP.iter().any(|end| text.starts_with(end));
        !(is_after || is_panic && *text == WARNING)
    });
    to_stop.map(str::to_owned).collect()
}

/// When a kernel printed a line, by its own clock.
fn seconds(line: &str) -> Option<f64> {
    let (time, _) = line.strip_prefix('[')?.split_once(']')?;
    time.trim_start().parse().ok()
}

/// A console line without `[    1.234567] ` or `[    1.234567][   T12] `.
pub(super) fn text(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_prefix('[')?.split_once("] ")?;
    Some(rest)
}

/// Those of `expected` that are not in `received`, as often as they should be.
fn missing_lines(expected: &[String], received: &[Line]) -> Vec<String> {
    let mut have: BTreeMap<String, usize> = BTreeMap::new();
    let mut whole: Vec<(u16, String)> = Vec::new();
    // What the kernel could not put behind its line any more it shows by itself.
    let pieces: BTreeSet<String> = received.iter().map(|l| printable(&l.text)).collect();
    for line in received {
        // A continuation belongs to the last line of the same CPU.
        match whole.iter_mut().rfind(|(cpu, _)| *cpu == line.cpu) {
            Some((_, text)) if line.continues => text.push_str(&line.text),
            _ => whole.push((line.cpu, line.text.clone())),
        }
    }
    for (_, text) in whole {
        for part in text.split('\n') {
            *have.entry(printable(part)).or_default() += 1;
        }
    }
    let mut missing = Vec::new();
    for line in expected {
        match have.get_mut(&printable(line)) {
            Some(left) if *left > 0 => *left -= 1,
            None if pieces.contains(&printable(line)) => {}
            _ => missing.push(line.clone()),
        }
    }
    missing
}

/// Lines of a death that are proven, and shown once more because netconsole had them too.
pub(super) fn shown_twice(
    way: &Way,
    since: Instant,
    outcome: &Outcome,
    overheard: &[Line],
) -> Result<Vec<String>> {
    let lines = Heard::from(&outcome.datagrams)?.lines;
    let mut proven = expected_lines(way, since, &outcome.console);
    let missing = missing_lines(&proven, &lines);
    proven.retain(|line| !missing.contains(line));
    let proven: BTreeSet<&str> = proven.iter().map(|line| line.trim()).collect();
    let unproven = engine::merged(lines, overheard);
    let unproven = unproven.into_iter().filter(|line| line.unproven);
    let texts = unproven.map(|line| line.line.text);
    Ok(texts.filter(|text| proven.contains(text.trim())).collect())
}

/// Consoles show some bytes in their own way; spaces at the end do not count.
fn printable(text: &str) -> String {
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, text: &str, continues: bool) -> Line {
        Line {
            seq,
            mono_ns: 0,
            cpu: 0,
            level: None,
            continues,
            text: text.to_owned(),
        }
    }

    #[test]
    fn lines_are_counted_as_often_as_they_are_printed() {
        let expected: Vec<String> = ["a", "b c", "a"].map(str::to_owned).to_vec();
        let received = [
            line(0, "a", false),
            line(1, "b", false),
            line(2, " c", true),
        ];
        assert_eq!(missing_lines(&expected, &received), ["a"]);
    }

    #[test]
    fn a_continuation_may_be_shown_by_itself() {
        let expected: Vec<String> = ["rcu: 1-", "(t=750)", "(t=9)"].map(str::to_owned).to_vec();
        let received = [line(0, "rcu: 1-", false), line(1, "(t=750)", true)];
        assert_eq!(missing_lines(&expected, &received), ["(t=9)"]);
    }

    #[test]
    fn the_window_is_from_the_cause_to_the_stop() {
        let since = Instant::now();
        let console: Vec<ConsoleLine> = [
            "[    1.0] boom: loading",
            "[    1.1] BUG: kernel NULL pointer dereference, address: 0",
            "[    1.1] Kernel pa",
            REPLAY,
            "[    1.1] Kernel panic - not syncing: Fatal exception",
            "[    1.1] Kernel Offset: 0x1",
            "[    1.1] later",
        ]
        .map(|text| (since, text.to_owned()))
        .to_vec();
        let way = &super::super::ways::ALL[1];
        assert_eq!(expected_lines(way, since, &console).len(), 2);
    }

    #[test]
    fn what_cpus_say_while_they_are_stopped_is_not_of_the_death() {
        let since = Instant::now();
        let console: Vec<ConsoleLine> = [
            "[   24.115409] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[   24.146818] Kernel panic - not syncing: Fatal exception in interrupt",
            "[   24.162791] ------------[ cut here ]------------",
            "[   24.166052] sched: Unexpected reschedule of offline CPU#1!",
        ]
        .map(|text| (since, text.to_owned()))
        .to_vec();
        let way = &super::super::ways::ALL[1];
        assert_eq!(expected_lines(way, since, &console).len(), 2);
    }

    #[test]
    fn what_a_crash_kernel_says_is_not_of_the_death() {
        let since = Instant::now();
        let console: Vec<ConsoleLine> = [
            "[    9.100000][  T345] BUG: kernel NULL pointer dereference, address: 0",
            "[    9.099999][    C1] CR2: 0000000000000000",
            "[    0.512345] No irq handler for 0.36",
        ]
        .map(|text| (since, text.to_owned()))
        .to_vec();
        let way = &super::super::ways::ALL[1];
        assert_eq!(expected_lines(way, since, &console).len(), 2);
    }
}
