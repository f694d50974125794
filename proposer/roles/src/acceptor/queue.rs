//! What waits for its turn, within bounds.

use std::collections::VecDeque;

use paxos::ids::NodeId;
use paxos::message::{Reply, Request};

/// How much may wait, and how much shares a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that may wait; further ones are refused, and their senders send them again.
    pub queue: usize,
    /// Bytes of their values.
    pub queue_bytes: usize,
    /// Requests that share one write at most.
    pub group: usize,
    /// Bytes of their values, one request more or less.
    pub group_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            queue: 4096,
            queue_bytes: 48 << 20,
            group: 1024,
            group_bytes: 8 << 20,
        }
    }
}

/// Too much waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for the disk")]
pub struct Busy;

/// What reaches an acceptor and cannot be answered at once.
#[derive(Debug)]
pub(super) enum Waiting<A> {
    /// A request, and the bytes of its values.
    Request {
        asker: A,
        request: Request,
        bytes: usize,
    },
    /// Another acceptor's answer.
    Heard { from: NodeId, reply: Reply },
}

/// In the order in which it came.
#[derive(Debug)]
pub(super) struct Queue<A> {
    waiting: VecDeque<Waiting<A>>,
    bytes: usize,
}

impl<A> Queue<A> {
    pub(super) fn new() -> Queue<A> {
        Queue {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn push_request(
        &mut self,
        request: Request,
        asker: A,
        bounds: Bounds,
    ) -> Result<(), Busy> {
        let bytes = size_of(&request);
        // One that is larger than all that may wait still has its turn.
        let fits = self.bytes == 0 || self.bytes + bytes <= bounds.queue_bytes;
        if !fits || self.waiting.len() >= bounds.queue {
            return Err(Busy);
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting::Request {
            asker,
            request,
            bytes,
        });
        Ok(())
    }

    pub(super) fn push_heard(
        &mut self,
        from: NodeId,
        reply: Reply,
        bounds: Bounds,
    ) -> Result<(), Busy> {
        if self.waiting.len() >= bounds.queue {
            return Err(Busy);
        }
        self.waiting.push_back(Waiting::Heard { from, reply });
        Ok(())
    }

    /// The first, if it is one of these.
    pub(super) fn pop_if(
        &mut self,
        is_one: impl FnOnce(&Waiting<A>) -> bool,
    ) -> Option<Waiting<A>> {
        let next = self.waiting.pop_front_if(|next| is_one(next))?;
        if let Waiting::Request { bytes, .. } = &next {
            self.bytes -= bytes;
        }
        Some(next)
    }
}

/// Bytes of the values in a request.
fn size_of(request: &Request) -> usize {
    match request {
        Request::Accept { values, .. } => values.iter().map(|value| 64 + value.len()).sum(),
        _ => 0,
    }
}
