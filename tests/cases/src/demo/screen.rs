//! What the demo looks like: 80 columns, colours only on a terminal.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_core::engine::escaped;

/// Columns that are written to.
const WIDTH: usize = 79;
/// How often a running clock is drawn.
const TICK: Duration = Duration::from_millis(100);

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// As the rest.
    Plain,
    /// A heading.
    Bold,
    /// Less important.
    Faint,
    /// Something died.
    Red,
    /// Something is well.
    Green,
    /// A moment worth looking at.
    Cyan,
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    terminal: bool,
    colour: bool,
}

impl Screen {
    /// Standard output as it is, with `NO_COLOR` (no-color.org) obeyed.
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            terminal,
            colour: terminal && wanted,
        }
    }

    /// Text in a style.
    pub(super) fn styled(self, text: &str, style: Style) -> String {
        let code = match style {
            _ if !self.colour => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Bold => "1",
            Style::Faint => "2",
            Style::Red => "1;31",
            Style::Green => "32",
            Style::Cyan => "36",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// One line, cut to the width.
    pub(super) fn line(self, text: &str, style: Style) {
        self.raw(&format!("{}\n", self.styled(&cut(text, WIDTH), style)));
    }

    /// A heading with an empty line above.
    pub(super) fn heading(self, text: &str) {
        self.line("", Style::Plain);
        self.line(text, Style::Bold);
    }

    /// Something that happened at a time after the crash.
    pub(super) fn moment(self, after: Option<Duration>, text: &str, style: Style) {
        let at = after.map_or_else(String::new, ms);
        let text = cut(text, WIDTH - 14);
        let at = self.styled(&format!("{at:>12}"), Style::Faint);
        self.raw(&format!("{at}  {}\n", self.styled(&text, style)));
    }

    /// Several lines that another program wrote, indented.
    pub(super) fn quoted(self, text: &str) {
        for line in text.lines() {
            self.line(&format!("  {line}"), Style::Plain);
        }
    }

    /// Fields under each other, with what is too long on lines of its own.
    pub(super) fn fields(self, text: &str, hang: usize) {
        for line in text.lines() {
            for part in wrapped(&format!("  {line}"), hang) {
                self.line(&part, Style::Plain);
            }
        }
    }

    /// Runs a step, with a clock that runs beside it.
    pub(super) fn step<T, E>(
        self,
        what: &str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let clock = self.terminal.then(|| Clock::start(self, what, start));
        let result = work();
        drop(clock);
        let (mark, style) = match &result {
            Ok(_) => ("ok", Style::Green),
            Err(_) => ("--", Style::Red),
        };
        let time = format!("{:.1} s", start.elapsed().as_secs_f64());
        let mark = self.styled(mark, style);
        self.raw(&format!("  {mark}  {:<64} {time:>8}\n", cut(what, 64)));
        result
    }

    fn raw(self, text: &str) {
        let start = if self.terminal { "\r\u{1b}[K" } else { "" };
        let mut out = std::io::stdout().lock();
        // A reader that has gone away ends nothing: the figures still count.
        let _ = out.write_all(format!("{start}{text}").as_bytes());
        let _ = out.flush();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Draws the time that a step takes until it is dropped.
struct Clock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    fn start(screen: Screen, what: &str, start: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (what, stopped) = (cut(what, 64), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for mark in ["|", "/", "-", "\\"].iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let time = format!("{:.1} s", start.elapsed().as_secs_f64());
                screen.raw(&format!("   {mark}  {what:<64} {time:>8}"));
                std::thread::park_timeout(TICK);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread only draws; it has nothing to report.
            let _ = thread.join();
        }
    }
}

/// Safe to show, and at most so many characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    let indent = text.len() - text.trim_start().len();
    let text = format!("{}{}", &text[..indent], escaped(text, 4096));
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(3)).collect();
    kept + "..."
}

/// A line in pieces that fit, all but the first indented.
fn wrapped(line: &str, hang: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    for word in line.split_inclusive(' ') {
        let width = part.chars().count() + word.trim_end().chars().count();
        if width > WIDTH && !part.trim().is_empty() {
            parts.push(part.trim_end().to_owned());
            part = " ".repeat(hang);
        }
        part.push_str(word);
    }
    parts.push(part.trim_end().to_owned());
    parts
}

/// `+12.3 ms`, or seconds from ten of them on.
pub(super) fn ms(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("+{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("+{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wider_than_the_screen_or_moves_the_cursor() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("  indented", 10), "  indented");
        assert_eq!(cut("0123456789abc", 10), "0123456...");
        assert!(!cut("a\u{1b}[2Jb", 40).contains('\u{1b}'));
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn a_long_line_goes_on_below_its_field() {
        let line = format!("  retry     safe: {}", "word ".repeat(20));
        let parts = wrapped(&line, 12);
        assert_eq!(parts.len(), 2);
        assert!(
            parts.iter().all(|part| part.chars().count() <= WIDTH),
            "{parts:?}"
        );
        assert!(parts[1].starts_with("            word"), "{parts:?}");
        assert_eq!(wrapped("  short  line", 4), ["  short  line"]);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(ms(Duration::from_micros(1_260)), "+1.3 ms");
        assert_eq!(ms(Duration::from_secs(12)), "+12.0 s");
    }
}
