//! What holds for any bytes.

use agent_decode::{Decoder, Report, begins, reports};
use proptest::prelude::*;

/// Pieces that reports are made of, and what stands around them.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "[    1.234567] ", "[    1.2][   T12] ", "<4>", "Nov 21 01:40:46 w01 kernel: ",
            "4,12,34,-,ncfrag=0/60;", "4,12,34,-,ncfrag=30/60;", "4,13,34,-;", "MESSAGE=", "{\"log\":\"",
            "\u{1b}[31m", "\u{1b}", "\r", "a-b.log-12-", "2026-11-21T01:40:46Z w01 app: ",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["i\u{1b}nvalid opcode: 0000 [#1] SMP", "Oops\u{1b}: 0002 [#1]"])
            .prop_map(|text| text.as_bytes().to_vec()),
        8 => prop::sample::select(vec![
            "BUG: kernel NULL pointer dereference, address: 0", "kernel BUG at a.c:1!",
            "WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2 [m]", "WARNING: [x] a.c:1 at f+0x1/0x2, CPU#0: a/1",
            "------------[ cut here ]------------", "refcount_t: underflow; use-after-free.",
            "CPU: 0 PID: 1 Comm: a b Tainted: G  OE 6.1.0 #1", "Hardware name: x", "DMI: y",
            "RIP: 0010:f+0x1/0x2 [m]", "RIP: 0010:0x0", "Call Trace:", " <IRQ>", " </IRQ>",
            " ? f.cold+0x1/0x2", " f net/a.c:1 [inline]", "Modules linked in: a(OE) b", "RAX: 00 RBX: 11",
            "---[ end trace 0 ]---", "Kernel panic - not syncing: Fatal exception",
            "Kernel panic - not syncing: panic_on_warn set ...", "Linux version 6.1.0 (x) #1",
            "BUG: KASAN: use-after-free in f+0x1/0x2", "Read of size 8 at addr 0 by task a/1",
            "INFO: task a:1 blocked for more than 120 seconds.", "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
            "x: disagrees about version of symbol y", "BPF program is too large. Processed 1 insn",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..120),
        1 => (70usize..90).prop_map(|count| vec![b'x'; count]),
        6 => Just(b"\n".to_vec()),
    ]
}

fn log() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..120).prop_map(|pieces| pieces.concat())
}

fn in_chunks(log: &[u8], sizes: &[usize]) -> Vec<Report> {
    let mut decoder = Decoder::default();
    let mut all = Vec::new();
    let mut rest = log;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, more) = rest.split_at((*size).clamp(1, rest.len()));
        decoder.push(chunk);
        all.extend(decoder.reports());
        rest = more;
    }
    all.extend(decoder.finish());
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn how_a_log_comes_in_makes_no_difference(
        log in log(),
        sizes in prop::collection::vec(1usize..200, 1..8),
    ) {
        prop_assert_eq!(in_chunks(&log, &sizes), reports(&log));
    }

    #[test]
    fn a_report_is_bounded_and_lies_in_its_log(log in log()) {
        for report in reports(&log) {
            prop_assert!(report.line.len() <= 1024);
            prop_assert!(report.title.len() <= 3 * 1024);
            prop_assert!(report.frames.len() <= 64 && report.modules.len() <= 256);
            prop_assert!(report.start <= report.end && report.end <= log.len() as u64 + 1);
            prop_assert_eq!(report.fingerprint.len(), 16);
        }
    }

    #[test]
    fn what_begins_a_report_gives_one(text in "\\PC{0,100}") {
        let found = !reports(text.as_bytes()).is_empty();
        if found {
            prop_assert!(begins(agent_decode::strip(&text)));
        }
    }
}
