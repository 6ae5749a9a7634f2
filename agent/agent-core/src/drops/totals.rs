//! What it all sums up to, by reason.

use super::{Advice, Class, Key, Reading, Reasons, advice};

/// All packets of one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// As the kernel numbers it.
    pub reason: u32,
    /// What kind of end it is.
    pub class: Class,
    /// Packets, of which none is left out.
    pub packets: u64,
    /// How many of them had no room in a key of their own.
    pub no_room: u64,
    /// How many keys they have.
    pub keys: usize,
    /// The key with most of them, and how many.
    pub most: Option<(Key, u64)>,
    /// What is known of the reason.
    pub advice: Option<&'static Advice>,
}

/// One entry a reason: drops first, then the most packets.
pub fn totals(reading: &Reading, reasons: &Reasons) -> Vec<Total> {
    let total = |(reason, packets)| {
        let of_it = reading
            .counts
            .iter()
            .filter(|(key, _)| key.reason == reason);
        let most = of_it
            .clone()
            .max_by_key(|(key, packets)| (**packets, **key));
        Total {
            reason,
            class: reasons.class(reason),
            packets,
            no_room: reading.no_room.get(&reason).copied().unwrap_or(0),
            keys: of_it.count(),
            most: most.map(|(key, packets)| (*key, *packets)),
            advice: advice(&reasons.name(reason)),
        }
    };
    let mut totals: Vec<Total> = reading.by_reason().into_iter().map(total).collect();
    totals.sort_by_key(|t| (t.class, std::cmp::Reverse(t.packets), t.reason));
    totals
}

#[cfg(test)]
mod tests {
    use super::super::Tally;
    use super::*;

    fn reading(counts: &[(u32, u32, u64)], no_room: &[(u32, u64)]) -> Reading {
        let key = |reason, netns| Key {
            reason,
            netns,
            ..Key::default()
        };
        Reading {
            counts: counts.iter().map(|(r, n, c)| (key(*r, *n), *c)).collect(),
            no_room: no_room.iter().copied().collect(),
            ..Reading::default()
        }
    }

    #[test]
    fn drops_stand_before_what_may_be_none() {
        let names = [
            ("SKB_DROP_REASON_NOT_SPECIFIED", 2),
            ("SKB_DROP_REASON_NO_SOCKET", 3),
        ];
        let reasons = Reasons::of(names.map(|(name, n)| (name.to_owned(), n)));
        let all = reading(&[(2, 1, 900), (3, 1, 5), (3, 2, 7), (9, 1, 20)], &[(3, 4)]);
        let totals = totals(&all, &reasons);
        let short: Vec<_> = totals
            .iter()
            .map(|t| (t.reason, t.packets, t.no_room, t.keys))
            .collect();
        assert_eq!(short, [(9, 20, 0, 1), (3, 16, 4, 2), (2, 900, 0, 1)]);
        assert_eq!(totals[1].most.expect("has keys").1, 7);
        assert!(totals[1].advice.is_some() && totals[0].advice.is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_packet_is_counted_twice_or_left_out(
            counts in proptest::collection::vec((0_u32..9, 0_u32..4, 1_u64..1000), 0..40),
            no_room in proptest::collection::vec((0_u32..12, 1_u64..1000), 0..6),
        ) {
            let all = reading(&counts, &no_room);
            let totals = totals(&all, &Reasons::default());
            proptest::prop_assert_eq!(totals.iter().map(|t| t.packets).sum::<u64>(), all.packets());
        }

        #[test]
        fn what_grew_sums_up_to_what_there_is(
            steps in proptest::collection::vec(proptest::collection::vec((0_u32..4, 0_u32..4, 0_u64..50), 0..8), 0..10),
        ) {
            let (mut tally, mut now, mut grown) = (Tally::default(), Reading::default(), 0);
            for step in steps {
                for (key, packets) in reading(&step, &[]).counts {
                    *now.counts.entry(key).or_default() += packets;
                }
                let came = tally.step(now.clone(), 1_000_000_000);
                proptest::prop_assert!(came.iter().all(|g| (g.rate - g.packets as f64).abs() < 0.001));
                proptest::prop_assert!(came.is_sorted_by(|a, b| a.packets >= b.packets));
                grown += came.iter().map(|g| g.packets).sum::<u64>();
            }
            proptest::prop_assert_eq!(grown, now.packets());
            proptest::prop_assert_eq!(tally.last(), &now);
        }
    }
}
