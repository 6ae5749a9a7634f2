use std::collections::BTreeMap;

use agent_core::model::ReasonCode;
use proptest::prelude::*;

use super::*;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const BOOT: &str = "3f2b8c9e-0d1a-4b6f-9c3d-5e7a1b2c4d6f";

/// What a kernel says of one death, and what went before.
const DEATH: [&str; 8] = [
    "virtio_net virtio0 eth0: renamed",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "#PF: supervisor write access in kernel mode",
    "Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 6.12.48-cloud #1",
    "RIP: 0010:boom_timer+0x9/0x20 [boom]",
    "---[ end trace 0000000000000000 ]---",
    "Kernel panic - not syncing: Fatal exception in interrupt",
];

fn collector() -> Collector {
    let addresses = Addresses::new(1);
    let node = NodeName::new("w01").expect("a DNS label");
    addresses.learn(SOURCE, &node, Timestamp(0));
    Collector::new(Arc::new(addresses), Arc::default())
}

fn record(seq: u64, text: &str) -> Vec<u8> {
    format!("1,{seq},{},-;{text}\n", 1_000_000 + seq).into_bytes()
}

/// As `send_msg_fragmented` of drivers/net/netconsole.c cuts it.
fn pieces(record: &[u8], size: usize) -> Vec<Vec<u8>> {
    let at = record.iter().position(|b| *b == b';').expect("a header");
    let (header, body) = (&record[..at], &record[at + 1..]);
    let piece = |(i, part): (usize, &[u8])| {
        let place = format!(",ncfrag={}/{};", i * size, body.len());
        [header, place.as_bytes(), part].concat()
    };
    body.chunks(size).enumerate().map(piece).collect()
}

/// The last thing that is told of these datagrams.
fn told(collector: &mut Collector, datagrams: &[Vec<u8>]) -> Option<Overheard> {
    let take = |d: &Vec<u8>| collector.take(d, SOURCE, Timestamp(1));
    datagrams.iter().filter_map(take).last()
}

fn counts(collector: &Collector) -> BTreeMap<&'static str, u64> {
    let count = |o: Outcome| (o.as_str(), collector.counters.of(o));
    let all = Outcome::ALL.into_iter().map(count);
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_outcome_has_its_own_place_and_word() {
    let words: std::collections::HashSet<_> = Outcome::ALL.iter().map(|o| o.as_str()).collect();
    assert_eq!(words.len(), Outcome::ALL.len());
    for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, at);
    }
}

#[test]
fn a_death_is_understood_in_both_formats() {
    let numbered = DEATH.iter().zip(10u64..);
    let extended: Vec<Vec<u8>> = numbered.map(|(text, seq)| record(seq, text)).collect();
    let basic: Vec<Vec<u8>> = DEATH
        .iter()
        .map(|text| format!("[    1.000000] {text}\n").into_bytes())
        .collect();
    // The basic format cuts a long line, and says nothing of it.
    let cut = basic.concat().chunks(100).map(<[u8]>::to_vec).collect();
    for datagrams in [extended, basic, cut] {
        let said = told(&mut collector(), &datagrams).expect("a crash");
        assert_eq!(said.node.as_str(), "w01");
        assert_eq!(said.report.code, ReasonCode::NullPointerDereference);
        assert_eq!(said.report.fault_function.as_deref(), Some("boom_timer"));
        assert_eq!(said.report.module.as_deref(), Some("boom"));
    }
}

#[test]
fn userdata_names_the_boot_and_never_a_node_elsewhere() {
    let said = |userdata: &str| {
        let mut collector = collector();
        let text = format!("Kernel panic - not syncing: x\n{userdata}");
        let said = collector.take(&record(7, &text), SOURCE, Timestamp(1));
        (said.map(|s| s.boot), counts(&collector))
    };
    let accepted = BTreeMap::from([("accepted", 1)]);
    let boot = BootId::parse(BOOT);
    assert_eq!(
        said(&format!(" node=w01\n boot={BOOT}")),
        (Some(boot), accepted.clone())
    );
    assert_eq!(said(" boot=none"), (Some(None), accepted));
    let wrong = BTreeMap::from([("wrong_source", 1)]);
    assert_eq!(said(" node=w02"), (None, wrong));
}

