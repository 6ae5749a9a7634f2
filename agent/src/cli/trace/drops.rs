//! `lastgasp trace drops`: what is dropped now, why, and whose it is.

mod human;
mod json;
mod view;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent_core::drops::{Class, Filter, Protocol, Reasons};
use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::out;
use crate::kernel::drops::{self, Drops, Kernel, Wanted};
use crate::kernel::role::{Candidate, How};
use crate::node::netns::{HOST, Namespaces};
use crate::probes::drops::ROLE;
use view::View;

/// How often samples are taken out of the ring: a second of them fits in.
const LOOK: Duration = Duration::from_millis(100);

/// Show packets that the kernel drops: why, whose, where
///
/// Every packet is counted in the kernel, by reason, place in the kernel, network namespace,
/// device and protocol; one of each kind is looked at closely now and then. Each interval
/// the kinds that grew are shown, at the end all reasons with what they mean, what they
/// usually come from and what to look at next, and what was not seen, if anything.
///
/// A packet whose place gives no reason (NOT_SPECIFIED) may have ended as packets normally
/// do; those are counted, and shown with --all.
///
/// Exit codes: 0 it ran, 1 it could not, 2 the command line is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lastgasp trace drops                               until Ctrl-C
  lastgasp trace drops --duration 10s --protocol udp --port 53
  lastgasp trace drops --netns blue --reason NO_SOCKET,SOCKET_RCVBUFF
  lastgasp trace drops --reason NOT_SPECIFIED --stacks
  lastgasp trace drops -o json | jq 'select(.kind == \"drops\") | [.reason, .packets]'")]
pub(super) struct Args {
    /// End after this time: 10s, 500ms, 5m [default: at Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// End once so many packets were counted; it is looked at each interval
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only these reasons, as this kernel names them
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    reason: Vec<String>,
    /// Only at devices of this name. Packets that wait for a socket have let go of theirs
    #[arg(long, value_name = "NAME", value_parser = device)]
    device: Option<String>,
    /// Only this protocol: tcp, udp, icmp, sctp, arp, ip, ip6, …
    #[arg(long, value_name = "NAME")]
    protocol: Option<Protocol>,
    /// Only in this network namespace: a name as `ip netns` has it, `host`, or a number
    #[arg(long, value_name = "NAME|NUMBER")]
    netns: Option<String>,
    /// Only with this port at either end, of the outer packet if it is a tunnel's
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// How often to show what grew
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    interval: Duration,
    /// Also show packets that may have ended as packets normally do
    #[arg(long)]
    all: bool,
    /// Take the stack with each sample, and show that of the last one
    #[arg(long)]
    stacks: bool,
    /// Most kinds of packets that are told apart; what is beyond is counted by reason. Each
    /// takes 40 bytes, and 16 a CPU
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    keys: u32,
    /// How to attach to the tracepoint [default: the cheapest way that this kernel takes]
    #[arg(long, value_enum, value_name = "FORM")]
    attach: Option<Form>,
    /// How to print it
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "human"
    )]
    output: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Lines for people
    Human,
    /// One object a line
    Json,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Form {
    /// Arguments with types
    Btf,
    /// Arguments as numbers
    Raw,
    /// The record for perf; needs tracefs
    Tracepoint,
}

impl Form {
    fn is(self, how: How) -> bool {
        match self {
            Self::Btf => how == How::TpBtf,
            Self::Raw => how == How::RawTp,
            Self::Tracepoint => matches!(how, How::Tracepoint(_)),
        }
    }
}

/// `10s`, `500ms`, `5m`; seconds without a unit.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number with ms, s, m or h behind it".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "a whole number, and a unit")?;
    let time = number.checked_mul(unit).map(Duration::from_millis);
    match time {
        Some(time) if time >= LOOK && time < Duration::from_hours(24 * 365) => Ok(time),
        _ => Err("between 100ms and a year".to_owned()),
    }
}

