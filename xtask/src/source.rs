//! The text of the work tree, and as much of Rust's grammar as the rules of
//! [`crate::rooms`] need: tokens without comments and strings, and paths.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::run;

/// The files of a work tree by their path from its root. What is no text is
/// there with no content.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads what git knows or would add.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let listed = run::read(Command::new("git").current_dir(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files = BTreeMap::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            match std::fs::read(root.join(path)) {
                Ok(bytes) => {
                    files.insert(
                        path.to_owned(),
                        String::from_utf8(bytes).unwrap_or_default(),
                    );
                }
                // Removed, but not yet from git's index.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { files })
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| {
                Path::new(path)
                    .extension()
                    .is_some_and(|extension| extension == "rs")
            })
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether a file or a directory of this name is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        self.files.contains_key(path)
            || self
                .files
                .range(below.clone()..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// The modules directly in a directory, without `mod`.
    pub(crate) fn stems(&self, directory: &str) -> Vec<String> {
        let prefix = format!("{directory}/");
        let mut stems: Vec<_> = self
            .rust()
            .filter_map(|(path, _)| path.strip_prefix(&prefix))
            .map(|rest| match rest.split_once('/') {
                Some((directory, _)) => directory.to_owned(),
                None => rest.trim_end_matches(".rs").to_owned(),
            })
            .filter(|stem| stem != "mod")
            .collect();
        stems.dedup();
        stems
    }
}

/// One word or mark of Rust, and its line from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Cuts Rust into words and marks. Comments, strings and character literals
/// are left out: what they say is no code.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let start = at;
        let mut word = None;
        match (c, next) {
            ('/', Some('/')) => at = skip_until(&chars, at, |c| c == '\n'),
            ('/', Some('*')) => at = skip_block_comment(&chars, at),
            ('"', _) => at = skip_string(&chars, at),
            ('\'', _) => at = skip_quote(&chars, at),
            (':', Some(':')) => {
                word = Some("::".to_owned());
                at += 2;
            }
            _ if c.is_alphanumeric() || c == '_' => {
                let end = skip_until(&chars, at, |c| !c.is_alphanumeric() && c != '_');
                let text: String = chars[at..end].iter().collect();
                at = match (text.as_str(), chars.get(end)) {
                    ("r" | "br" | "cr", Some('"' | '#')) => skip_raw_string(&chars, end),
                    ("b" | "c", Some('"')) => skip_string(&chars, end),
                    ("b", Some('\'')) => skip_quote(&chars, end),
                    _ => end,
                };
                if at == end {
                    word = Some(text);
                }
            }
            _ => {
                if !c.is_whitespace() {
                    word = Some(c.to_string());
                }
                at += 1;
            }
        }
        if let Some(text) = word {
            tokens.push(Token { text, line });
        }
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn skip_until(chars: &[char], from: usize, end: impl Fn(char) -> bool) -> usize {
    let tail = chars.get(from..).unwrap_or_default();
    let found = tail.iter().position(|c| end(*c));
    found.map_or(chars.len(), |length| from + length)
}

fn skip_block_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from + 2, 1);
    while depth > 0 && at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn skip_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn skip_raw_string(chars: &[char], from: usize) -> usize {
    let hashes = skip_until(chars, from, |c| c != '#') - from;
    if chars.get(from + hashes) != Some(&'"') {
        // A raw identifier, r#type.
        return from;
    }
    let mut at = from + hashes + 1;
    while at < chars.len() {
        let tail = &chars[at + 1..];
        if chars[at] == '"' && tail.iter().take_while(|c| **c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// After a quote comes a character, or the name of a lifetime.
fn skip_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => skip_until(chars, from + 3, |c| c == '\'') + 1,
        (Some(_), Some('\'')) => from + 3,
        _ => from + 1,
    }
}

/// A path in the code, with its line: `use a::{b, c}` is two.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CodePath {
    pub(crate) words: Vec<String>,
    pub(crate) line: usize,
}

impl CodePath {
    /// Whether the path is `prefix` or lies in it.
    pub(crate) fn starts_with(&self, prefix: &[&str]) -> bool {
        self.words.len() >= prefix.len()
            && self
                .words
                .iter()
                .zip(prefix)
                .all(|(word, want)| word == want)
    }
}

/// All paths of two words and more, and all that `use` names.
pub(crate) fn paths(tokens: &[Token]) -> Vec<CodePath> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = use_tree(tokens, at + 1, &[], &mut paths);
        } else if is_word(&tokens[at]) {
            let (line, mut words) = (tokens[at].line, vec![tokens[at].text.clone()]);
            at += 1;
            while tokens.get(at).is_some_and(|t| t.text == "::")
                && tokens.get(at + 1).is_some_and(is_word)
            {
                words.push(tokens[at + 1].text.clone());
                at += 2;
            }
            if words.len() > 1 {
                paths.push(CodePath { words, line });
            }
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one branch of a `use` and gives the place after it.
fn use_tree(tokens: &[Token], from: usize, before: &[String], out: &mut Vec<CodePath>) -> usize {
    let mut words = before.to_vec();
    let line = tokens.get(from).map_or(0, |token| token.line);
    let mut at = from;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t.text != "}") {
                    let next = use_tree(tokens, at, &words, out);
                    // A comma ends a branch; what else stops one is no `use`.
                    at = next.max(at + usize::from(next == at));
                    if tokens.get(at).is_some_and(|t| t.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            _ if is_word(token) => {
                words.push(token.text.clone());
                at += 1;
            }
            "*" => at += 1,
            _ => break,
        }
    }
    out.push(CodePath { words, line });
    at
}

fn is_word(token: &Token) -> bool {
    token
        .text
        .starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    fn joined(text: &str) -> Vec<String> {
        paths(&tokens(text))
            .iter()
            .map(|path| path.words.join("::"))
            .collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(
            words("a /* b /* c */ d */ \"e \\\" f\" r#\"g \" h\"# 'i' '\\'' b'j' k // l"),
            ["a", "k"]
        );
        assert_eq!(words("&'a str"), ["&", "a", "str"]);
    }

    #[test]
    fn lines_are_counted_through_all_of_them() {
        let tokens = tokens("/*\n*/\n\"\n\"\na");
        assert_eq!(
            tokens,
            [Token {
                text: "a".into(),
                line: 5
            }]
        );
    }

    #[test]
    fn a_use_names_each_of_its_leaves() {
        assert_eq!(
            joined("use crate::{a::{b, c as d}, e::*, f};"),
            ["crate::a::b", "crate::a::c", "crate::e", "crate::f"]
        );
        assert_eq!(
            joined("x = kube::Client::try_default(y);"),
            ["kube::Client::try_default"]
        );
    }

    #[test]
    fn damaged_code_ends() {
        for text in [
            "use a::{b",
            "use {",
            "use a::{;}",
            "\"",
            "'",
            "r#\"",
            "/*",
            "'\\",
        ] {
            let _ = paths(&tokens(text));
        }
    }
}
