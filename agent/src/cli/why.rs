//! `lastgasp why`.

use std::fmt::Write;
use std::process::ExitCode;

use agent_core::engine::{asker_text, packet_text, rfc3339, told_text};
use agent_core::model::{
    Account, Asked, Asker, Channel, DeathState, KnownBug, Line, LogLine, MitigationState, Packet,
    Proof, RetryAdvice,
};
use agent_core::recurrence::{Kind, Recurrence};

use super::ask::{Format, NOTHING_KNOWN, Source};
use super::out::{self, Style, sanitize, styled};
use crate::store::{Explanation, Mitigated, PodNote, Query, Removed, Silent, Stopped, Summary};

const EXAMPLES: &str = "\
Examples:
  lastgasp why web-5d9c                 a pod, a node or a death of that name
  lastgasp why shop/web-5d9c            a pod in a namespace
  lastgasp why pod/web-5d9c -n shop     the same
  lastgasp why node/w01 --lines 100     with more of the kernel's last lines
  lastgasp why node/w01 -o json | jq -r .reason_code

Pods and nodes need not exist any more.
Exit code: 0 if a reason is known, 3 if none is, 1 if it cannot be told.";

/// In front of a line that netconsole alone told.
const UNPROVEN: &str = "(netconsole, unproven) ";