#[test]
fn what_is_not_the_kernels_word_is_counted_and_tells_nothing() {
    let mut collector = collector();
    let mut take = |datagram: &[u8], source| collector.take(datagram, source, Timestamp(1));
    let stranger = IpAddr::from([10, 0, 0, 2]);
    let panic = record(1, "Kernel panic - not syncing: forged");
    assert_eq!(take(&panic, stranger), None);
    // A program may write to /dev/kmsg, but not as the kernel.
    assert_eq!(
        take(b"12,2,2,-;Kernel panic - not syncing: x\n", SOURCE),
        None
    );
    assert_eq!(take(b"1,3,3,-,ncfrag=8/4;x", SOURCE), None);
    assert_eq!(take(&[b'x'; DATAGRAM_MAX + 1], SOURCE), None);
    assert_eq!(
        counts(&collector),
        [
            ("from_program", 1),
            ("malformed", 1),
            ("too_long", 1),
            ("unknown_source", 1)
        ]
        .into()
    );
}

#[test]
fn another_boot_begins_anew_and_a_storm_of_crashes_is_cut_short() {
    let mut collector = collector();
    let first = record(700, "Kernel panic - not syncing: first");
    assert!(told(&mut collector, &[first.clone(), first]).is_some());
    // The same numbers at other times.
    let next = b"1,700,9,-;Kernel panic - not syncing: second\n".to_vec();
    let said = told(&mut collector, &[next]).expect("another crash");
    assert!(said.report.title.contains("second"), "{said:?}");

    let storm: Vec<Vec<u8>> = (0..100u64)
        .map(|i| {
            format!(
                "1,{},{},-;Kernel panic - not syncing: {i}\n",
                9_000 * i,
                60_000_000 * i
            )
        })
        .map(String::into_bytes)
        .collect();
    let taken = storm
        .iter()
        .filter_map(|d| collector.take(d, SOURCE, Timestamp(2)));
    assert!(taken.count() < 20);
    assert!(collector.counters.suppressed.load(Ordering::Relaxed) > 80);
}

#[test]
fn a_number_far_ahead_mutes_nobody() {
    let mut collector = collector();
    collector.take(&record(5, "all is well"), SOURCE, Timestamp(1));
    for seq in [u64::MAX >> 1, u64::MAX] {
        let forged = format!("1,{seq},{},-;panic\n", u64::MAX).into_bytes();
        collector.take(&forged, SOURCE, Timestamp(1));
        collector.take(b"and some text\n", SOURCE, Timestamp(1));
        let all: Vec<Vec<u8>> = DEATH
            .iter()
            .zip(10u64..)
            .map(|(t, seq)| record(seq, t))
            .collect();
        assert!(told(&mut collector, &all).is_some(), "{seq}");
    }
    let missing = collector.counters.missing.load(Ordering::Relaxed);
    assert!(missing <= 5 << 16, "{missing}");
}

/// The texts of the lines that are to be kept.
fn kept(collector: &mut Collector, now: u64) -> Vec<String> {
    let heard = collector.lines(Timestamp(now));
    assert!(heard.len() <= 1, "one node spoke: {heard:?}");
    let lines = heard.into_iter().flat_map(|heard| heard.lines);
    lines.map(|line| line.text).collect()
}

#[test]
fn lines_around_a_crash_are_kept_once_and_others_are_not() {
    let mut collector = collector();
    let take = |collector: &mut Collector, seq, text: &str, now| {
        collector.take(&record(seq, text), SOURCE, Timestamp(now));
    };
    for seq in 0..60 {
        take(&mut collector, seq, &format!("well {seq}"), 1);
        assert!(kept(&mut collector, 1).is_empty());
    }
    for (seq, text) in (60..).zip(&DEATH[1..]) {
        take(&mut collector, seq, text, 1);
    }
    let lines = kept(&mut collector, 1);
    assert_eq!(lines[..2], ["well 28", "well 29"], "32 that came before");
    assert_eq!(lines[32..], DEATH[1..]);
    // What comes late, twice, and after.
    take(&mut collector, 68, "behind", 2);
    take(&mut collector, 68, "behind", 2);
    take(&mut collector, 67, "late", 2);
    assert_eq!(kept(&mut collector, 2), ["late", "behind"]);
    take(&mut collector, 69, "a minute later", 60_001);
    assert!(kept(&mut collector, 60_001).is_empty());
}

#[test]
fn lines_of_the_basic_format_have_the_time_that_is_printed_and_end_before_they_are_kept() {
    let mut collector = collector();
    let take = |collector: &mut Collector, text: &str| {
        collector.take(text.as_bytes(), SOURCE, Timestamp(1));
    };
    take(
        &mut collector,
        "[  100.000001] Kernel panic - not syncing: x\n[  100.000002] CPU: ",
    );
    let heard = collector.lines(Timestamp(1)).remove(0).lines;
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].mono_ns, 100_000_001_000);
    take(&mut collector, "1\n");
    assert_eq!(kept(&mut collector, 1), ["CPU: 1"]);
    // The next boot's lines are none of that crash.
    take(&mut collector, "[    3.000000] all is well\n");
    assert!(kept(&mut collector, 1).is_empty());
}

