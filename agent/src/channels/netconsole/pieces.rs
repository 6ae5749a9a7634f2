//! Records that came in pieces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::record::{Fragment, Head};
use crate::gasp::bounded::Bounded;

/// Records of one source that are under way.
const RECORDS: usize = 4;
/// Sources of such records: with the longest records they hold 32 MiB, and 8 MiB
/// for keeping their pieces apart.
const SOURCES: usize = 512;
/// Pieces of one record: the kernel's have some 900 bytes each.
const PIECES: usize = 64;

/// What a piece came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More is to come.
    Kept,
    /// It was there already.
    Copy,
    /// It contradicts the others.
    Refused,
    /// The record's body.
    Whole(Vec<u8>),
}

/// Records under way, by source.
#[derive(Debug)]
pub(super) struct Pieces {
    sources: Bounded<IpAddr, Vec<Partial>>,
    given_up: u64,
}

#[derive(Debug)]
struct Partial {
    head: Head,
    total: usize,
    have: usize,
    /// By offset; they do not overlap.
    pieces: BTreeMap<usize, Vec<u8>>,
}

impl Pieces {
    pub(super) fn new() -> Self {
        Self {
            sources: Bounded::new(SOURCES),
            given_up: 0,
        }
    }

    /// Records that never became whole, as far as that is known.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    pub(super) fn take(
        &mut self,
        source: IpAddr,
        head: Head,
        fragment: Fragment,
        body: &[u8],
    ) -> Step {
        let (records, evicted) = self.sources.get_or_insert(&source, Vec::new);
        self.given_up += evicted.map_or(0, |(_, records)| records.len() as u64);
        let same = |p: &Partial| p.head == head && p.total == fragment.total;
        let at = records.iter().position(same).unwrap_or_else(|| {
            if records.len() == RECORDS {
                records.remove(0);
                self.given_up += 1;
            }
            records.push(Partial {
                head,
                total: fragment.total,
                have: 0,
                pieces: BTreeMap::new(),
            });
            records.len() - 1
        });
        let step = records[at].put(fragment.offset, body);
        if matches!(step, Step::Whole(_)) {
            records.remove(at);
            if records.is_empty() {
                self.sources.remove(&source);
            }
        }
        step
    }
}

impl Partial {
    fn put(&mut self, offset: usize, body: &[u8]) -> Step {
        if self.pieces.get(&offset).is_some_and(|old| old == body) {
            return Step::Copy;
        }
        let before = self.pieces.range(..=offset).next_back();
        let after = self.pieces.range(offset..).next();
        if before.is_some_and(|(at, old)| at + old.len() > offset)
            || after.is_some_and(|(at, _)| offset + body.len() > *at)
        {
            return Step::Refused;
        }
        if self.pieces.len() == PIECES {
            return Step::Refused;
        }
        self.have += body.len();
        self.pieces.insert(offset, body.to_vec());
        if self.have < self.total {
            return Step::Kept;
        }
        Step::Whole(self.pieces.values().flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn head(seq: u64) -> Head {
        Head {
            facility: 0,
            level: 0,
            seq,
            time_us: seq,
            continues: false,
        }
    }

    #[test]
    fn a_record_that_never_becomes_whole_makes_room_and_is_counted() {
        let mut pieces = Pieces::new();
        let fragment = Fragment {
            offset: 0,
            total: 9,
        };
        for seq in 0..10 {
            assert_eq!(pieces.take(SOURCE, head(seq), fragment, b"abc"), Step::Kept);
        }
        assert_eq!(pieces.given_up(), 10 - RECORDS as u64);
        let over = Fragment {
            offset: 2,
            total: 9,
        };
        assert_eq!(pieces.take(SOURCE, head(9), over, b"xyz"), Step::Refused);
        assert_eq!(pieces.take(SOURCE, head(9), fragment, b"abc"), Step::Copy);
    }

    #[test]
    fn a_record_in_crumbs_is_refused() {
        let mut pieces = Pieces::new();
        let mut crumb = |offset| {
            let fragment = Fragment { offset, total: 900 };
            pieces.take(SOURCE, head(1), fragment, b"x")
        };
        for offset in 0..PIECES {
            assert_eq!(crumb(offset), Step::Kept);
        }
        assert_eq!(crumb(PIECES), Step::Refused);
    }

    proptest! {
        /// In any order, with copies, some lost: the text, or nothing.
        #[test]
        fn pieces_give_the_record_or_nothing(
            text in prop::collection::vec(any::<u8>(), 1..400),
            size in 7usize..100,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let all: Vec<(usize, &[u8])> =
                text.chunks(size).enumerate().map(|(i, c)| (i * size, c)).collect();
            let mut pieces = Pieces::new();
            let mut sent = std::collections::BTreeSet::new();
            for pick in picks {
                let (offset, body) = all[pick.index(all.len())];
                let fragment = Fragment { offset, total: text.len() };
                let step = pieces.take(SOURCE, head(1), fragment, body);
                let is_new = sent.insert(offset);
                if sent.len() == all.len() {
                    prop_assert_eq!(step, Step::Whole(text.clone()));
                    return Ok(());
                }
                prop_assert_eq!(step, if is_new { Step::Kept } else { Step::Copy });
            }
        }
    }
}
