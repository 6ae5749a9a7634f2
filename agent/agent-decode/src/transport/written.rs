//! Lines that are written in another way than letter by letter: for a terminal, as JSON, for
//! a page.

use super::dates::is_stamp;

/// The text without what steers a terminal, and of what was written over with a carriage
/// return only what is left.
pub(super) fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\r' {
            continue;
        }
        if c != '\u{1b}' {
            text.push(c);
            continue;
        }
        // ECMA-48: a control sequence ends with a byte from @ to ~.
        if rest.clone().next() == Some('[') {
            rest.next();
            rest.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    text
}

/// What `journalctl -o json` writes as a list of bytes: a text with control characters.
fn json_bytes(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\"MESSAGE\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let list = rest.strip_prefix('[')?.split(']').next()?;
    let numbers = list
        .split(',')
        .map_while(|number| number.trim().parse().ok());
    let bytes: Vec<u8> = numbers.collect();
    Some(String::from_utf8_lossy(&bytes).replace(['\n', '\r'], " "))
}

/// What collectors of logs call the text that they ship.
const SHIPPED: [&str; 3] = ["\"message\"", "\"msg\"", "\"textPayload\""];

/// What is logged, of an object as container runtimes and `journalctl -o json` write it.
pub(super) fn json(line: &str) -> Option<String> {
    let value = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.trim_start()
            .strip_prefix(':')?
            .trim_start()
            .strip_prefix('"')
    };
    let listed = json_bytes(line);
    // Anybody's messages are called so: what the kernel printed has its clock before it.
    let stamped = |name| value(name).filter(|text| is_stamp(text));
    let text = value("\"MESSAGE\"")
        .or_else(|| value("\"log\""))
        .or_else(|| SHIPPED.into_iter().find_map(stamped));
    if text.is_none() && listed.is_none() {
        return None;
    }
    let by = value("\"SYSLOG_IDENTIFIER\"").or_else(|| value("\"_TRANSPORT\""));
    let mut out = String::with_capacity(line.len());
    if by.is_some_and(|by| !by.starts_with("kernel\"")) {
        out.push_str("program: ");
    }
    if let Some(listed) = listed {
        out.push_str(listed.trim_end());
        return Some(out);
    }
    let mut chars = text?.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next()? {
                'n' | 'r' => out.push(' '),
                't' => out.push('\t'),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok();
                    out.extend(code.and_then(char::from_u32));
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    Some(out.trim_end().to_owned())
}

/// The text of what was written for a page: `&lt;IRQ&gt;`.
pub(super) fn unescaped(line: &str) -> Option<String> {
    const NAMES: [(&str, &str); 5] = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    let is_in = |(name, _): &(&str, &str)| line.contains(name);
    NAMES.iter().any(is_in).then(|| {
        NAMES
            .iter()
            .fold(line.to_owned(), |text, (name, c)| text.replace(name, c))
    })
}
