//! A table that cannot outgrow its bound, whoever fills it.

use std::collections::HashMap;
use std::hash::Hash;

/// A map with at most `max` entries.
///
/// When full it gives up an entry that was not touched for long (second
/// chance: a hand goes round and spares once who was touched since its last
/// visit), so that keeping it bounded costs constant time, also under attack.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    index: HashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    max: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    touched: bool,
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    /// An empty table of at most `max` entries, but at least one.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            hand: 0,
            max: max.max(1),
        }
    }

    /// The value of `key`, which counts as touched.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        Some(self.at_mut(at))
    }

    /// Where `key` is, until something is put in or taken out.
    pub(crate) fn find(&self, key: &K) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// The value at a place that was found, which counts as touched.
    pub(crate) fn at_mut(&mut self, at: usize) -> &mut V {
        let slot = &mut self.slots[at];
        slot.touched = true;
        &mut slot.value
    }

    /// The value of `key`, made if it is not there; and the entry that had to
    /// go for it.
    pub(crate) fn get_or_insert(
        &mut self,
        key: &K,
        make: impl FnOnce() -> V,
    ) -> (&mut V, Option<(K, V)>) {
        let mut evicted = None;
        let at = if let Some(at) = self.index.get(key) {
            self.slots[*at].touched = true;
            *at
        } else {
            let slot = Slot {
                key: key.clone(),
                value: make(),
                touched: false,
            };
            let at = if self.slots.len() < self.max {
                self.slots.push(slot);
                self.slots.len() - 1
            } else {
                let at = self.victim();
                let old = std::mem::replace(&mut self.slots[at], slot);
                self.index.remove(&old.key);
                evicted = Some((old.key, old.value));
                at
            };
            self.index.insert(key.clone(), at);
            at
        };
        (&mut self.slots[at].value, evicted)
    }

    /// Gives up an entry that was not touched for long.
    pub(crate) fn evict(&mut self) -> Option<(K, V)> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.victim();
        let key = self.slots[at].key.clone();
        self.remove(&key).map(|value| (key, value))
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.index.remove(key)?;
        let slot = self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key.clone(), at);
        }
        Some(slot.value)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|slot| (&slot.key, &slot.value))
    }

    /// Moves the hand to the entry that must go; the table is full.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand % self.slots.len();
            self.hand = at + 1;
            if !std::mem::take(&mut self.slots[at].touched) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_touched_stays_and_who_is_not_goes() {
        let mut table = Bounded::new(3);
        for key in 0..3 {
            assert!(table.get_or_insert(&key, || key * 10).1.is_none());
        }
        table.get_mut(&0);
        assert_eq!(table.get_or_insert(&3, || 30).1, Some((1, 10)));
        assert_eq!(table.get_or_insert(&4, || 40).1, Some((2, 20)));
        assert_eq!(table.get_mut(&0), Some(&mut 0));
        let mut gone: Vec<_> = std::iter::from_fn(|| table.evict()).collect();
        gone.sort_unstable();
        assert_eq!(gone, [(0, 0), (3, 30), (4, 40)]);
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_last_and_never_more_than_its_bound(
            max in 1usize..9,
            steps in prop::collection::vec((any::<bool>(), 0u8..24), 0..400),
        ) {
            let mut table = Bounded::new(max);
            let mut model = std::collections::HashMap::new();
            for (insert, key) in steps {
                if insert {
                    let (value, evicted) = table.get_or_insert(&key, || key);
                    prop_assert_eq!(*value, key);
                    model.insert(key, key);
                    if let Some((old, _)) = evicted {
                        prop_assert_ne!(old, key);
                        prop_assert!(model.remove(&old).is_some());
                    }
                } else {
                    prop_assert_eq!(table.remove(&key), model.remove(&key));
                }
                prop_assert!(model.len() <= max);
                let all: std::collections::HashMap<_, _> =
                    table.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
