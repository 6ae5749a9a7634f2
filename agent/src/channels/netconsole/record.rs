//! One datagram of netconsole (Documentation/networking/netconsole.rst).

/// Longest header in front of the `;`, in bytes: a release, four fields, a
/// caller and the place of a fragment.
const HEADER_MAX: usize = 256;
/// Longest record, userdata included, in bytes: a line of 1 KiB whose every
/// byte is escaped, and sixteen items.
pub(super) const RECORD_MAX: usize = 16 << 10;

/// What one datagram holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Datagram<'a> {
    /// Extended format: a record, or a piece of one.
    Record {
        head: Head,
        /// Where the piece belongs; `None` is a whole record.
        fragment: Option<Fragment>,
        /// Text and userdata, as they were sent.
        body: &'a [u8],
    },
    /// Basic format: bytes of the console.
    Plain(&'a [u8]),
}

/// What stands in front of the `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Syslog's: 0 is the kernel itself, others wrote to `/dev/kmsg`.
    pub(super) facility: u32,
    pub(super) level: u8,
    /// The record's number since the boot.
    pub(super) seq: u64,
    /// The kernel's clock, in microseconds.
    pub(super) time_us: u64,
    /// It goes on with the line before it.
    pub(super) continues: bool,
}

/// `ncfrag=<offset>/<total>`, in bytes of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) offset: usize,
    pub(super) total: usize,
}

/// A fragment that lies outside its record, or a record beyond all bounds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a datagram. What has no extended header is in basic format.
pub(super) fn parse(datagram: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let Some((head, fragment, body)) = extended(datagram) else {
        return Ok(Datagram::Plain(datagram));
    };
    if let Some(Fragment { offset, total }) = fragment {
        let end = offset.checked_add(body.len()).ok_or(Malformed)?;
        if total > RECORD_MAX || end > total || body.is_empty() {
            return Err(Malformed);
        }
    }
    Ok(Datagram::Record {
        head,
        fragment,
        body,
    })
}

/// `[release,]prefix,seq,usec,flag[,caller=…][,ncfrag=offset/total];body`
fn extended(datagram: &[u8]) -> Option<(Head, Option<Fragment>, &[u8])> {
    let start = &datagram[..datagram.len().min(HEADER_MAX)];
    let end = start.iter().position(|byte| *byte == b';')?;
    let header = std::str::from_utf8(&datagram[..end]).ok()?;
    let fields = |header: &str| -> Option<(Head, Option<Fragment>)> {
        let mut fields = header.split(',');
        // include/linux/kern_levels.h: three bits of level, then the facility.
        let prefix: u32 = number(fields.next()?)?;
        let seq = number(fields.next()?)?;
        let time_us = number(fields.next()?)?;
        let continues = match fields.next()? {
            "-" => false,
            "c" | "+" => true,
            _ => return None,
        };
        let mut fragment = None;
        for field in fields {
            if let Some(place) = field.strip_prefix("ncfrag=") {
                let (offset, total) = place.split_once('/')?;
                let (offset, total) = (number(offset)?, number(total)?);
                fragment = Some(Fragment { offset, total });
            }
        }
        let head = Head {
            facility: prefix >> 3,
            level: (prefix & 7) as u8,
            seq,
            time_us,
            continues,
        };
        Some((head, fragment))
    };
    let after_release = || fields(header.split_once(',')?.1);
    let (head, fragment) = fields(header).or_else(after_release)?;
    Some((head, fragment, &datagram[end + 1..]))
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

/// A whole record's body: the text, and the values of the userdata lines
/// (` key=value`) that are asked for.
pub(super) fn text_and<'a, const N: usize>(
    body: &'a str,
    keys: [&str; N],
) -> (String, [Option<&'a str>; N]) {
    let mut lines = body.split('\n');
    let text = unescaped(lines.next().unwrap_or_default());
    let mut values = [None; N];
    for line in lines {
        let Some((key, value)) = line.strip_prefix(' ').and_then(|l| l.split_once('=')) else {
            continue;
        };
        if let Some(at) = keys.iter().position(|wanted| *wanted == key) {
            values[at] = Some(value);
        }
    }
    (text, values)
}

/// The kernel writes bytes that are not printable, and `\`, as `\x0a`
/// (`msg_print_ext_body` in kernel/printk/printk.c).
fn unescaped(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let hex = rest.get(at + 2..at + 4);
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &rest[at + 4..];
        } else {
            bytes.extend_from_slice(b"\\x");
            rest = &rest[at + 2..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_formats_are_read_as_kernels_send_them() {
        let head = |facility, level, seq, time_us, continues| Head {
            facility,
            level,
            seq,
            time_us,
            continues,
        };
        let record = |head, fragment, body| Datagram::Record {
            head,
            fragment,
            body,
        };
        let piece = |offset, total| Some(Fragment { offset, total });
        for (datagram, want) in [
            (
                "12,373,1919878,-;text\n",
                record(head(1, 4, 373, 1_919_878, false), None, &b"text\n"[..]),
            ),
            (
                "6.8.0-149-generic,0,439,2408583,c;text\n",
                record(head(0, 0, 439, 2_408_583, true), None, b"text\n"),
            ),
            (
                "2,7,9,-,caller=T1,ncfrag=943/960;0123456789abcdef\n",
                record(
                    head(0, 2, 7, 9, false),
                    piece(943, 960),
                    b"0123456789abcdef\n",
                ),
            ),
            ("[    1.0] text\n", Datagram::Plain(b"[    1.0] text\n")),
            ("1,2,3,x;text\n", Datagram::Plain(b"1,2,3,x;text\n")),
            ("1,2,-3,-;text\n", Datagram::Plain(b"1,2,-3,-;text\n")),
        ] {
            assert_eq!(parse(datagram.as_bytes()), Ok(want), "{datagram:?}");
        }
        for datagram in [
            "1,2,3,-,ncfrag=9/8;x",
            "1,2,3,-,ncfrag=0/1;xx",
            "1,2,3,-,ncfrag=0/8;",
            "1,2,3,-,ncfrag=0/99999999;x",
            "1,2,3,-,ncfrag=18446744073709551615/1;x",
        ] {
            assert_eq!(parse(datagram.as_bytes()), Err(Malformed), "{datagram:?}");
        }
    }

    #[test]
    fn userdata_is_told_from_text_and_escapes_are_undone() {
        let body = "a\\x0ab \\x5cx \\xzz=1\n node=w01\n SUBSYSTEM=net\nboot=forged\n boot=b\n";
        let (text, [node, boot]) = text_and(body, ["node", "boot"]);
        assert_eq!(text, "a\nb \\x \\xzz=1");
        assert_eq!((node, boot), (Some("w01"), Some("b")));
        assert_eq!(text_and("", ["node"]), (String::new(), [None]));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            if let Ok(Datagram::Record { body, .. } | Datagram::Plain(body)) = parse(&bytes) {
                text_and(&String::from_utf8_lossy(body), ["node"]);
            }
        }

        #[test]
        fn no_header_breaks_it(header in "[0-9,;=/c+a-z.-]{0,60}", body in "\\PC{0,40}") {
            if let Ok(Datagram::Record { body, .. }) = parse(format!("{header};{body}").as_bytes()) {
                text_and(&String::from_utf8_lossy(body), ["node"]);
            }
        }
    }
}
