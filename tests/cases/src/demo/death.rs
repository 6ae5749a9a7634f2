//! Watching one death: what leaves the machine, and what becomes of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_core::model::{DeathState, Line};
use anyhow::{Context as _, Result};
use harness::vm::{ConsoleLine, Vm};
use lastgasp::store::{PodNote, Query, Store, Summary};

use super::cluster::{CODE, InCluster};
use super::figures::Figures;
use super::go_on;
use super::heard::{Heard, News, telling};
use super::screen::{Screen, Style};
use crate::annotator::Annotator;
use crate::lab::ways::Way;
use crate::node::{self, NAME};

/// A death and all that follows may take this long.
const END: Duration = Duration::from_secs(30);
/// A survived oops is watched this long: the agent says so after three seconds.
const WATCH: Duration = Duration::from_secs(6);
/// How often everything is looked at. Each datagram, console line and pod has
/// its own time; looking more often would only take the CPU from the patches.
const ROUND: Duration = Duration::from_millis(10);

/// What is watched.
pub(super) struct Death<'a> {
    /// How the machine dies.
    pub(super) way: &'a Way,
    /// Where it is shown.
    pub(super) screen: Screen,
    /// Who is told.
    pub(super) annotator: &'a Annotator,
    /// Where the pods are, if in a cluster.
    pub(super) cluster: Option<&'a InCluster>,
}

/// What is shown of the kernel's lines: the telling ones, the others counted.
#[derive(Default)]
struct Story {
    /// Starts of lines that were shown; a story has one of each.
    shown: BTreeSet<&'static str>,
    /// From before the crash: the agent keeps some.
    earlier: usize,
    waiting: usize,
}