/// Say why a pod or a node went, and whether to run the work again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// POD, NAMESPACE/POD, pod/POD or node/NODE
    #[arg(value_name = "NAME")]
    name: String,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    source: Source,
    /// How many of the kernel's last lines to show, 0 to 8192
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=8192))]
    lines: u32,
    /// How to print it [default: text]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let query = query(&args.name, args.namespace.as_deref());
    let Some(answer) = args.source.why(&query, args.lines)? else {
        let text = format!("nothing is known of {}\n", sanitize(&args.name));
        out::bytes(text.as_bytes())?;
        return Ok(ExitCode::from(NOTHING_KNOWN));
    };
    let text = match args.output {
        Some(Format::Json) => out::json(&answer)?,
        Some(Format::Yaml) => out::yaml(&answer)?,
        Some(Format::Wide) => told(&answer, true, out::colour())?,
        None => told(&answer, false, out::colour())?,
    };
    out::bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn query(name: &str, namespace: Option<&str>) -> Query {
    let pod = |namespace: Option<&str>, name: &str| Query::Pod {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    match name.split_once('/') {
        Some(("pod" | "pods" | "po", rest)) => match rest.split_once('/') {
            Some((inner, name)) => pod(Some(inner), name),
            None => pod(namespace, rest),
        },
        Some(("node" | "nodes" | "no", node)) => Query::Node(node.to_owned()),
        Some((namespace, name)) => pod(Some(namespace), name),
        None if namespace.is_some() => pod(namespace, name),
        None => Query::Any(name.to_owned()),
    }
}

fn told(answer: &Explanation, wide: bool, colour: bool) -> Result<String, std::fmt::Error> {
    let mut page = Page {
        out: String::new(),
        colour,
    };
    let pod = answer.pod.as_ref();
    if let Some(silent) = &answer.silent {
        page.silent(silent, pod)?;
    }
    let removed = answer.removed.iter();
    let removed = removed.map(|removed| (removed.removal.at, Part::Removed(removed)));
    let stopped = answer.stop.iter();
    let stopped = stopped.map(|stopped| (stopped.stop.at, Part::Stopped(stopped)));
    let died = answer.summary.iter();
    let died = died.map(|summary| (summary.death.detected_at, Part::Died(summary)));
    let mut parts: Vec<_> = removed.chain(stopped).chain(died).collect();
    parts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (_, part) in parts {
        match part {
            Part::Removed(removed) => page.removed(removed, pod)?,
            Part::Stopped(stopped) => page.stopped(stopped)?,
            Part::Died(summary) => {
                page.death(summary, answer.recurrence.as_ref(), pod)?;
            }
        }
    }
    for mitigated in &answer.mitigations {
        page.mitigated(mitigated)?;
    }
    if wide && !answer.pods.is_empty() {
        page.heading("Pods")?;
        for note in &answer.pods {
            let pod = format!("{}/{}  {}", note.pod.namespace, note.pod.name, note.outcome);
            writeln!(page.out, "  {}", sanitize(&pod))?;
        }
    }
    if !answer.lines.is_empty() {
        page.heading("Last lines of the kernel")?;
        for LogLine { line, unproven } in &answer.lines {
            let time = page.faint(&printk_time(line));
            let mark = if *unproven {
                page.faint(UNPROVEN)
            } else {
                String::new()
            };
            writeln!(page.out, "  {time} {mark}{}", sanitize(&line.text))?;
        }
    }
    Ok(page.out)
}

/// What a node came to, each at its time: the newest is told first.
enum Part<'a> {
    Removed(&'a Removed),
    Stopped(&'a Stopped),
    Died(&'a Summary),
}

/// The answer as it is written.
struct Page {
    out: String,
    colour: bool,
}

impl Page {
    /// Begins another part.
    fn headline(&mut self, text: &str, style: Style) -> std::fmt::Result {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        writeln!(self.out, "{}", styled(&sanitize(text), style, self.colour))
    }

    fn heading(&mut self, text: &str) -> std::fmt::Result {
        writeln!(self.out, "\n{}", styled(text, Style::Bold, self.colour))
    }

    fn field(&mut self, name: &str, value: &str) -> std::fmt::Result {
        writeln!(self.out, "  {name:<9} {value}")
    }

    fn faint(&self, text: &str) -> String {
        styled(text, Style::Faint, self.colour)
    }

    fn pod(&mut self, note: &PodNote) -> std::fmt::Result {
        let pod = format!("{}/{}", note.pod.namespace, note.pod.name);
        self.field("pod", &sanitize(&format!("{pod}, {}", note.outcome)))?;
        if let Some((kind, name)) = &note.owner {
            self.field("owner", &sanitize(&format!("{kind}/{name}")))?;
        }
        Ok(())
    }

    fn silent(&mut self, silent: &Silent, pod: Option<&PodNote>) -> std::fmt::Result {
        let silence = &silent.silence;
        self.headline(&silent.verdict, Style::Bold)?;
        self.field("node", silence.node.as_str())?;
        self.field("boot", &silence.boot.to_string())?;
        if let Some(heard) = silence.heard {
            self.field("heard", &rfc3339(heard))?;
        }
        self.field("since", &rfc3339(silence.since))?;
        if let Some(note) = pod {
            self.pod(note)?;
        }
        self.accounts(&silence.channels)
    }

    fn removed(&mut self, removed: &Removed, pod: Option<&PodNote>) -> std::fmt::Result {
        let removal = &removed.removal;
        self.headline(&removed.verdict, Style::Bold)?;
        self.field("node", removal.node.as_str())?;
        if let Some(seen) = removal.seen {
            self.field("seen", &rfc3339(seen))?;
        }
        self.field("noticed", &rfc3339(removal.at))?;
        self.field("who", &sanitize(&removal.who))?;
        if let Some(why) = &removal.why {
            self.field("why", &sanitize(why))?;
        }
        for event in &removal.events {
            let at = event.at.map_or_else(|| "-".to_owned(), rfc3339);
            let text = format!("{at}  {} {}: {}", event.by, event.reason, event.note);
            self.field("event", &sanitize(&text))?;
        }
        if let Some(note) = pod {
            self.pod(note)?;
        }
        Ok(())
    }

    fn stopped(&mut self, stopped: &Stopped) -> std::fmt::Result {
        let stop = &stopped.stop;
        self.headline(&stopped.verdict, Style::Bold)?;
        self.field("node", stop.node.as_str())?;
        self.field("boot", &stop.boot.to_string())?;
        self.field("when", &rfc3339(stop.at))?;
        match &stop.told.by {
            Some(by) => self.origin(by),
            None => Ok(()),
        }
    }

    fn mitigated(&mut self, mitigated: &Mitigated) -> std::fmt::Result {
        let mitigation = &mitigated.mitigation;
        self.headline("What is done against it", Style::Bold)?;
        self.field("node", &sanitize(&mitigated.node))?;
        self.field("what", &sanitize(&mitigated.text))?;
        let mode = mitigation.mode.as_str();
        let state = format!(
            "{}, as the agent's mode is {mode}",
            mitigation.state.as_str()
        );
        self.field("state", &state)?;
        self.field("since", &rfc3339(mitigation.since))?;
        if mitigation.state == MitigationState::Applied {
            self.field("undo", "lastgasp mitigate undo, where its agent runs")?;
        }
        Ok(())
    }

    fn accounts(&mut self, accounts: &[Account]) -> std::fmt::Result {
        if accounts.is_empty() {
            return Ok(());
        }
        self.heading("What each channel would have shown")?;
        for account in accounts {
            let name = channel(account.channel);
            let would = self.faint(&sanitize(&account.would));
            writeln!(self.out, "  {name:<12}  {}", sanitize(&account.did))?;
            writeln!(self.out, "  {:<12}  {would}", "")?;
        }
        Ok(())
    }

    fn known_bug(&mut self, bug: &KnownBug) -> std::fmt::Result {
        let sure = if bug.likely { "likely" } else { "possible" };
        let text = format!("{} ({sure}): {}", bug.id, bug.title);
        self.field("known bug", &sanitize(&text))?;
        if let Some(version) = &bug.fixed_in {
            self.field("", &sanitize(&format!("fixed in {version}")))?;
        }
        for text in [&bug.workaround, &bug.reference].into_iter().flatten() {
            self.field("", &sanitize(text))?;
        }
        Ok(())
    }

    /// The packet that was seen beforehand, and where it came from.
    fn packet(&mut self, packet: &Packet) -> std::fmt::Result {
        self.field("foreseen", &sanitize(&packet_text(packet)))?;
        if packet.netns != 0 {
            self.field("", &format!("in network namespace {}", packet.netns))?;
        }
        if let Some(uid) = packet.pod_uid() {
            self.field("", &sanitize(&format!("from a socket of pod {uid}")))?;
        }
        for name in &packet.stack {
            self.field("", &sanitize(&format!("by {name}")))?;
        }
        Ok(())
    }

    fn asked(&mut self, asked: &Asked) -> std::fmt::Result {
        self.field("asked by", &sanitize(&asker_text(&asked.by)))?;
        if let Some(told) = &asked.told {
            self.field("", &sanitize(&told_text(told)))?;
        }
        self.origin(asked.origin().unwrap_or(&asked.by))
    }

    /// Who started it, and where it belongs.
    fn origin(&mut self, origin: &Asker) -> std::fmt::Result {
        for parent in &origin.parents {
            let text = format!("started by {} (pid {})", parent.comm, parent.pid);
            self.field("", &sanitize(&text))?;
        }
        if !origin.cgroups.is_empty() {
            self.field("cgroup", &sanitize(&origin.cgroup()))?;
        }
        Ok(())
    }

    fn death(
        &mut self,
        summary: &Summary,
        recurrence: Option<&Recurrence>,
        pod: Option<&PodNote>,
    ) -> std::fmt::Result {
        let death = &summary.death;
        let style = match death.state {
            DeathState::Survived | DeathState::Revoked => Style::Bold,
            DeathState::Suspected | DeathState::Dead | DeathState::Returned => Style::Red,
        };
        self.headline(&summary.reason, style)?;
        self.field("code", summary.reason_code.as_str())?;
        if let Some(note) = pod {
            self.pod(note)?;
        }
        self.field("node", death.node.as_str())?;
        self.field("boot", &death.boot.to_string())?;
        if let Some(release) = &death.kernel_release {
            self.field("kernel", &sanitize(release))?;
        }
        for bug in death.report.iter().flat_map(|report| &report.known_bugs) {
            self.known_bug(bug)?;
        }
        if let Some(packet) = &death.packet {
            self.packet(packet)?;
        }
        if let Some(asked) = death.word.as_ref().and_then(|word| word.asked.as_ref()) {
            self.asked(asked)?;
        }
        self.field("when", &rfc3339(death.happened_at))?;
        if let Some(recurrence) = recurrence {
            self.field("recurs", &sanitize(&recurrence.text))?;
            if let Kind::Crash(fingerprint) = Kind::of(death) {
                let next = format!("lastgasp fleet --fingerprint {fingerprint}");
                self.field("", &sanitize(&next))?;
            }
        }
        self.field("state", state(death.state))?;
        self.field(
            "proof",
            &format!("{:?}, {}", death.proof, proof(death.proof)),
        )?;
        let retry = styled(
            summary.retry.as_str(),
            retry_style(summary.retry),
            self.colour,
        );
        self.field(
            "retry",
            &format!("{retry}: {}", sanitize(&summary.retry_why)),
        )?;
        self.field("death", death.name.as_str())?;
        self.field("pods", &format!("{} told", summary.pods_annotated))?;

        if !death.steps.is_empty() {
            self.heading("Why it is believed")?;
            for step in &death.steps {
                let at = self.faint(&rfc3339(step.at));
                let text = sanitize(&step.text);
                writeln!(self.out, "  {at}  {:?}  {text}", step.proof)?;
            }
        }
        self.accounts(&death.channels)?;
        self.heading("Timeline")?;
        for evidence in &death.evidence {
            let at = self.faint(&rfc3339(evidence.at));
            let name = channel(evidence.channel);
            writeln!(self.out, "  {at}  {name:<12}  {}", sanitize(&evidence.text))?;
        }
        Ok(())
    }
}

fn channel(channel: Channel) -> String {
    format!("{channel:?}").to_lowercase()
}

fn state(state: DeathState) -> &'static str {
    match state {
        DeathState::Suspected => {
            "suspected: an oops; it is not known yet whether the node survived"
        }
        DeathState::Survived => "survived: the kernel lived on",
        DeathState::Dead => "dead",
        DeathState::Revoked => "revoked: the same boot spoke again",
        DeathState::Returned => "returned: the node runs another boot now",
    }
}

fn proof(proof: Proof) -> &'static str {
    match proof {
        Proof::P0 => "unauthenticated text",
        Proof::P1 => "an authenticated report; the node may have lived on",
        Proof::P2 => "an authenticated last word",
        Proof::P3 => "an authenticated last word, and silence since",
        Proof::P4 => "the node is back with another boot",
    }
}

fn retry_style(advice: RetryAdvice) -> Style {
    match advice {
        RetryAdvice::Safe => Style::Green,
        RetryAdvice::Unsafe => Style::Red,
        RetryAdvice::Unknown => Style::Bold,
    }
}

/// As dmesg prints it: seconds since boot.
fn printk_time(line: &Line) -> String {
    let us = line.mono_ns / 1_000;
    format!("[{:>5}.{:06}]", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        let pod = |namespace: Option<&str>, name: &str| Query::Pod {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        for (name, namespace, want) in [
            ("web-1", None, Query::Any("web-1".into())),
            ("web-1", Some("shop"), pod(Some("shop"), "web-1")),
            ("shop/web-1", None, pod(Some("shop"), "web-1")),
            ("pod/web-1", None, pod(None, "web-1")),
            ("pod/web-1", Some("shop"), pod(Some("shop"), "web-1")),
            ("pod/shop/web-1", None, pod(Some("shop"), "web-1")),
            ("node/w01", None, Query::Node("w01".into())),
        ] {
            assert_eq!(query(name, namespace), want, "{name}");
        }
    }
}
