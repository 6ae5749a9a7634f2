//! What is said of a packet, held against taking it apart byte by byte as the kernel does.

extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// TCP over IPv4 (`SKB_GSO_TCPV4`).
const TCP: u32 = 1;

/// Scatter-gather and all checksums; no kind of packet is taken apart by the device.
const PLAIN: u64 = FEATURE_PAGES | FEATURE_CHECKSUM;

/// A packet or an element, with the sizes of its pages.
#[derive(Clone, Debug)]
struct Data {
    linear: u32,
    frags: Vec<u32>,
    in_a_page: bool,
}

impl Data {
    fn len(&self) -> u32 {
        self.linear + self.frags.iter().sum::<u32>()
    }

    fn element(&self) -> Element {
        Element {
            len: self.len(),
            linear: self.linear,
            frags: self.frags.len() as u16,
            in_a_page: self.in_a_page.into(),
        }
    }
}

fn in_page(linear: u32) -> Data {
    Data {
        linear,
        frags: Vec::new(),
        in_a_page: true,
    }
}

#[derive(Clone, Debug)]
struct Case {
    features: u64,
    kind: u32,
    size: u32,
    own: Data,
    list: Vec<Data>,
}

impl Case {
    fn len(&self) -> u32 {
        self.own.len() + self.list.iter().map(Data::len).sum::<u32>()
    }

    fn head(&self) -> Head {
        Head {
            features: self.features,
            kind: self.kind,
            size: self.size,
            len: self.len(),
            linear: self.own.linear,
            protocol: PROTOCOL_4,
        }
    }

    /// What is said beforehand.
    fn foreseen(&self) -> u8 {
        let mut elements = self.list.iter().map(Data::element);
        let first = elements.next().expect("a list");
        let list = elements.fold(List::begun(first), List::with);
        let Some(mut plan) = Plan::of(&self.head(), &list) else {
            return check::NONE;
        };
        let found = self.list.iter().map(|data| plan.next(data.element()));
        let mut found = found.filter(|found| *found != check::NONE);
        found.next().unwrap_or(check::NONE)
    }

    /// Bytes of a segment, or `None` where all is copied.
    fn segment(&self) -> Option<u32> {
        let copied = |data: &Data| data.linear > 0 && !data.in_a_page;
        let pages = self.features & FEATURE_PAGES != 0;
        let distrusted = self.kind & KIND_DODGY != 0
            && self.size != self.own.linear
            && self.list.iter().any(copied);
        if !pages || distrusted {
            return None;
        }
        let checksum = self.features & (FEATURE_CHECKSUM | FEATURE_CHECKSUM_4) != 0;
        let kinds = u64::from(self.kind) << FEATURE_KINDS_SHIFT;
        let first = self.list[0].len();
        let all_but_last = &self.list[..self.list.len() - 1];
        let even = all_but_last.iter().all(|data| data.len() == first)
            && !self.list.iter().any(copied)
            && self.own.len() == first;
        let whole = if !checksum {
            0
        } else if self.features & FEATURE_PARTIAL != 0 {
            self.len()
        } else if self.features & kinds == kinds && even {
            first
        } else {
            0
        };
        Some(self.size * (whole / self.size).max(1))
    }

    /// Takes it apart.
    fn happens(&self) -> u8 {
        let Some(size) = self.segment() else {
            return check::NONE;
        };
        let mut list = self.list.iter().peekable();
        // What is behind the linear part of the one at hand, and how much of it is used.
        let mut pieces: Vec<u32> = self.own.frags.clone();
        let mut used = 0;
        let mut at = self.own.linear;
        let mut begin = 0;
        while begin < self.len() {
            let end = self.len().min(begin + size);
            let is_used_up = self.own.linear <= begin && used >= pieces.len();
            if is_used_up && list.peek().is_some_and(|next| next.linear > 0) {
                let next = list.next().expect("it");
                if next.linear > end - begin {
                    return check::HEAD_TOO_LONG;
                }
                (pieces, used) = (next.frags.clone(), 0);
                at += next.linear;
                while at < end {
                    let Some(piece) = pieces.get(used) else {
                        return check::TOO_SHORT;
                    };
                    if at + piece > end {
                        break;
                    }
                    at += piece;
                    used += 1;
                }
            } else {
                while at < end {
                    if used >= pieces.len() {
                        let next = list.next().expect("more data");
                        if next.linear == 0 && next.frags.is_empty() {
                            return check::EMPTY;
                        }
                        if next.linear > 0 && !next.in_a_page {
                            return check::NOT_IN_A_PAGE;
                        }
                        pieces = Vec::new();
                        pieces.extend((next.linear > 0).then_some(next.linear));
                        pieces.extend(&next.frags);
                        used = 0;
                    }
                    if at + pieces[used] > end {
                        break;
                    }
                    at += pieces[used];
                    used += 1;
                }
            }
            begin = end;
        }
        check::NONE
    }
}

