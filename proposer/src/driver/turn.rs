//! Whose turn it is to work on a role's state: its thread's, or that of a request which finds
//! nobody there. Such a request is served where it came in, without waking the thread and without
//! being woken by it, which on an idle machine takes longer than the work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A role's state.
pub(super) struct Turn<T> {
    /// Empty until the thread is ready for requests.
    state: OnceLock<Mutex<T>>,
    /// The thread waits: requests that come go to its queue.
    wanted: AtomicBool,
}

impl<T> Turn<T> {
    /// Nobody's turn yet.
    pub(super) fn new() -> Turn<T> {
        Turn {
            state: OnceLock::new(),
            wanted: AtomicBool::new(false),
        }
    }

    /// Begins with that state. Once; a later one changes nothing.
    pub(super) fn begin(&self, state: T) -> &Mutex<T> {
        self.state.get_or_init(|| Mutex::new(state))
    }

    /// A request's turn, if nobody else's.
    pub(super) fn try_take(&self) -> Option<MutexGuard<'_, T>> {
        if self.wanted.load(Ordering::Relaxed) {
            return None;
        }
        self.state.get()?.try_lock().ok()
    }

    /// The thread's turn, which it waits for. `state` is what [`begin`](Self::begin) returned.
    pub(super) fn take<'a>(&self, state: &'a Mutex<T>) -> MutexGuard<'a, T> {
        self.wanted.store(true, Ordering::Relaxed);
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(false, Ordering::Relaxed);
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gives_way_to_the_thread() {
        let turn = Turn::new();
        assert!(turn.try_take().is_none());
        let state = turn.begin(1);
        let mine = turn.try_take().unwrap();
        assert!(turn.try_take().is_none());
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| *turn.take(state) += 1);
            while !turn.wanted.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            drop(mine);
            thread.join().unwrap();
        });
        assert_eq!(*turn.try_take().unwrap(), 2);
    }
}
