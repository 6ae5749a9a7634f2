//! Messages on their way from the receiver's thread to who takes them, many
//! at a time.
//!
//! A channel that wakes the taker at every message costs a core that does both
//! two switches of threads a datagram, more than everything else. Here the
//! messages of one batch are handed over by one lock and one call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A queue of at most `capacity` messages, but at least one.
pub fn queue<T>(capacity: usize) -> (Sender<T>, Taker<T>) {
    let shared = Arc::new(Shared {
        waiting: Mutex::default(),
        capacity: capacity.max(1),
        news: Notify::new(),
        is_sender_gone: AtomicBool::new(false),
        is_taker_gone: AtomicBool::new(false),
    });
    let sender = Sender {
        room: shared.capacity,
        shared: Arc::clone(&shared),
        batch: Vec::new(),
    };
    (sender, Taker(shared))
}

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<VecDeque<T>>,
    capacity: usize,
    news: Notify,
    is_sender_gone: AtomicBool,
    is_taker_gone: AtomicBool,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<T>> {
        // No holder leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where messages are put in.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    /// Put in since the last [`Self::flush`].
    batch: Vec<T>,
    /// Places that were free at the last look, less the batch.
    room: usize,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// There is no place.
    Full,
    /// Nobody takes messages any more.
    Closed,
}

impl<T> Sender<T> {
    /// Messages it holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Places that are free, as of the last [`Self::look`].
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Whether nobody takes messages any more.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.is_taker_gone.load(Ordering::Acquire)
    }

    /// Looks how many places have become free.
    pub(super) fn look(&mut self) {
        let waiting = self.shared.waiting().len() + self.batch.len();
        self.room = self.shared.capacity.saturating_sub(waiting);
    }

    /// Puts a message into the batch.
    pub(super) fn put(&mut self, message: T) -> Result<(), Refused> {
        if self.is_closed() {
            return Err(Refused::Closed);
        }
        if self.room == 0 {
            return Err(Refused::Full);
        }
        self.room -= 1;
        self.batch.push(message);
        Ok(())
    }

    /// Hands the batch over.
    pub(super) fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.shared.waiting().extend(self.batch.drain(..));
            self.shared.news.notify_one();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.flush();
        self.shared.is_sender_gone.store(true, Ordering::Release);
        self.shared.news.notify_one();
    }
}

/// Where messages come out, in the order in which they were put in.
#[derive(Debug)]
pub struct Taker<T>(Arc<Shared<T>>);

impl<T> Taker<T> {
    /// Waits for messages, and adds at most `most` of them to `into`; gives how
    /// many. None: there will be no more. Nothing is lost if the wait is given up.
    pub async fn take(&mut self, into: &mut Vec<T>, most: usize) -> usize {
        loop {
            // In this order: what was put in last is seen.
            let is_last = self.0.is_sender_gone.load(Ordering::Acquire);
            let count = self.take_now(into, most);
            if count > 0 || is_last {
                return count;
            }
            self.0.news.notified().await;
        }
    }

    /// The same of what is there already.
    pub fn take_now(&mut self, into: &mut Vec<T>, most: usize) -> usize {
        let mut waiting = self.0.waiting();
        let count = most.min(waiting.len());
        into.extend(waiting.drain(..count));
        count
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.0.is_taker_gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(taker: &mut Taker<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        while taker.take_now(&mut all, 3) > 0 {}
        all
    }

    #[test]
    fn it_takes_as_many_as_it_has_places_and_gives_them_in_order() {
        let (mut sender, mut taker) = queue(4);
        let put: Vec<_> = (0..6).map(|n| sender.put(n)).collect();
        assert_eq!(put[3..], [Ok(()), Err(Refused::Full), Err(Refused::Full)]);
        assert!(take_all(&mut taker).is_empty(), "not handed over yet");
        sender.flush();
        assert_eq!(take_all(&mut taker), [0, 1, 2, 3]);
        assert_eq!(sender.room(), 0);
        sender.look();
        assert_eq!(sender.room(), 4);
        drop(taker);
        assert_eq!(sender.put(9), Err(Refused::Closed));
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_learns_of_the_end() {
        let (mut sender, mut taker) = queue(1_000);
        let work = std::thread::spawn(move || {
            for n in 0..1_000 {
                sender.put(n).expect("there is room");
                if n % 7 == 0 {
                    sender.flush();
                }
            }
        });
        let mut all: Vec<u32> = Vec::new();
        while taker.take(&mut all, 5).await > 0 {}
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
        work.join().expect("no panic");
    }
}