impl Death<'_> {
    /// Kills the machine and watches. The figures, and what is missing.
    pub(super) fn watch(&self, mut vm: Vm, dir: &Path) -> Result<(Figures, Vec<String>)> {
        let since = Instant::now();
        let mut figures = Figures::default();
        let mut heard = Heard::default();
        let mut story = Story::default();
        let mut reason = None;
        node::die(&mut vm, self.way, Duration::ZERO, 0)?;
        let until = since + if self.way.is_survived() { WATCH } else { END };
        while Instant::now() < until && !self.is_done(&figures) {
            go_on()?;
            if figures.first.is_none() {
                self.console(&vm.console(), since, &mut figures);
            }
            if let Ok(datagram) = vm.datagrams.recv_timeout(ROUND) {
                let news = heard.take(&datagram, self.way);
                Self::moments(&heard, &mut figures);
                self.tell(datagram.at, news, &figures, &mut story);
                // What is written is looked at once nothing more comes in.
                continue;
            }
            if figures.first.is_some() {
                self.written(&mut figures, &mut reason)?;
            }
        }
        // What came in after the last pod was told belongs to it all the same.
        let at_most = if self.way.is_survived() {
            Duration::ZERO
        } else {
            Duration::from_secs(20)
        };
        let outcome = vm.finish(at_most)?;
        for datagram in &outcome.datagrams {
            let news = heard.take(datagram, self.way);
            self.tell(datagram.at, news, &figures, &mut story);
        }
        Self::moments(&heard, &mut figures);
        self.console(&outcome.console, since, &mut figures);
        fs::write(
            dir.join("console.txt"),
            console_text(&outcome.console, since),
        )?;
        story.end(self.screen);
        let total = format!(
            "{} lines in {} datagrams got out",
            heard.lines(),
            heard.datagrams
        );
        self.screen.moment(None, &total, Style::Faint);
        let mut missing = self.missing(&figures)?;
        if outcome.ended != self.way.ends() {
            let what = if self.way.ends() {
                "the machine hung instead of ending"
            } else {
                "the machine is gone"
            };
            missing.push(what.to_owned());
        }
        Ok((figures, missing))
    }

    fn is_done(&self, figures: &Figures) -> bool {
        !self.way.is_survived() && figures.last_pod.is_some() && figures.condition.is_some()
    }

    fn console(&self, console: &[ConsoleLine], since: Instant, figures: &mut Figures) {
        let line = |is_it: &dyn Fn(&str) -> bool| {
            let found = |(at, line): &&ConsoleLine| {
                let text = line.split_once("] ").map(|(_, text)| text);
                *at >= since && text.is_some_and(is_it)
            };
            console.iter().find(found).map(|(at, _)| *at)
        };
        if !self.way.line.is_empty()
            && let Some(at) = line(&|text| self.way.is_why(text))
        {
            figures.crash = Some(figures.crash.map_or(at, |crash| crash.min(at)));
        }
        figures.panic_line = figures
            .panic_line
            .or_else(|| line(&|text| text.starts_with("Kernel panic - ")));
    }

    fn moments(heard: &Heard, figures: &mut Figures) {
        if let Some(hook) = heard.hook {
            figures.crash = Some(figures.crash.map_or(hook, |crash| crash.min(hook)));
        }
        figures.first = heard.first;
        figures.true_word = heard.true_word;
        figures.final_word = heard.final_word;
        figures.held = heard.held;
    }

    fn tell(&self, at: Instant, news: Vec<News>, figures: &Figures, story: &mut Story) {
        let after = figures.after_crash(at);
        for one in news {
            match one {
                News::Word(word) => {
                    let what = if Some(at) == figures.first {
                        "first datagram"
                    } else {
                        "word"
                    };
                    let line = if word.line.is_empty() {
                        "(no line yet)"
                    } else {
                        word.line.as_str()
                    };
                    let text =
                        format!("{what}: {:?}, CPU {}, {}", word.notice, word.cpu, word.comm);
                    self.screen.moment(after, &text, Style::Cyan);
                    self.screen.moment(None, line, Style::Cyan);
                }
                News::Line(line) => story.take(self.screen, after, &line, self.way),
            }
        }
    }

    /// Looks at what the annotator has written so far.
    fn written(&self, figures: &mut Figures, reason: &mut Option<String>) -> Result<()> {
        let code = self.way.code.as_str();
        if let Some(cluster) = self.cluster {
            let seen = cluster.seen(code);
            if let Some(why) = seen.failed {
                anyhow::bail!("the API server can no longer be watched: {why}");
            }
            if let (Some((at, message)), None) = (&seen.condition, figures.condition) {
                figures.condition = Some(*at);
                self.said(figures, *at, "Node condition KernelPanic", message);
            }
            self.progress(figures, seen.count, cluster.eligible(), seen.last);
        } else {
            let Some((death, pods)) = self.stored()? else {
                return Ok(());
            };
            let now = Instant::now();
            let said = &death.reason;
            if figures.condition.is_none() {
                figures.condition = Some(now);
                self.said(figures, now, "death in the store", said);
            } else if reason.as_ref() != Some(said) {
                self.screen
                    .moment(figures.after_crash(now), said, Style::Bold);
            }
            *reason = Some(said.clone());
            let is_true = death.reason_code.as_str() == code && !self.way.is_survived();
            let count = if is_true { known(&pods) } else { 0 };
            self.progress(figures, count, super::pods().len(), Some(now));
        }
        Ok(())
    }

    fn said(&self, figures: &Figures, at: Instant, what: &str, words: &str) {
        self.screen
            .moment(figures.after_crash(at), what, Style::Green);
        self.screen.moment(None, words, Style::Bold);
    }

    fn progress(&self, figures: &mut Figures, count: usize, of: usize, last: Option<Instant>) {
        figures.eligible = of;
        let (before, all) = (figures.told, count >= of);
        figures.told = count;
        let Some(at) = last.filter(|_| count > before) else {
            return;
        };
        if all {
            figures.last_pod = Some(at);
        }
        // A line for the first, for each quarter, and for the last.
        if before == 0 || all || count * 4 / of != before * 4 / of {
            let bar: String = (0..30)
                .map(|i| if i * of < count * 30 { '#' } else { '.' })
                .collect();
            let text = format!("pods told [{bar}] {count}/{of}");
            self.screen
                .moment(figures.after_crash(at), &text, Style::Green);
        }
    }

    /// The death in the store, with its pods.
    fn stored(&self) -> Result<Option<(Summary, Vec<PodNote>)>> {
        let store = Store::open_to_read(&self.annotator.store).context("the annotator's store")?;
        let answer = store.why(&Query::Node(NAME.to_owned()), 0)?;
        Ok(answer.and_then(|answer| Some((answer.summary?, answer.pods))))
    }

    fn missing(&self, figures: &Figures) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        if self.way.is_survived() {
            let state = self.stored()?.map(|(answer, _)| answer.death.state);
            if state != Some(DeathState::Survived) {
                missing.push(format!("the annotator says {state:?}, not Survived"));
            }
        }
        if !self.way.is_survived() && figures.true_word.is_none() {
            missing.push("no word with the true reason left the machine".to_owned());
        }
        let told = match self.cluster {
            Some(cluster) => self.told_in(cluster, &mut missing)?,
            None => self.stored()?.map_or(0, |(death, pods)| {
                if self.is_true(&death) {
                    known(&pods)
                } else {
                    0
                }
            }),
        };
        let of = if self.way.is_survived() {
            0
        } else {
            figures.eligible
        };
        if told != of || (of == 0 && !self.way.is_survived()) {
            missing.push(format!(
                "{told} of {of} pods carry {}",
                self.way.code.as_str()
            ));
        }
        Ok(missing)
    }

    fn is_true(&self, death: &Summary) -> bool {
        !self.way.is_survived() && death.reason_code == self.way.code
    }

    /// Asks the API server again, whatever the watch has shown.
    fn told_in(&self, cluster: &InCluster, missing: &mut Vec<String>) -> Result<usize> {
        let mut told = 0;
        for (kind, pod) in cluster.pods()? {
            let code = pod
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(CODE));
            match (code, kind.is_eligible()) {
                (Some(code), true) if code == self.way.code.as_str() => told += 1,
                (Some(code), _) => {
                    let name = pod.metadata.name.unwrap_or_default();
                    missing.push(format!("pod {name} ({kind:?}) says {code}"));
                }
                (None, _) => {}
            }
        }
        Ok(told)
    }
}

