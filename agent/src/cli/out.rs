//! What people and scripts see: the only place that writes to standard output.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use agent_core::engine::escaped;

/// Longest piece of text from outside that is shown on one line, in bytes.
const SHOWN_MAX: usize = 4_096;

/// Writes bytes as they are. A reader that has gone away is no error.
pub fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints an error with its causes and gives the exit code for it.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let text = sanitize(&format!("{error:#}"));
    let _ = writeln!(io::stderr(), "lastgasp: {text}");
    ExitCode::from(1)
}

/// Says on standard error how far something is: in place on a terminal, else a line each.
pub fn progress(text: &str) {
    let mut err = io::stderr();
    let end = if err.is_terminal() { '\r' } else { '\n' };
    let _ = write!(err, "{text}{end}");
}

/// Makes text from a kernel, a network or a file safe to show: what could move
/// the cursor, change colours or reorder text is escaped.
pub fn sanitize(text: &str) -> String {
    escaped(text, SHOWN_MAX)
}

/// Whether to colour what goes to standard output: on a terminal, unless
/// `NO_COLOR` says no (no-color.org).
pub fn colour() -> bool {
    io::stdout().is_terminal() && wanted()
}

/// Whether to colour what goes to standard error.
pub fn colour_on_stderr() -> bool {
    io::stderr().is_terminal() && wanted()
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How something is written that has no more columns to show.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// Some lines for people
    Human,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The flag for it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Output {
    /// How to print it
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub output: Format,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// A heading, or what matters most.
    Bold,
    /// Less important.
    Faint,
    /// Something is wrong.
    Red,
    /// Something is well.
    Green,
}

/// Text in a style, if colours are on.
pub fn styled(text: &str, style: Style, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match style {
        Style::Bold => "1",
        Style::Faint => "2",
        Style::Red => "31",
        Style::Green => "32",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Rows under headings, each column as wide as it has to be.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(headings[column].chars().count())
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count());
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', pad + 2));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        for (raw, shown) in [
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("a\rb", "a\\u{d}b"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("abc\u{202e}cba", "abc\\u{202e}cba"),
            ("Täst ok", "Täst ok"),
        ] {
            assert_eq!(sanitize(raw), shown);
        }
        assert!(sanitize(&"x".repeat(100_000)).len() <= SHOWN_MAX);
    }

    #[test]
    fn a_table_aligns_its_columns() {
        let rows = [
            vec!["w01".to_owned(), "Kernel panic".to_owned()],
            vec!["long-name".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(&["NODE", "REASON"], &rows),
            "NODE       REASON\nw01        Kernel panic\nlong-name  x\n"
        );
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        assert_eq!(styled("x", Style::Red, false), "x");
        assert_eq!(styled("x", Style::Red, true), "\u{1b}[31mx\u{1b}[0m");
    }
}
