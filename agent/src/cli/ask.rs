//! Where `deaths`, `why` and `fleet` get their answers: an annotator, or its store.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use agent_core::model::Timestamp;
use agent_core::recurrence::{Asked, Fleet};
use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;

use super::known;
use crate::annotate;
use crate::store::{Explanation, Query, Removed, Store, Summary};

/// Longest wait for the annotator, in each direction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer taken.
const ANSWER_MAX: u64 = 64 << 20;

/// Exit code: nothing is known of what was asked.
pub(super) const NOTHING_KNOWN: u8 = 3;

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The annotator to ask (plain HTTP)
    #[arg(
        long,
        value_name = "URL",
        env = "LASTGASP_ANNOTATOR",
        default_value = "http://127.0.0.1:9619"
    )]
    annotator: String,
    /// Read this store instead of asking an annotator
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl Source {
    pub(super) fn deaths(&self, limit: u32) -> anyhow::Result<Vec<Summary>> {
        match &self.store {
            Some(path) => Ok(Store::open_to_read(path)?.deaths(limit)?),
            None => self
                .get(&format!("/v1/deaths?limit={limit}"))?
                .ok_or_else(|| {
                    anyhow!("the annotator does not know /v1/deaths; is it another version?")
                }),
        }
    }

    /// Node objects that were deleted, newest first.
    pub(super) fn removed(&self, limit: u32) -> anyhow::Result<Vec<Removed>> {
        match &self.store {
            Some(path) => Ok(Store::open_to_read(path)?.removed(limit)?),
            // An annotator of an older version knows of none.
            None => Ok(self
                .get(&format!("/v1/removed?limit={limit}"))?
                .unwrap_or_default()),
        }
    }

    /// Who died of what, and who never did.
    pub(super) fn fleet(&self, asked: &Asked, since_s: Option<u64>) -> anyhow::Result<Fleet> {
        if let Some(path) = &self.store {
            let now = annotate::now();
            let since = since_s.map(|s| Timestamp(now.0.saturating_sub(s.saturating_mul(1_000))));
            return Ok(Store::open_to_read(path)?.fleet(since, asked, &known::has_bug)?);
        }
        let since = since_s.map(|seconds| format!("since_s={seconds}"));
        let fingerprint = asked.fingerprint.as_deref();
        let fingerprint = fingerprint.map(|text| format!("fingerprint={}", encoded(text)));
        let node = asked.node.as_ref();
        let node = node.map(|node| format!("node={}", encoded(node.as_str())));
        let asked: Vec<String> = [since, fingerprint, node].into_iter().flatten().collect();
        let path = format!("/v1/fleet?{}", asked.join("&"));
        self.get(&path)?
            .ok_or_else(|| anyhow!("the annotator does not know /v1/fleet; is it another version?"))
    }

    pub(super) fn why(&self, query: &Query, lines: u32) -> anyhow::Result<Option<Explanation>> {
        if let Some(path) = &self.store {
            return Ok(Store::open_to_read(path)?.why(query, lines)?);
        }
        let (kind, name) = match query {
            Query::Pod {
                namespace: Some(namespace),
                name,
            } => ("pod", format!("{}/{}", encoded(namespace), encoded(name))),
            Query::Pod {
                namespace: None,
                name,
            } => ("pod", encoded(name)),
            Query::Node(name) => ("node", encoded(name)),
            Query::Any(name) => ("any", encoded(name)),
        };
        self.get(&format!("/v1/why?{kind}={name}&lines={lines}"))
    }

    /// Asks the annotator; `None` if it says 404.
    fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let url = &self.annotator;
        let host = url
            .strip_prefix("http://")
            .ok_or_else(|| anyhow!("{url} is no http:// address of an annotator"))?
            .trim_end_matches('/');
        let no_one = || {
            format!(
                "no annotator answers at {url}; start `lastgasp annotator`, name its address with \
                 --annotator or LASTGASP_ANNOTATOR (in a cluster: kubectl port-forward), or read \
                 its store with --store FILE"
            )
        };
        let (status, body) = exchange(host, path).with_context(no_one)?;
        match status {
            200 => serde_json::from_slice(&body).map(Some).with_context(|| {
                format!("the answer of {url} is not understood; is it another version?")
            }),
            404 => Ok(None),
            status => bail!(
                "the annotator at {url} answers {status}: {}",
                String::from_utf8_lossy(&body)
            ),
        }
    }
}

/// One GET by HTTP/1.0, which needs no framing: the answer ends with the
/// connection. Gives status and body.
fn exchange(host: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let with_port = if host
        .rsplit(':')
        .next()
        .is_some_and(|p| p.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut last = anyhow!("{with_port} has no address");
    for address in with_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return talk(stream, host, path),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn talk(mut stream: TcpStream, host: &str, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > ANSWER_MAX {
        bail!("the answer is longer than {ANSWER_MAX} bytes");
    }
    split(&answer).ok_or_else(|| anyhow!("the answer is not HTTP"))
}

fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some((status.parse().ok()?, answer[end + 4..].to_vec()))
}

/// Percent-encodes all but what a name is made of (RFC 3986, unreserved).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_and_anything_else_refused() {
        let ok = b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n{}".as_slice();
        assert_eq!(split(ok), Some((200, b"{}".to_vec())));
        for bad in [
            b"".as_slice(),
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1",
        ] {
            assert_eq!(split(bad), None);
        }
    }

    #[test]
    fn names_cannot_change_the_question() {
        assert_eq!(encoded("a b&node=x/é"), "a%20b%26node%3Dx%2F%C3%A9");
    }

    #[test]
    fn a_missing_annotator_is_said_with_the_way_out() {
        let source = Source {
            // Port 1 of loopback: nothing listens there.
            annotator: "http://127.0.0.1:1".to_owned(),
            store: None,
        };
        let error = source.deaths(1).expect_err("nobody there").to_string();
        assert!(
            error.contains("--store") && error.contains("127.0.0.1:1"),
            "{error}"
        );
    }

    #[test]
    fn a_store_that_cannot_be_read_is_said_with_the_way_out_whatever_is_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let newer = dir.path().join("newer.db");
        drop(Store::open(&newer).expect("a new store"));
        // Where SQLite keeps the format that is ours to count.
        let mut bytes = std::fs::read(&newer).expect("readable");
        bytes[60..64].copy_from_slice(&1_000_u32.to_be_bytes());
        std::fs::write(&newer, bytes).expect("writable");
        for (store, said) in [
            (newer, "use the newer lastgasp"),
            (dir.path().join("none.db"), "name the file of an annotator"),
        ] {
            let source = Source {
                annotator: String::new(),
                store: Some(store),
            };
            for error in [
                source.fleet(&Asked::default(), None).map(drop),
                source.why(&Query::Any("w01".into()), 1).map(drop),
                source.deaths(1).map(drop),
                source.removed(1).map(drop),
            ] {
                let error = error.expect_err("not to be read").to_string();
                assert!(error.contains(said), "{error}");
            }
        }
    }
}