/// The packet of the report that this is for: GRO merged 19 segments of 125 bytes, and an
/// eBPF program took 50 off `gso_size` for a tunnel's headers.
fn reported() -> Case {
    Case {
        features: PLAIN,
        kind: TCP,
        size: 75,
        own: Data {
            linear: 125,
            frags: vec![125; 17],
            in_a_page: true,
        },
        list: vec![in_page(125)],
    }
}

#[test]
fn the_reported_packet_is_found_and_its_neighbours_are_not() {
    assert_eq!(reported().foreseen(), check::HEAD_TOO_LONG);
    let with = |size: u32, mss: u32| Case {
        size,
        own: Data {
            linear: mss,
            frags: vec![mss; 17],
            in_a_page: true,
        },
        list: vec![in_page(mss)],
        ..reported()
    };
    // As GRO made it, and where the list begins within a segment.
    assert_eq!(with(125, 125).foreseen(), check::NONE);
    assert_eq!(with(76, 126).foreseen(), check::NONE);
    // The other report of it.
    assert_eq!(with(450, 500).foreseen(), check::HEAD_TOO_LONG);
    // A device that takes no pages, or a list that is not trusted: copied.
    let mut copied = reported();
    copied.features = FEATURE_CHECKSUM;
    assert_eq!(copied.foreseen(), check::NONE);
    let mut distrusted = reported();
    distrusted.kind = TCP | KIND_DODGY;
    assert_eq!(distrusted.foreseen(), check::HEAD_TOO_LONG);
    distrusted.list[0].in_a_page = false;
    assert_eq!(distrusted.foreseen(), check::NONE);
}

#[test]
fn each_check_has_a_packet() {
    let case = |size, own, list: &[Data]| Case {
        features: PLAIN,
        kind: TCP,
        size,
        own: in_page(own),
        list: list.to_vec(),
    };
    let not_in_a_page = Data {
        in_a_page: false,
        ..in_page(125)
    };
    let cases = [
        (case(75, 150, &[in_page(125)]), check::HEAD_TOO_LONG),
        (
            case(450, 450, &[in_page(400), in_page(400)]),
            check::TOO_SHORT,
        ),
        (case(75, 100, &[in_page(0), in_page(125)]), check::EMPTY),
        (case(75, 100, &[not_in_a_page]), check::NOT_IN_A_PAGE),
        // Nothing is behind the empty one: the kernel never comes to it.
        (case(75, 100, &[in_page(50), in_page(0)]), check::NONE),
    ];
    for (case, expected) in cases {
        assert_eq!(case.foreseen(), expected, "{case:?}");
        assert_eq!(case.happens(), expected, "{case:?}");
    }
}

fn data() -> impl Strategy<Value = Data> {
    let size = prop_oneof![1..=8_u32, Just(4), Just(6)];
    let linear = prop_oneof![Just(0), size.clone()];
    let frags = prop::collection::vec(size, 0..4);
    (linear, frags, prop::bool::weighted(0.8)).prop_map(|(linear, frags, in_a_page)| Data {
        linear,
        frags,
        in_a_page,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let features = prop::sample::select(vec![
        PLAIN,
        FEATURE_PAGES,
        FEATURE_CHECKSUM,
        FEATURE_PAGES | FEATURE_CHECKSUM_4,
        FEATURE_PAGES | FEATURE_CHECKSUM_6,
        PLAIN | FEATURE_PARTIAL,
        PLAIN | u64::from(TCP) << FEATURE_KINDS_SHIFT,
    ]);
    let list = prop_oneof![
        prop::collection::vec(data(), 1..6),
        // As GRO makes it: all of one length.
        (data(), 1..6_usize).prop_map(|(data, times)| vec![data; times]),
    ];
    let kind = prop::sample::select(vec![TCP, TCP | KIND_DODGY]);
    (features, kind, 1..=16_u32, data(), list).prop_map(|(features, kind, size, own, list)| Case {
        features,
        kind,
        size,
        own,
        list,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn what_is_foreseen_is_what_happens(case in case()) {
        prop_assert_eq!(case.foreseen(), case.happens());
    }
}