fn device(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 15 {
        return Err("the name of a device has 1 to 15 bytes".to_owned());
    }
    Ok(name.to_owned())
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let kernel = Kernel::running()?;
    let reasons = kernel.reasons.clone();
    let mut namespaces = Namespaces::default();
    namespaces.scan();
    let wanted = Wanted {
        filter: filter(args, &reasons, &namespaces)?,
        keys: args.keys,
        stacks: args.stacks,
    };
    let ways: Vec<&'static Candidate> = ROLE
        .candidates
        .iter()
        .filter(|way| args.attach.is_none_or(|form| form.is(way.how)))
        .collect();
    let drops = drops::attach(kernel, &ways, &wanted)?;
    let mut view = View::new(reasons, namespaces);
    view.shows_all = args.all || !args.reason.is_empty();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(watch(args, drops, view))?;
    Ok(ExitCode::SUCCESS)
}

fn filter(args: &Args, reasons: &Reasons, namespaces: &Namespaces) -> anyhow::Result<Filter> {
    ensure!(
        args.reason.is_empty() || reasons.are_given(),
        "this kernel gives no reasons for drops (they came with 5.17); leave --reason out, and \
         read the function instead"
    );
    let number = |name: &String| {
        if let Some(number) = reasons.number(name) {
            return Ok(number);
        }
        let like = reasons.like(name).join(", ");
        let like = if like.is_empty() {
            "nothing like it".to_owned()
        } else {
            like
        };
        bail!("this kernel has no reason {name}; it has {like}")
    };
    let netns = args.netns.as_ref().map(|name| {
        namespaces.number(name).with_context(|| {
            let names = namespaces.names().join(", ");
            let names = if names.is_empty() { "none" } else { &names };
            format!("no network namespace is called {name}; names are: {names} (`lsns -t net` has their numbers, and {HOST} is the machine's own)")
        })
    });
    Ok(Filter {
        reasons: args.reason.iter().map(number).collect::<Result<_, _>>()?,
        netns: netns.transpose()?,
        protocol: args.protocol,
        port: args.port,
        device: args.device.clone(),
    })
}

async fn watch(args: &Args, mut drops: Drops, mut view: View) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let began = Instant::now();
    let print = |view: &mut View, text: Text<'_>| {
        let text = match args.output {
            Format::Human => human::text(view, &text),
            Format::Json => json::text(view, &text)?,
        };
        out::part(text.as_bytes()).context("cannot write")
    };
    let mut is_read = print(&mut view, Text::Begin(&drops))?;
    let mut shown = began;
    while is_read {
        let next =
            (shown + args.interval).min(args.duration.map_or(shown + args.interval, |d| began + d));
        let wait = next.saturating_duration_since(Instant::now()).min(LOOK);
        let is_told = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            () = tokio::time::sleep(wait) => false,
        };
        drops.samples(|sample| view.keep(sample));
        let is_over = is_told || args.duration.is_some_and(|d| began.elapsed() >= d);
        if is_over {
            break;
        }
        if Instant::now() >= next {
            let now = Instant::now();
            let grown = view
                .tally
                .step(drops.read()?, (now - shown).as_nanos() as u64);
            shown = now;
            is_read = print(&mut view, Text::Grown(&grown))?;
            let counted = view.counted();
            if args.count.is_some_and(|count| counted >= count) {
                break;
            }
        }
    }
    drops.detach();
    drops.samples(|sample| view.keep(sample));
    let grown = view
        .tally
        .step(drops.read()?, shown.elapsed().as_nanos() as u64);
    if is_read && print(&mut view, Text::Grown(&grown))? {
        print(&mut view, Text::End(&drops, began.elapsed()))?;
    }
    Ok(())
}

/// What is to be printed.
enum Text<'a> {
    /// It is attached.
    Begin(&'a Drops),
    /// What came since.
    Grown(&'a [agent_core::drops::Grown]),
    /// All of it, in this time.
    End(&'a Drops, Duration),
}

impl View {
    /// Packets that `--count` speaks of.
    fn counted(&self) -> u64 {
        let by_reason = self.tally.last().by_reason();
        let shown = by_reason.iter().filter(|(reason, _)| self.shows(**reason));
        shown.map(|(_, packets)| packets).sum()
    }

    /// Whether packets of this reason are shown while it runs.
    fn shows(&self, reason: u32) -> bool {
        self.shows_all || !self.reasons.are_given() || self.reasons.class(reason) == Class::Dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2", 2_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "s",
            "1.5s",
            "10d",
            "50ms",
            "-1s",
            "99999999999999999999s",
            "9999999h",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
