//! Which lines of a log belong together, and which of them begin something.

use std::collections::VecDeque;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr, memrchr};

use crate::header;
use crate::incident::{self, Boot, Incident};
use crate::kind::{Kind, Weight};
use crate::needles;
use crate::report::Report;
use crate::text::split_once;
use crate::transport::{self, Caller, Stripped};
use crate::wording::{self, PanicText};

/// Longest line that is looked at, in bytes; the rest of it is passed over.
const LINE_MAX: usize = 8 * 1024;
/// Longest text of a line that is kept, in bytes.
const TEXT_MAX: usize = 1024;
/// A panic within so many bytes of an oops is of that oops: after the end of its report
/// only the registers are printed once more.
const NEAR: u64 = 8 * 1024;
/// Reports of one boot that wait for a panic to tell which of them it is of, or for the
/// next boot to tell which kernel it was.
const WAITING_MAX: usize = 64;
/// Things that happen at the same time, each told by a caller of its own.
const OPEN_MAX: usize = 4;
/// Lines between `[ cut here ]` and the line that says what happened.
const CUT_LINES: u32 = 8;
/// Lines of several CPUs are out of order by less than so many nanoseconds.
const CLOCKS_DIFFER: u64 = 1_000_000_000;
/// A log that begins inside of a report shows that within so many lines of the kernel's, and
/// so many of whoever logs to it.
const HEAD_LINES: u8 = 4;
const HEAD_ALL: u8 = 64;
/// Columns of a terminal, at which a line goes on in the next one.
const COLUMNS: usize = 80;

/// Reads a log of any size in constant memory: bytes in, reports out.
///
/// Most of a log is read by nothing but a search for the words that reports begin with;
/// only around them is it read line by line.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Reports that are complete.
    reports: VecDeque<Report>,
    open: Vec<Incident>,
    /// The kernel's lines that were read, and all, as long as that matters.
    head: u8,
    head_all: u8,
    /// What this boot has told and no other line will add to.
    waiting: VecDeque<Incident>,
    boot: Boot,
    /// A panic was said: until the next boot nothing that is told is of any other cause.
    dead: Option<Death>,
    cut: Option<Cut>,
    /// A line as long as a terminal is wide may go on in the next.
    held: Option<Held>,
    /// The pieces of a record that netconsole had to break.
    pieces: Option<Pieces>,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    /// Bytes before that line, and up to where it was read.
    line_start: u64,
    offset: u64,
}

/// The end of a boot.
#[derive(Debug)]
struct Death {
    printed_ns: Option<u64>,
    /// The last thing that a panic says was said.
    is_over: bool,
}

impl Death {
    /// Whether this line is of a boot after it, whose banner nobody kept: its clock began
    /// anew; or there is no clock, and it tells of an oops after the end.
    fn is_past(&self, printed_ns: Option<u64>, weight: Weight) -> bool {
        match (self.printed_ns, printed_ns) {
            (Some(death), Some(now)) => now.saturating_add(CLOCKS_DIFFER) < death,
            (None, None) => self.is_over && weight == Weight::Oops,
            _ => false,
        }
    }
}

/// A `[ cut here ]`, and what was said behind it.
#[derive(Debug)]
struct Cut {
    start: u64,
    message: String,
    lines: u32,
}

/// A line that may go on in the next.
#[derive(Debug)]
struct Held {
    text: String,
    start: u64,
    end: u64,
}

/// Pieces of one record (`ncfrag=offset/total`).
#[derive(Debug)]
struct Pieces {
    head: String,
    total: usize,
    have: Vec<(usize, String)>,
    start: u64,
}

static CUT_HERE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("[ cut here ]"));
static NCFRAG: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(",ncfrag="));

