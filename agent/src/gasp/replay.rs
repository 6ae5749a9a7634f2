//! Which frames were seen before.

use agent_core::model::{BootId, Timestamp};

use super::bounded::Bounded;

/// How far behind the newest a sequence number may be.
const REACH: u64 = 1024;
/// One bit for each number within reach, and the newest itself.
const WORDS: usize = 17;
const BITS: u64 = WORDS as u64 * 64;
/// A second copy within one to two of these is a duplicate, later a replay.
/// In milliseconds.
const COPY_MS: u64 = 5_000;

/// Whether a frame was seen before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// Never.
    New,
    /// A moment ago: it came by another way too.
    Copy,
    /// Long ago, or so long that nobody remembers.
    Replay,
}

/// The sequence numbers of the sessions that are remembered.
#[derive(Debug)]
pub(super) struct Sessions(Bounded<(BootId, u64), Window>);

impl Sessions {
    /// Remembers at most `max` sessions.
    pub(super) fn new(max: usize) -> Self {
        Self(Bounded::new(max))
    }

    /// Whether this frame was seen before, and where its session is, if it is
    /// known: for [`Self::mark`], if that comes next.
    pub(super) fn look(
        &mut self,
        boot: BootId,
        session: u64,
        seq: u64,
        now: Timestamp,
    ) -> (Option<usize>, Seen) {
        let place = self.0.find(&(boot, session));
        let seen = place.map_or(Seen::New, |at| self.0.at_mut(at).look(seq, now));
        (place, seen)
    }

    /// Remembers this frame, whose session was looked for right before. True if
    /// another session had to be forgotten.
    pub(super) fn mark(
        &mut self,
        place: Option<usize>,
        boot: BootId,
        session: u64,
        seq: u64,
        now: Timestamp,
    ) -> bool {
        if let Some(at) = place {
            self.0.at_mut(at).mark(seq, now);
            return false;
        }
        let (window, evicted) = self
            .0
            .get_or_insert(&(boot, session), || Window::new(seq, now));
        window.mark(seq, now);
        evicted.is_some()
    }
}

/// The numbers of one session: rings of bits, a number's place is its
/// remainder.
///
/// Ten thousand nodes that only say that they live need one word of a window
/// each: a word of which every number was seen long ago is one bit.
#[derive(Debug)]
struct Window {
    newest: u64,
    turned: Timestamp,
    /// Words of which all numbers were seen, and none of them lately.
    solid: u32,
    /// The other words that are not empty, in no order.
    words: Vec<Word>,
}

/// Sixty-four numbers, side by side in memory: one frame touches one.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// Which of the [`WORDS`] it is.
    at: usize,
    seen: u64,
    /// Marked since `turned`.
    young: u64,
    /// Marked in the turn before.
    old: u64,
}

impl Window {
    fn new(newest: u64, now: Timestamp) -> Self {
        Self {
            newest,
            turned: now,
            solid: 0,
            words: Vec::new(),
        }
    }

    fn look(&mut self, seq: u64, now: Timestamp) -> Seen {
        self.turn(now);
        let (at, bit) = place(seq);
        let word = self.word(at);
        if seq > self.newest {
            Seen::New
        } else if self.newest - seq > REACH {
            Seen::Replay
        } else if word.seen & bit == 0 {
            Seen::New
        } else if (word.young | word.old) & bit != 0 {
            Seen::Copy
        } else {
            Seen::Replay
        }
    }

    fn mark(&mut self, seq: u64, now: Timestamp) {
        self.turn(now);
        if seq > self.newest {
            let steps = (seq - self.newest).min(BITS);
            for passed in 0..steps {
                let (at, bit) = place(seq - passed);
                if self.word(at).seen & bit == 0 {
                    continue;
                }
                let word = self.word_mut(at);
                word.seen &= !bit;
                word.young &= !bit;
                word.old &= !bit;
            }
            self.newest = seq;
        }
        if self.newest - seq <= REACH {
            let (at, bit) = place(seq);
            let word = self.word_mut(at);
            word.seen |= bit;
            word.young |= bit;
        }
    }

    fn turn(&mut self, now: Timestamp) {
        let turns = now.since(self.turned) / COPY_MS;
        if turns == 0 {
            return;
        }
        self.turned = now;
        for word in &mut self.words {
            word.old = if turns == 1 { word.young } else { 0 };
            word.young = 0;
            if word.seen == u64::MAX && word.old == 0 {
                self.solid |= 1 << word.at;
            }
        }
        let solid = self.solid;
        self.words
            .retain(|word| word.seen != 0 && solid & (1 << word.at) == 0);
    }

    fn word(&self, at: usize) -> Word {
        let kept = self.words.iter().find(|word| word.at == at);
        kept.copied().unwrap_or(self.unkept(at))
    }

    fn word_mut(&mut self, at: usize) -> &mut Word {
        let kept = self.words.iter().position(|word| word.at == at);
        let index = kept.unwrap_or_else(|| {
            // Twice as many as needed would be most of what a node takes.
            self.words.reserve_exact(1);
            self.words.push(self.unkept(at));
            self.solid &= !(1 << at);
            self.words.len() - 1
        });
        &mut self.words[index]
    }