/// How many pods the store connects with a death.
fn known(pods: &[PodNote]) -> usize {
    let told = |outcome: &str| outcome == "annotated" || outcome == "recorded";
    pods.iter().filter(|note| told(&note.outcome)).count()
}

impl Story {
    fn take(&mut self, screen: Screen, after: Option<Duration>, line: &Line, way: &Way) {
        // sysrq says so before it crashes, a restart has no line of its own.
        let start = telling(&line.text);
        let is_first = start.is_some() || way.is_why(&line.text);
        if self.shown.is_empty() && !is_first {
            self.earlier += 1;
            return;
        }
        if start.is_some_and(|start| self.shown.insert(start)) {
            self.end(screen);
            screen.moment(after, &line.text, Style::Plain);
        } else {
            self.waiting += 1;
        }
    }

    /// Says how many lines were passed over.
    fn end(&mut self, screen: Screen) {
        if self.earlier > 0 {
            let text = format!("... {} from before the crash", self.earlier);
            screen.moment(None, &text, Style::Faint);
            self.earlier = 0;
        }
        if self.waiting > 0 {
            let lines = if self.waiting == 1 { "line" } else { "lines" };
            let text = format!("... {} more {lines}", self.waiting);
            screen.moment(None, &text, Style::Faint);
            self.waiting = 0;
        }
    }
}

fn console_text(console: &[ConsoleLine], since: Instant) -> String {
    let mut text = String::from("The console; milliseconds since the command to die.\n");
    for (at, line) in console {
        let ms = at.saturating_duration_since(since).as_secs_f64() * 1e3;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{ms:9.1} {line}");
    }
    text
}
