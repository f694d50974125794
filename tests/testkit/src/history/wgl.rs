//! The checker: depth-first search for an order, as Wing and Gong have it, that never looks twice
//! at the same state after the same operations (Lowe, "Testing for linearizability", 2017).

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Call, Operation, Return, State};

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Illegal(Counterexample),
    /// The time was over.
    Undecided,
}

/// How far the best try came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The longest order that was possible, its end.
    pub order: Vec<Operation>,
    /// The state after it.
    pub state: State,
    /// The operations under way then, none of which fits next.
    pub stuck: Vec<Operation>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "no order explains what clients saw. The best one ends with"
        )?;
        for operation in &self.order {
            writeln!(f, "  {operation:?}")?;
        }
        writeln!(
            f,
            "which leaves {:?}. None of these can be next:",
            self.state
        )?;
        for operation in &self.stuck {
            writeln!(f, "  {operation:?}")?;
        }
        Ok(())
    }
}

/// How much of the best order is shown.
const SHOWN: usize = 12;
/// How many steps go by between two looks at the clock.
const STEPS: u64 = 4096;

/// Whether operations on one resource, which did not exist before, have a linear order.
pub fn check(operations: &[Operation], budget: Duration) -> Verdict {
    let deadline = Instant::now() + budget;
    // A read without an answer says nothing and changes nothing.
    let operations: Vec<Operation> = operations
        .iter()
        .filter(|op| op.returned.is_some() || op.call != Call::Read)
        .copied()
        .collect();
    let mut list = List::new(&operations);
    let mut open = operations.iter().filter(|op| op.returned.is_some()).count();
    let mut state: State = None;
    let mut done = Set::new(operations.len());
    let mut seen = HashSet::new();
    let mut order: Vec<(usize, State)> = Vec::new();
    let mut best = Counterexample {
        order: Vec::new(),
        state: None,
        stuck: Vec::new(),
    };
    let mut best_len = None;
    let mut at = list.first();
    let mut steps = 0u64;
    while open > 0 {
        steps += 1;
        if steps.is_multiple_of(STEPS) && Instant::now() > deadline {
            return Verdict::Undecided;
        }
        if let Some(Event::Call(op)) = list.event(at) {
            let operation = operations[op];
            let answer: Option<Return> = operation.returned.map(|(_, answer)| answer);
            let next = operation.call.apply(state, answer);
            // What nobody heard of and changes nothing may as well never happen.
            let matters = |next: &State| answer.is_some() || *next != state;
            if let Some(next) = next.filter(matters) {
                done.set(op, true);
                if seen.insert((done.clone(), next)) {
                    order.push((op, state));
                    state = next;
                    open -= usize::from(operation.returned.is_some());
                    list.lift(op);
                    at = list.first();
                    continue;
                }
                done.set(op, false);
            }
            at = list.after(at);
            continue;
        }
        // A return whose call found no place, or the end: take back the last step.
        if best_len.is_none_or(|len| order.len() > len) {
            best_len = Some(order.len());
            let shown = order.len().saturating_sub(SHOWN);
            best = Counterexample {
                order: order[shown..]
                    .iter()
                    .map(|(op, _)| operations[*op])
                    .collect(),
                state,
                stuck: list.called_before(at).map(|op| operations[op]).collect(),
            };
        }
        let Some((op, before)) = order.pop() else {
            return Verdict::Illegal(best);
        };
        state = before;
        done.set(op, false);
        open += usize::from(operations[op].returned.is_some());
        list.put_back(op);
        at = list.after(list.call_of(op));
    }
    Verdict::Linearizable
}

/// Which operations have their place already.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Set(Box<[u64]>);

impl Set {
    fn new(len: usize) -> Set {
        Set(vec![0; len.div_ceil(64)].into())
    }

    fn set(&mut self, index: usize, on: bool) {
        let bit = 1 << (index % 64);
        match on {
            true => self.0[index / 64] |= bit,
            false => self.0[index / 64] &= !bit,
        }
    }
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return,
}

/// Calls and returns in the order of time, as a doubly linked list, so that an operation can be
/// taken out and put back where it was.
struct List {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    calls: Vec<usize>,
    returns: Vec<Option<usize>>,
}

/// Stands before the first event and after the last.
const HEAD: usize = 0;

impl List {
    fn new(operations: &[Operation]) -> List {
        let mut timed: Vec<(u64, bool, usize)> = Vec::new();
        for (op, operation) in operations.iter().enumerate() {
            timed.push((operation.called, false, op));
            if let Some((time, _)) = operation.returned {
                timed.push((time, true, op));
            }
        }
        // At the same time calls come first: what may have overlapped counts as overlapping.
        timed.sort_unstable();
        let len = timed.len() + 1;
        let mut list = List {
            events: vec![Event::Return],
            next: (0..len).map(|i| (i + 1) % len).collect(),
            previous: (0..len).map(|i| (i + len - 1) % len).collect(),
            calls: vec![0; operations.len()],
            returns: vec![None; operations.len()],
        };
        for (i, (_, is_return, op)) in timed.into_iter().enumerate() {
            if is_return {
                list.returns[op] = Some(i + 1);
                list.events.push(Event::Return);
            } else {
                list.calls[op] = i + 1;
                list.events.push(Event::Call(op));
            }
        }
        list
    }

    fn first(&self) -> usize {
        self.next[HEAD]
    }

    fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    /// `None` at the end.
    fn event(&self, at: usize) -> Option<Event> {
        (at != HEAD).then(|| self.events[at])
    }

    fn call_of(&self, op: usize) -> usize {
        self.calls[op]
    }

    fn lift(&mut self, op: usize) {
        for at in [Some(self.calls[op]), self.returns[op]]
            .into_iter()
            .flatten()
        {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    fn put_back(&mut self, op: usize) {
        for at in [self.returns[op], Some(self.calls[op])]
            .into_iter()
            .flatten()
        {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = at;
            self.previous[next] = at;
        }
    }

    /// Operations in the list whose call comes before `end`.
    fn called_before(&self, end: usize) -> impl Iterator<Item = usize> {
        let mut at = HEAD;
        std::iter::from_fn(move || {
            at = self.next[at];
            (at != end && at != HEAD).then(|| self.events[at])
        })
        .filter_map(|event| match event {
            Event::Call(op) => Some(op),
            Event::Return => None,
        })
    }
}