    /// A word that is not among the others.
    fn unkept(&self, at: usize) -> Word {
        let is_solid = self.solid & (1 << at) != 0;
        Word {
            at,
            seen: if is_solid { u64::MAX } else { 0 },
            ..Word::default()
        }
    }
}

fn place(seq: u64) -> (usize, u64) {
    let at = seq % BITS;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    fn step(sessions: &mut Sessions, seq: u64, at: u64) -> Seen {
        let (place, seen) = sessions.look(BOOT, 1, seq, Timestamp(at));
        if seen == Seen::New {
            sessions.mark(place, BOOT, 1, seq, Timestamp(at));
        }
        seen
    }

    #[test]
    fn a_copy_is_told_from_a_replay_by_its_age() {
        let mut sessions = Sessions::new(4);
        assert_eq!(step(&mut sessions, 5, 0), Seen::New);
        assert_eq!(step(&mut sessions, 5, 10), Seen::Copy);
        assert_eq!(step(&mut sessions, 5, 5_010), Seen::Copy);
        assert_eq!(step(&mut sessions, 5, 20_000), Seen::Replay);
        assert_eq!(step(&mut sessions, 6, 20_001), Seen::New);
        assert_eq!(step(&mut sessions, 6, 20_002), Seen::Copy);
    }

    #[test]
    fn the_reach_is_1024_exactly() {
        let mut sessions = Sessions::new(4);
        assert_eq!(step(&mut sessions, 5000, 0), Seen::New);
        assert_eq!(step(&mut sessions, 5000 - 1025, 0), Seen::Replay);
        assert_eq!(step(&mut sessions, 5000 - 1024, 0), Seen::New);
        assert_eq!(step(&mut sessions, 5000 - 1024, 0), Seen::Copy);
        assert_eq!(step(&mut sessions, u64::MAX, 0), Seen::New);
        assert_eq!(step(&mut sessions, 5001, 0), Seen::Replay);
    }

    #[test]
    fn forgotten_sessions_are_said() {
        let mut sessions = Sessions::new(2);
        let forgot: Vec<bool> = (0..4)
            .map(|session| sessions.mark(None, BOOT, session, 1, Timestamp(0)))
            .collect();
        assert_eq!(forgot, [false, false, true, true]);
    }

    #[test]
    fn who_only_says_that_it_lives_takes_one_word() {
        let mut window = Window::new(1, Timestamp(0));
        for seq in 1..5_000 {
            let now = Timestamp(seq * 1_000);
            assert_eq!(window.look(seq, now), Seen::New);
            window.mark(seq, now);
            assert!(window.words.len() <= 3, "{window:?}");
            let [copy, replay] = [seq, seq.saturating_sub(20)].map(|seq| window.look(seq, now));
            assert_eq!(copy, Seen::Copy);
            assert!(seq <= 20 || replay == Seen::Replay);
        }
        assert!(window.words.capacity() <= 3);
    }

    /// Every number and how many turns ago it was marked, kept for ever.
    #[derive(Default)]
    struct Model {
        newest: u64,
        turned: u64,
        ages: HashMap<u64, u64>,
    }

    impl Model {
        fn step(&mut self, seq: u64, now: u64) -> Seen {
            let turns = (now - self.turned) / COPY_MS;
            if turns > 0 {
                self.turned = now;
                self.ages.values_mut().for_each(|age| *age += turns);
            }
            if self.newest.saturating_sub(seq) > REACH {
                return Seen::Replay;
            }
            match self.ages.get(&seq) {
                Some(0 | 1) => Seen::Copy,
                Some(_) => Seen::Replay,
                None => {
                    self.ages.insert(seq, 0);
                    self.newest = self.newest.max(seq);
                    Seen::New
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_takes_little_room_forgets_nothing(
            steps in prop::collection::vec(
                prop_oneof![20 => Just(1i64), 2 => -80i64..80, 1 => -1_200i64..1_200],
                0..3_000,
            ),
            gap in 0u64..400,
        ) {
            let mut sessions = Sessions::new(1);
            let mut model = Model::default();
            let mut seq = 1i64;
            for (n, by) in steps.into_iter().enumerate() {
                seq = (seq + by).max(1);
                let now = n as u64 * gap;
                let (found, expected) = (step(&mut sessions, seq as u64, now), model.step(seq as u64, now));
                prop_assert_eq!(found, expected, "{} at {}", seq, now);
            }
        }

        #[test]
        fn no_number_is_new_twice(
            seqs in prop::collection::vec(
                prop_oneof![1u64..3000, 1u64..100_000, Just(u64::MAX), Just(u64::MAX - 1024)],
                0..600,
            ),
            gap in 0u64..4000,
        ) {
            let mut sessions = Sessions::new(1);
            let mut taken = HashSet::new();
            let mut newest = 0;
            for (n, seq) in seqs.into_iter().enumerate() {
                let seen = step(&mut sessions, seq, n as u64 * gap);
                if seen == Seen::New {
                    prop_assert!(taken.insert(seq), "{seq} twice");
                } else {
                    prop_assert!(taken.contains(&seq) || newest - seq > REACH, "{seq} refused");
                }
                newest = newest.max(seq);
            }
        }
    }
}
