//! Requests that no leader has yet. Those that were sent together take turns with the others: a client
//! that sends a thousand at once waits for them, and nobody else does. Each keeps its order.

use std::collections::{BTreeMap, VecDeque};

use super::requests::Item;

/// This many of one job come before it is the next job's turn.
const TURN: usize = 16;

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    /// At most one turn of each job, but for what came back.
    items: VecDeque<Item>,
    /// What of a job is not in there yet.
    rest: BTreeMap<u64, VecDeque<Item>>,
}

impl Queue {
    /// A new job's items, in order.
    pub(super) fn push_job(&mut self, job: u64, mut items: impl Iterator<Item = Item>) {
        self.items.extend(items.by_ref().take(TURN));
        let rest: VecDeque<Item> = items.collect();
        if !rest.is_empty() {
            self.rest.insert(job, rest);
        }
    }

    /// Something that was taken comes back, to be the next.
    pub(super) fn push_front(&mut self, item: Item) {
        self.items.push_front(item);
    }

    /// The next.
    pub(super) fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    /// Takes the next. With the last one of its turn, its job gets in line again.
    pub(super) fn pop_front(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if item.index % TURN == TURN - 1
            && let Some(rest) = self.rest.get_mut(&item.job)
        {
            let turn = rest.len().min(TURN);
            self.items.extend(rest.drain(..turn));
            if rest.is_empty() {
                self.rest.remove(&item.job);
            }
        }
        Some(item)
    }

    /// Whether there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Keeps the items of those jobs alone.
    pub(super) fn retain_jobs(&mut self, keep: impl Fn(u64) -> bool) {
        self.items.retain(|item| keep(item.job));
        self.rest.retain(|job, _| keep(*job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos::message::Value;

    fn items(job: u64, count: usize) -> impl Iterator<Item = Item> {
        (0..count).map(move |index| Item {
            job,
            index,
            value: Value::NOOP,
            stamped: None,
            wait: true,
            tried: 0,
        })
    }

    fn all(queue: &mut Queue) -> Vec<(u64, usize)> {
        let taken = std::iter::from_fn(|| queue.pop_front());
        taken.map(|item| (item.job, item.index)).collect()
    }

    #[test]
    fn whoever_sends_little_does_not_wait_for_who_sends_much() {
        let mut queue = Queue::default();
        for job in 0..4 {
            queue.push_job(job, items(job, 1000));
        }
        queue.push_job(9, items(9, 1));
        let taken = all(&mut queue);
        assert_eq!(taken.len(), 4001);
        let single = taken.iter().position(|(job, _)| *job == 9).unwrap();
        assert_eq!(single, 4 * TURN);
        for job in 0..4 {
            let own = taken.iter().filter(|(j, _)| *j == job).map(|(_, i)| *i);
            assert!(own.eq(0..1000), "a batch keeps its order");
        }
        // And all get on alike.
        for job in 0..4 {
            let early = taken[..500].iter().filter(|(j, _)| *j == job).count();
            assert!((109..=141).contains(&early), "{early}");
        }
    }

    #[test]
    fn what_comes_back_is_next_and_still_in_order() {
        let mut queue = Queue::default();
        queue.push_job(1, items(1, 40));
        queue.push_job(2, items(2, 2));
        let taken: Vec<Item> = (0..20).filter_map(|_| queue.pop_front()).collect();
        for item in taken.into_iter().rev() {
            queue.push_front(item);
        }
        let taken = all(&mut queue);
        let of = |job| {
            let own = taken.iter().filter(move |(j, _)| *j == job);
            own.map(|(_, index)| *index).collect::<Vec<_>>()
        };
        assert_eq!(of(1), (0..40).collect::<Vec<_>>());
        assert_eq!(of(2), [0, 1]);
    }

    #[test]
    fn of_a_job_that_is_over_nothing_stays() {
        let mut queue = Queue::default();
        queue.push_job(1, items(1, 100));
        queue.push_job(2, items(2, 17));
        queue.retain_jobs(|job| job == 2);
        assert_eq!(all(&mut queue).len(), 17);
        assert!(queue.is_empty() && queue.rest.is_empty() && queue.front().is_none());
    }
}