impl Decoder {
    /// Reads on. A line may be spread over several calls.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.offset > self.line_start {
            let Some(end) = memchr(b'\n', bytes) else {
                self.keep(bytes);
                return;
            };
            let (first, others) = bytes.split_at(end + 1);
            self.keep(first);
            self.rest_of_line();
            bytes = others;
        }
        let whole = memrchr(b'\n', bytes);
        let (lines, rest) = bytes.split_at(whole.map_or(0, |end| end + 1));
        self.lines(lines);
        self.keep(rest);
    }

    /// The reports that are complete by now.
    pub fn reports(&mut self) -> impl Iterator<Item = Report> + '_ {
        self.reports.drain(..)
    }

    /// Nothing more comes: all reports that are left.
    pub fn finish(mut self) -> impl Iterator<Item = Report> {
        if self.offset > self.line_start {
            self.rest_of_line();
        }
        self.unhold();
        self.whole_pieces();
        self.settle(None);
        self.reports.into_iter()
    }

    /// Keeps the beginning of a line, as much of it as is looked at.
    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.rest.len());
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.rest.extend_from_slice(&text[..text.len().min(room)]);
        self.offset += bytes.len() as u64;
    }

    /// Reads the line that was kept, and begins the next.
    fn rest_of_line(&mut self) {
        let mut line = std::mem::take(&mut self.rest);
        // As it is done where whole lines come.
        if self.is_reading() || needles::is_in(&line) {
            self.raw(&line, self.line_start, self.offset);
        }
        line.clear();
        self.rest = line;
        self.line_start = self.offset;
    }

    /// Reads whole lines.
    fn lines(&mut self, bytes: &[u8]) {
        let before = self.offset;
        let mut at = 0;
        while at < bytes.len() {
            let is_reading = self.is_reading();
            if !is_reading {
                // Nothing is open: on to the next line that may begin something.
                let Some(hint) = needles::hint(&bytes[at..]) else {
                    break;
                };
                let start = memrchr(b'\n', &bytes[at..at + hint]);
                at += start.map_or(0, |end| end + 1);
            }
            let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            let line = &bytes[at..end.min(at + LINE_MAX)];
            if is_reading || needles::is_in(line) {
                self.raw(line, before + at as u64, before + end as u64 + 1);
            }
            at = end + 1;
        }
        self.offset = before + bytes.len() as u64;
        self.line_start = self.offset;
    }

    /// Whether each line has to be read.
    fn is_reading(&self) -> bool {
        self.head < HEAD_LINES && self.head_all < HEAD_ALL
            || self.cut.is_some()
            || self.held.is_some()
            || self.pieces.is_some()
            || self.open.iter().any(Incident::is_open)
    }

    /// Reads one line as it was logged.
    fn raw(&mut self, line: &[u8], start: u64, end: u64) {
        let text = transport::clean(line);
        if self.piece(&text, start, end) {
            return;
        }
        let line = transport::stripped(&text);
        if let Some(held) = &mut self.held
            && held.text.len() < LINE_MAX
            && goes_on(&text, &line)
        {
            held.text.push_str(text.trim_end());
            held.end = end;
            if !is_full(&held.text) {
                self.unhold();
            }
            return;
        }
        self.unhold();
        // Joined lines are as wide as several rows.
        if line.has_prefix && is_full(&text) {
            let text = text.into_owned();
            self.held = Some(Held { text, start, end });
        } else {
            self.stripped(&line, start, end);
        }
    }

    /// Nothing goes on with the line that was held.
    fn unhold(&mut self) {
        if let Some(Held { text, start, end }) = self.held.take() {
            self.stripped(&transport::stripped(&text), start, end);
        }
    }

    /// Takes a piece of a record that netconsole had to break; false if it is none.
    fn piece(&mut self, line: &str, start: u64, end: u64) -> bool {
        let piece = piece_of(line);
        let Some((head, offset, total, body)) = piece else {
            self.whole_pieces();
            return false;
        };
        if self
            .pieces
            .as_ref()
            .is_some_and(|p| p.head != head || p.total != total)
        {
            self.whole_pieces();
        }
        let pieces = self.pieces.get_or_insert_with(|| Pieces {
            head: head.to_owned(),
            total,
            have: Vec::new(),
            start,
        });
        pieces.have.push((offset, body.to_owned()));
        let have: usize = pieces.have.iter().map(|(_, body)| body.len()).sum();
        // Whoever writes such lines may write any number of them.
        if have >= total || pieces.have.len() >= 32 {
            let _ = end;
            self.whole_pieces();
        }
        true
    }

    /// What came of a record, as one line.
    fn whole_pieces(&mut self) {
        let Some(mut pieces) = self.pieces.take() else {
            return;
        };
        pieces.have.sort_by_key(|(offset, _)| *offset);
        let line: String = pieces.have.into_iter().map(|(_, body)| body).collect();
        let text = strip_all(&line);
        self.stripped(
            &Stripped {
                text,
                has_prefix: true,
                ..Stripped::default()
            },
            pieces.start,
            pieces.start,
        );
    }

    /// Reads a line without what its transport put around it.
    pub(crate) fn stripped(&mut self, line: &Stripped<'_>, start: u64, end: u64) {
        // One printk may print several lines.
        let mut rest = line.text;
        while let Some((text, others)) = split_once(rest, b'\n') {
            self.text(&Stripped { text, ..*line }, start, end);
            rest = others;
        }
        let last = Stripped {
            text: rest,
            ..*line
        };
        self.text(&last, start, end);
    }

    fn text(&mut self, line: &Stripped<'_>, start: u64, end: u64) {
        let text = clip(line.text.trim());
        self.head_all = self.head_all.saturating_add(1);
        // Only loaders of BPF programs say what the kernel told them alone.
        if line.is_foreign && wording::somewhere(text) != Some(Kind::BpfVerifier) {
            for open in &mut self.open {
                open.pass(end);
            }
            return;
        }
        self.head = self.head.saturating_add(u8::from(!text.is_empty()));
        if let Some(panic) = wording::panic(text) {
            self.panic(text, panic, line, start, end);
        } else if let Some(release) = header::banner(text) {
            self.banner(release, text);
        } else if let Some(kind) = wording::of(text) {
            self.begin(kind, text, line, start, end);
        } else if CUT_HERE.find(text.as_bytes()).is_some() {
            self.cut = Some(Cut {
                start,
                message: String::new(),
                lines: 0,
            });
        } else {
            let is_first = self.head <= HEAD_LINES && self.open.is_empty();
            if is_first && self.waiting.is_empty() && incident::is_inside(text) {
                self.open(Incident::stray(line.printed_ns, start));
            }
            self.detail(text, line.caller, end);
        }
    }

    /// Something happens.
    fn begin(&mut self, kind: Kind, text: &str, line: &Stripped<'_>, start: u64, end: u64) {
        if self.is_dead(line.printed_ns, kind.weight()) {
            return;
        }
        let cut = self.cut.take();
        let open = self.open_of(line.caller);
        if let Some(open) = open
            && open.is_said_again(kind, text, line.printed_ns)
        {
            open.again(kind, text);
            open.end = end;
            return;
        }
        let same = |open: &Incident| {
            open.caller == line.caller || open.caller.is_none() || line.caller.is_none()
        };
        let mut at = 0;
        while at < self.open.len() {
            if same(&self.open[at]) || self.open.len() >= OPEN_MAX {
                let over = self.open.remove(at);
                self.wait(over);
            } else {
                at += 1;
            }
        }
        let first = cut.as_ref().map_or(start, |cut| cut.start);
        let mut incident = Incident::new(kind, text, line.printed_ns, first);
        incident.caller = line.caller;
        incident.end = end;
        if let Some(cut) = cut {
            incident.message(&cut.message);
        }
        self.open(incident);
    }

    /// From now on lines belong to this one.
    fn open(&mut self, incident: Incident) {
        // It is large, and mostly the only one.
        self.open.reserve_exact(1);
        self.open.push(incident);
    }

    fn panic(&mut self, text: &str, panic: &str, line: &Stripped<'_>, start: u64, end: u64) {
        // Only the first counts: others come from CPUs that follow it.
        if self.is_dead(line.printed_ns, Weight::Oops) {
            if let Some(dead) = &mut self.dead {
                dead.is_over |= wording::is_end(text);
            }
            return;
        }
        self.dead = Some(Death {
            printed_ns: line.printed_ns,
            is_over: false,
        });
        self.cut = None;
        while let Some(open) = (!self.open.is_empty()).then(|| self.open.remove(0)) {
            self.wait(open);
        }
        let (kind, place) = self.cause_of(panic, start);
        let mut incident = match place.and_then(|at| self.waiting.remove(at)) {
            Some(mut before) => {
                before.ends_in(kind, text);
                before
            }
            None => Incident::new(kind, text, line.printed_ns, start),
        };
        // The task and the release may only be said from here on.
        incident.panic = Some(panic.to_owned());
        incident.end = end;
        incident.caller = None;
        self.open(incident);
    }

    /// Whether the boot that this line is of had died before it.
    fn is_dead(&mut self, printed_ns: Option<u64>, weight: Weight) -> bool {
        let is_past = |dead: &Death| dead.is_past(printed_ns, weight);
        if self.dead.as_ref().is_some_and(is_past) {
            self.settle(Some(Boot::default()));
        }
        self.dead.is_some()
    }

    /// What a panic's text stands for, and where in `waiting` that is told.
    fn cause_of(&self, panic: &str, start: u64) -> (Kind, Option<usize>) {
        let last = |is: &dyn Fn(&Incident) -> bool| self.waiting.iter().rposition(is);
        let is_trap = |i: &Incident| matches!(i.kind, Kind::SysrqCrash | Kind::SError);
        let is_close = |i: &Incident| start.saturating_sub(i.end) <= NEAR;
        let is_oops = |i: &Incident| {
            let is_known = i.weight() == Weight::Oops || is_trap(i);
            if i.is_stray() { is_close(i) } else { is_known }
        };
        let is_near = |i: &Incident| is_oops(i) && is_close(i);
        match wording::panic_text(panic) {
            PanicText::AfterOops => (Kind::Panic, last(&is_oops)),
            // It dies by its own oops, or it exits.
            PanicText::InitExited => {
                let is_its_own = |i: &Incident| match i.pid {
                    Some(pid) => pid == 1,
                    // Whose it was may be lost.
                    None => is_near(i),
                };
                let oops = last(&|i| is_oops(i) && is_its_own(i));
                (Kind::InitExited, oops)
            }
            PanicText::Names(kind) => {
                let reason = kind.reason();
                let same = last(&|i| i.kind == kind && !i.is_stray());
                let alike = || {
                    let is_other = |i: &Incident| i.is_stray() || i.kind == Kind::CgroupOomKill;
                    last(&|i| i.kind.reason() == reason && !is_other(i))
                };
                (kind, same.or_else(alike))
            }
            PanicText::AfterWarning => (Kind::Warning, last(&|i| i.weight() == Weight::Warning)),
            PanicText::Itself => (Kind::Panic, last(&|i| is_near(i) && !i.is_stray())),
        }
    }

    fn detail(&mut self, text: &str, caller: Option<Caller>, end: u64) {
        if let Some(cut) = &mut self.cut {
            cut.lines += 1;
            if cut.message.is_empty() && !text.is_empty() {
                text.clone_into(&mut cut.message);
            }
            if cut.lines > CUT_LINES {
                self.cut = None;
            }
        }
        if self.open.is_empty() {
            if let Some(name) = header::machine(text) {
                self.boot.hardware.get_or_insert_with(|| name.to_owned());
            }
            return;
        }
        if let Some(open) = self.open_of(caller) {
            open.detail(text, end);
        } else if text.starts_with("NMI backtrace for cpu ") {
            // A stalled CPU shows its stack itself, asked by the one that found it.
            let stall = self.open.iter_mut().rfind(|open| open.asks_for_stack());
            if let Some(stall) = stall {
                stall.caller = caller;
                stall.detail(text, end);
            }
        }
    }

    /// The incident that a line of this caller is of.
    fn open_of(&mut self, caller: Option<Caller>) -> Option<&mut Incident> {
        let is_of =
            |open: &Incident| caller.is_none() || open.caller.is_none() || open.caller == caller;
        self.open.iter_mut().rfind(|open| is_of(open))
    }

    /// Another boot begins: what was said belongs to the one before.
    fn banner(&mut self, release: &str, text: &str) {
        let version = text.find(" #").map(|at| text[at + 1..].to_owned());
        let boot = Boot {
            release: Some(release.to_owned()),
            version,
            hardware: None,
        };
        self.settle(Some(boot));
    }

    /// Nothing more comes of this boot; `next` is the one after it.
    fn settle(&mut self, next: Option<Boot>) {
        self.cut = None;
        while let Some(open) = (!self.open.is_empty()).then(|| self.open.remove(0)) {
            self.wait(open);
        }
        for incident in std::mem::take(&mut self.waiting) {
            if incident.is_sure() {
                let report = incident.report(&self.boot, next.as_ref());
                self.reports.push_back(report);
            }
        }
        self.dead = None;
        self.boot = next.unwrap_or_default();
    }

    /// No other line adds to it.
    fn wait(&mut self, incident: Incident) {
        self.waiting.reserve_exact(1);
        self.waiting.push_back(incident);
        if self.waiting.len() > WAITING_MAX
            && let Some(first) = self.waiting.pop_front()
            && first.is_sure()
        {
            self.reports.push_back(first.report(&self.boot, None));
        }
    }
}

