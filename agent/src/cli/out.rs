//! What people and scripts see: the only place that writes to standard output.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use agent_core::engine::{escaped, is_plain};
use serde::Serialize;

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

/// The same of a part of something endless; whether there is still somebody who reads it.
pub fn part(bytes: &[u8]) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
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

/// As JSON, with what [`sanitize`] escapes in JSON's own way: a reader gets it as it was.
pub fn json<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(plain(&serde_json::to_string_pretty(value)?, by_utf16))
}

/// The same on one line.
pub fn json_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(plain(&serde_json::to_string(value)?, by_utf16))
}

/// As JSON escapes a character.
fn by_utf16(c: char, out: &mut String) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// As YAML. Where something is to be escaped, as JSON, which is YAML as well: in YAML's
/// own form some of it would be shown.
pub fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let text = serde_yaml_ng::to_string(value)?;
    if text.chars().all(|c| c == '\n' || is_plain(c)) {
        return Ok(text);
    }
    // YAML has no pairs of escapes for one character.
    Ok(plain(&serde_json::to_string_pretty(value)?, |c, out| {
        let _ = write!(out, "\\U{:08x}", u32::from(c));
    }))
}

/// JSON with what is not plain escaped, and an end of its last line.
fn plain(json: &str, escape: impl Fn(char, &mut String)) -> String {
    let mut out = String::new();
    for c in json.chars() {
        if c == '\n' || is_plain(c) {
            out.push(c);
        } else {
            escape(c, &mut out);
        }
    }
    out.push('\n');
    out
}

/// Columns of the terminal that standard output goes to, if it is one.
pub fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0)).filter(|columns| *columns > 0)
}

/// Text in lines of so many columns, if there is a limit; the first begins at `first`, the
/// others are moved in by `hang`. What has no space is not cut.
pub fn wrapped(text: &str, first: usize, hang: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns else {
        return text.to_owned();
    };
    let (mut out, mut at) = (String::new(), first);
    for (index, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if index > 0 && at + 1 + length > columns {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', hang));
            at = hang;
        } else if index > 0 {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += length;
    }
    out
}

/// Narrowest that a column is made.
const NARROW: usize = 10;

/// A table that is no wider than this, if `shrink`, columns that are cut, allow it: the
/// widest of the first of these, then of the next.
pub fn table_within(
    headings: &[&str],
    rows: &[Vec<String>],
    columns: Option<usize>,
    shrink: &[&[usize]],
) -> String {
    let mut widths = widths(headings, rows);
    let all: usize = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    let mut over = columns.map_or(0, |columns| all.saturating_sub(columns));
    for together in shrink {
        while over > 0 {
            let wide = together.iter().filter(|column| widths[**column] > NARROW);
            let Some(widest) = wide.max_by_key(|column| widths[**column]) else {
                break;
            };
            widths[*widest] -= 1;
            over -= 1;
        }
    }
    let cut = |(cell, width): (&String, &usize)| match cell.chars().count() {
        length if length <= *width => cell.clone(),
        _ => cell.chars().take(width - 1).chain(['…']).collect(),
    };
    let cut = |row: &Vec<String>| row.iter().zip(&widths).map(cut).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cut).collect();
    table(headings, &rows)
}

fn widths(headings: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(headings[column].chars().count())
    };
    (0..headings.len()).map(width).collect()
}

/// Rows under headings, each column as wide as it has to be.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths = widths(headings, rows);
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
    fn a_table_is_cut_to_the_terminal_where_it_may_be() {
        let rows = [vec![
            "6.1.1-1.el9.elrepo.x86_64".to_owned(),
            "American Megatrends 3.10".to_owned(),
            "12".to_owned(),
        ]];
        let headings = ["KERNEL", "FIRMWARE", "DEATHS"];
        let within = |columns| table_within(&headings, &rows, columns, &[&[1], &[0]]);
        assert_eq!(within(None), table(&headings, &rows));
        assert_eq!(within(Some(200)), table(&headings, &rows));
        assert_eq!(
            within(Some(50)),
            "KERNEL                     FIRMWARE         DEATHS\n\
             6.1.1-1.el9.elrepo.x86_64  American Megat…  12\n"
        );
        assert_eq!(
            within(Some(1)),
            "KERNEL      FIRMWARE    DEATHS\n6.1.1-1.e…  American …  12\n"
        );
        for columns in 30..90 {
            let text = within(Some(columns));
            assert!(text.lines().all(|line| line.chars().count() <= columns));
        }
        assert_eq!(
            table_within(&headings, &[], Some(1), &[&[1], &[0]]),
            "KERNEL  FIRMWARE  DEATHS\n"
        );
    }

    #[test]
    fn text_is_broken_between_words() {
        let text = "12 of 12 deaths on 6.1.1-1.el9.elrepo.x86_64; 0 on 6.1.81";
        assert_eq!(wrapped(text, 2, 4, None), text);
        assert_eq!(
            wrapped(text, 2, 4, Some(24)),
            "12 of 12 deaths on\n    6.1.1-1.el9.elrepo.x86_64;\n    0 on 6.1.81"
        );
        assert_eq!(wrapped("", 2, 4, Some(1)), "");
        assert_eq!(wrapped("a b", 0, 0, Some(0)), "a\nb");
    }

    #[test]
    fn what_is_for_scripts_moves_no_cursor_either_and_says_the_same() {
        for text in [
            "\u{9b}2J",
            "a\u{202e}b",
            "\u{feff}",
            "\u{e0001}",
            "x\u{85}y",
            "Täst: ok",
        ] {
            let value = serde_json::json!({"said": [text], "n": 1});
            let line = json_line(&value).expect("JSON");
            assert_eq!(line.find('\n'), Some(line.len() - 1));
            let json = json(&value).expect("JSON");
            let yaml = yaml(&value).expect("YAML");
            for shown in [&line, &json, &yaml] {
                assert!(shown.chars().all(|c| c == '\n' || is_plain(c)), "{shown:?}");
            }
            for shown in [&line, &json] {
                let read: serde_json::Value = serde_json::from_str(shown).expect("JSON");
                assert_eq!(read, value);
            }
            let read: serde_json::Value = serde_yaml_ng::from_str(&yaml).expect("YAML");
            assert_eq!(read, value);
        }
        let plain = yaml(&serde_json::json!({"a": "b: c"})).expect("YAML");
        assert_eq!(plain, "a: 'b: c'\n");
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        assert_eq!(styled("x", Style::Red, false), "x");
        assert_eq!(styled("x", Style::Red, true), "\u{1b}[31mx\u{1b}[0m");
    }
}
