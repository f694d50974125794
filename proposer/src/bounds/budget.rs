//! A number of bytes that many share. Who finds too little left waits; the smallest wish is served
//! first, so that a few who want much do not hold up those who want little.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::sync::oneshot;

/// Cloning it is cheap, and the clones are one budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: usize,
    /// What is taken, for metrics.
    shown: IntGauge,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// By what they want, and then by their order.
    waiting: BTreeMap<(usize, u64), oneshot::Sender<Share>>,
    next: u64,
}

/// Some bytes of a budget. They are free again when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// One of `capacity` bytes.
    pub fn new(capacity: usize, shown: IntGauge) -> Budget {
        Budget(Arc::new(Inner {
            capacity,
            shown,
            state: Mutex::default(),
        }))
    }

    /// All of its bytes.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// A share, if there is one now and nobody waits for less. One that wants more than there can be gets
    /// all there is.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let bytes = bytes.min(self.0.capacity);
        let mut state = self.lock();
        let first = state.waiting.first_key_value();
        let is_next = first.is_none_or(|((wanted, _), _)| bytes < *wanted);
        let fits = state.taken + bytes <= self.0.capacity;
        (is_next && fits).then(|| self.share(&mut state, bytes))
    }

    /// A share as soon as there is one. Dropped before, it takes nothing.
    pub async fn take(&self, bytes: usize) -> Share {
        let bytes = bytes.min(self.0.capacity);
        let (place, given) = {
            let mut state = self.lock();
            if state.taken + bytes <= self.0.capacity {
                return self.share(&mut state, bytes);
            }
            let (give, given) = oneshot::channel();
            let key = (bytes, state.next);
            state.next += 1;
            state.waiting.insert(key, give);
            (Place { budget: self, key }, given)
        };
        let given = given.await;
        drop(place);
        // The other end lives as long as the place does, which was there until now.
        given.unwrap_or_else(|_| self.force(bytes))
    }

    /// A share, whether or not there is one: of what is in memory already.
    pub fn force(&self, bytes: usize) -> Share {
        let mut state = self.lock();
        self.share(&mut state, bytes)
    }

    fn share(&self, state: &mut State, bytes: usize) -> Share {
        state.taken += bytes;
        self.0.shown.add(bytes as i64);
        Share {
            budget: self.clone(),
            bytes,
        }
    }

    fn give_back(&self, bytes: usize) {
        let mut served = Vec::new();
        {
            let mut state = self.lock();
            state.taken -= bytes;
            self.0.shown.sub(bytes as i64);
            while let Some(((wanted, _), _)) = state.waiting.first_key_value()
                && state.taken + wanted <= self.0.capacity
                && let Some(((wanted, _), give)) = state.waiting.pop_first()
            {
                served.push((self.share(&mut state, wanted), give));
            }
        }
        for (share, give) in served {
            // Who has gone gives it back at once.
            drop(give.send(share));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait.
struct Place<'a> {
    budget: &'a Budget,
    key: (usize, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.budget.lock().waiting.remove(&self.key);
        drop(left);
    }
}

impl Share {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes how much it is, to what there is in memory now.
    pub fn resize(&mut self, bytes: usize) {
        if bytes < self.bytes {
            let freed = std::mem::replace(&mut self.bytes, bytes) - bytes;
            self.budget.give_back(freed);
        } else {
            let mut more = self.budget.force(bytes - self.bytes);
            self.bytes += std::mem::take(&mut more.bytes);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn budget(capacity: usize) -> (Budget, IntGauge) {
        let gauge = IntGauge::new("bytes", "Bytes.").unwrap();
        (Budget::new(capacity, gauge.clone()), gauge)
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_smallest_wish_comes_first_and_the_sum_is_kept() {
        let (budget, gauge) = budget(100);
        let most = budget.try_take(90).unwrap();
        let (mut large, mut small, mut later) = (
            pin!(budget.take(50)),
            pin!(budget.take(20)),
            pin!(budget.take(20)),
        );
        assert!(poll(large.as_mut()).is_none());
        assert!(poll(small.as_mut()).is_none());
        assert!(poll(later.as_mut()).is_none());
        assert!(budget.try_take(20).is_none(), "others wait for as much");
        let tiny = budget.try_take(10).unwrap();
        drop(most);
        let (small, later) = (poll(small.as_mut()).unwrap(), poll(later.as_mut()).unwrap());
        assert_eq!((small.bytes(), later.bytes()), (20, 20));
        let large = poll(large.as_mut()).unwrap();
        assert_eq!((large.bytes(), gauge.get()), (50, 100));
        drop((small, later, large, tiny));
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn who_stops_waiting_takes_nothing() {
        let (budget, gauge) = budget(10);
        let all = budget.try_take(1000).unwrap();
        assert_eq!(all.bytes(), 10);
        {
            let mut gone = Box::pin(budget.take(5));
            assert!(poll(gone.as_mut()).is_none());
        }
        let mut served = Box::pin(budget.take(6));
        assert!(poll(served.as_mut()).is_none());
        drop(all);
        assert_eq!(gauge.get(), 6, "given, and not looked at yet");
        drop(served);
        assert_eq!(gauge.get(), 0);
        assert!(budget.try_take(10).is_some());
    }

    #[test]
    fn a_share_becomes_what_is_in_memory() {
        let (budget, gauge) = budget(10);
        let mut share = budget.force(25);
        assert!(budget.try_take(1).is_none());
        share.resize(4);
        assert_eq!(gauge.get(), 4);
        share.resize(9);
        assert_eq!((gauge.get(), share.bytes()), (9, 9));
        let mut waits = Box::pin(budget.take(3));
        assert!(poll(waits.as_mut()).is_none());
        share.resize(7);
        assert!(poll(waits.as_mut()).is_some());
    }
}