/// Whether a line ends where a terminal's does.
fn is_full(text: &str) -> bool {
    text.len() >= COLUMNS && text.len().is_multiple_of(COLUMNS)
}

/// Whether a line, which `line` is without what stands before it, goes on with one that was
/// as long as a terminal is wide: nothing stands before it.
fn goes_on(text: &str, line: &Stripped<'_>) -> bool {
    // What begins something itself is a line of its own, whatever stands before it.
    let begins = || wording::panic(line.text).is_some() || wording::of(line.text).is_some();
    !text.is_empty() && !line.has_prefix && !line.is_foreign && !begins()
}

/// A piece of a record: its header up to the piece's place, offset and whole length, text.
fn piece_of(line: &str) -> Option<(&str, usize, usize, &str)> {
    let (head, rest) = line.split_at(NCFRAG.find(line.as_bytes())?);
    let rest = &rest[NCFRAG.needle().len()..];
    let (place, body) = rest.split_once(';')?;
    let (offset, total) = place.split(',').next()?.split_once('/')?;
    let is_head = head.len() < 256 && head.split(',').count() >= 4;
    is_head.then_some((head, offset.parse().ok()?, total.parse().ok()?, body))
}

fn strip_all(line: &str) -> &str {
    transport::strip(line)
}

/// At most [`TEXT_MAX`] bytes.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_go_on_for_ever_are_not_kept_for_ever() {
        let mut decoder = Decoder::default();
        let first = format!("{:80}\n", "[    1.234567] kernel BUG at a.c:1!");
        decoder.push(first.as_bytes());
        for _ in 0..1_000 {
            decoder.push(format!("{:x<80}\n", "").as_bytes());
            let held = decoder.held.as_ref().map_or(0, |held| held.text.len());
            assert!(held <= 2 * LINE_MAX);
        }
        assert_eq!(decoder.finish().count(), 1);
    }
}