#[test]
fn a_flood_of_lines_around_crashes_is_cut_short() {
    let mut collector = collector();
    let mut count = 0;
    for seq in 0..2_000 {
        let crash = record(seq, "Kernel panic - not syncing: x");
        collector.take(&crash, SOURCE, Timestamp(1));
        count += kept(&mut collector, 1).len();
    }
    assert_eq!(count, 512);
    assert_eq!(
        collector.counters.lines_cut.load(Ordering::Relaxed),
        2_000 - 512
    );
}

#[test]
fn what_programs_say_is_not_missing() {
    let mut collector = collector();
    for seq in 0..500 {
        let prefix = if seq % 5 == 0 { 1 } else { 12 };
        let line = format!("{prefix},{seq},{seq},-;all is well\n");
        collector.take(line.as_bytes(), SOURCE, Timestamp(1));
    }
    let counted = BTreeMap::from([("accepted", 100), ("from_program", 400)]);
    assert_eq!(counts(&collector), counted);
    assert_eq!(collector.counters.missing.load(Ordering::Relaxed), 0);
}

#[test]
fn numbers_that_never_come_are_counted_once() {
    let mut collector = collector();
    for seq in (100..200).step_by(2).chain([400, 401, 5_000]) {
        collector.take(&record(seq, "all is well"), SOURCE, Timestamp(1));
    }
    // 49 among the first, 201 up to 400, 4,598 up to 5,000; of these 64 may still come.
    let missing = collector.counters.missing.load(Ordering::Relaxed);
    assert_eq!(missing, 49 + 201 + 4_598 - 64);
}

proptest! {
    #[test]
    fn no_bytes_break_it(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
    ) {
        let mut collector = collector();
        for datagram in &datagrams {
            collector.take(datagram, SOURCE, Timestamp(1));
        }
        prop_assert_eq!(counts(&collector).values().sum::<u64>(), datagrams.len() as u64);
    }

    /// However its records are mixed and copied, a death reads the same.
    #[test]
    fn order_and_copies_change_nothing(
        order in Just((0..DEATH.len()).collect::<Vec<usize>>()).prop_shuffle(),
        copies in prop::collection::vec((0..DEATH.len(), any::<prop::sample::Index>()), 0..20),
    ) {
        let all: Vec<Vec<u8>> = DEATH.iter().zip(10u64..).map(|(t, seq)| record(seq, t)).collect();
        let in_order = told(&mut collector(), &all).map(|o| o.report);
        let mut mixed: Vec<Vec<u8>> = order.into_iter().map(|i| all[i].clone()).collect();
        for (which, place) in copies {
            mixed.insert(place.index(mixed.len() + 1), all[which].clone());
        }
        prop_assert_eq!(told(&mut collector(), &mixed).map(|o| o.report), in_order);
    }

    /// The same for the pieces of each record.
    #[test]
    fn pieces_change_nothing(
        size in 5usize..200,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let all: Vec<Vec<u8>> = DEATH.iter().zip(10u64..).map(|(t, seq)| record(seq, t)).collect();
        let mut picks = picks.into_iter();
        let mut mixed = Vec::new();
        for record in &all {
            let mut cut = pieces(record, size);
            while !cut.is_empty() {
                let pick = picks.next().map_or(0, |pick| pick.index(cut.len()));
                mixed.push(cut.swap_remove(pick));
            }
        }
        let in_order = told(&mut collector(), &all).map(|o| o.report);
        prop_assert_eq!(told(&mut collector(), &mixed).map(|o| o.report), in_order);
    }

    /// With some of them lost it says less, or nothing, and the rest is counted.
    #[test]
    fn what_is_lost_is_counted(lost in prop::collection::btree_set(10u64..18, 0..8)) {
        let mut collector = collector();
        for (text, seq) in DEATH.iter().zip(10u64..) {
            if !lost.contains(&seq) {
                collector.take(&record(seq, text), SOURCE, Timestamp(1));
            }
        }
        // Far enough on, what did not come is lost.
        let seen = 10..18;
        let first = seen.clone().find(|seq| !lost.contains(seq)).expect("not all are lost");
        collector.take(&record(500, "later"), SOURCE, Timestamp(1));
        let missing = collector.counters.missing.load(Ordering::Relaxed);
        let gaps = lost.iter().filter(|seq| **seq > first).count() as u64;
        prop_assert_eq!(missing, gaps + (500 - 18) - 64);
    }
}
