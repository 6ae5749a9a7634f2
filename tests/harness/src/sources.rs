//! Finds a Debian mirror in the machine's own apt sources.

/// Name of the variable that overrides what the machine's sources say.
pub const MIRROR_VARIABLE: &str = "LASTGASP_DEBIAN_MIRROR";

/// Suites of Debian proper that carry `main`; a third party's archive has
/// other names for its suites.
const SUITES: &[&str] = &[
    "stable",
    "oldstable",
    "testing",
    "unstable",
    "sid",
    "forky",
    "trixie",
    "bookworm",
    "bullseye",
];

/// The first URI that offers Debian's `main`, in the text of a deb822
/// `*.sources` file (`deb822` true) or a one-line `*.list` file.
pub fn debian_mirror(text: &str, deb822: bool) -> Option<String> {
    if deb822 {
        stanzas(text)
    } else {
        one_line(text)
    }
}

fn offers<'a>(
    types: &str,
    mut suites: impl Iterator<Item = &'a str>,
    mut components: impl Iterator<Item = &'a str>,
) -> bool {
    types.split_whitespace().any(|t| t == "deb")
        && suites.any(|suite| SUITES.contains(&suite))
        && components.any(|component| component == "main")
}

fn stanzas(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        offers(
            field("Types")?,
            field("Suites")?.split_whitespace(),
            field("Components")?.split_whitespace(),
        )
        .then(|| field("URIs")?.split_whitespace().next().map(str::to_owned))?
    })
}

fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim();
        let rest = line.strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        offers("deb", words.next().into_iter(), words).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_offers_debian_main_by_suite_and_component() {
        let text = "Types: deb\nURIs: http://tools.example/apt\nSuites: nodistro\nComponents: main\n\n\
            Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian http://b.example\nSuites: bookworm bookworm-updates\nComponents: main contrib\n";
        assert_eq!(
            debian_mirror(text, true).as_deref(),
            Some("http://mirror.example/debian")
        );
        let off = text.replace("Types: deb deb-src", "Enabled: no\nTypes: deb");
        assert_eq!(debian_mirror(&off, true), None);
    }

    #[test]
    fn a_line_offers_debian_main_with_and_without_options() {
        for (text, found) in [
            (
                "deb http://m.example/debian trixie main contrib",
                Some("http://m.example/debian"),
            ),
            (
                "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian sid main",
                Some("http://m.example/debian"),
            ),
            ("# deb http://m.example/debian sid main", None),
            ("deb-src http://m.example/debian sid main", None),
            ("deb http://m.example/debian sid contrib", None),
            ("deb https://sdk.example/apt sdk-bookworm main", None),
            ("deb", None),
            ("", None),
        ] {
            assert_eq!(debian_mirror(text, false).as_deref(), found, "{text}");
        }
    }
}
