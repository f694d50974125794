//! Answers with votes, some of which have to be read from the log first.

use std::ops::Range;

use super::{AnswerLimits, Ballot, Place, Record, Slot, Value, Values, votes_of};
use crate::message::{Reply, Vote};

/// The records that an acceptor has made durable, for those who read them.
pub trait Log {
    /// Why they are not available.
    type Error;

    /// Shows the record at `place` and those written after it to the same file, in order, until `take`
    /// says `false` or there are no more.
    fn read(&self, place: Place, take: &mut dyn FnMut(&Record) -> bool) -> Result<(), Self::Error>;
}

/// A log of no records, for an acceptor that keeps all values in memory.
impl Log for () {
    type Error = std::convert::Infallible;

    fn read(
        &self,
        _: Place,
        _: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<(), std::convert::Infallible> {
        Ok(())
    }
}

/// Why votes were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread<E> {
    /// The log is not available.
    Log(E),
    /// The log does not hold the vote in this slot where it should: it is not what was written.
    Missing(Slot),
}

/// What an acceptor answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Reply(Reply),
    /// Votes.
    Votes(Reading),
}

/// An answer with votes, of which the log may hold some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    about: About,
    pieces: Vec<Piece>,
    limits: AnswerLimits,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Promise {
        ballot: Ballot,
        from: Slot,
        committed: Slot,
    },
    Fetched {
        from: Slot,
        to: Slot,
    },
}

/// Votes in consecutive slots at one ballot, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// In memory.
    Held {
        first: Slot,
        ballot: Ballot,
        values: Values,
        range: Range<usize>,
    },
    /// In the log, in records from that place on.
    Logged {
        place: Place,
        first: Slot,
        last: Slot,
        ballot: Ballot,
    },
    /// From here on there are votes that this answer does not tell.
    Later(Slot),
}

impl Answer {
    /// The reply. What the log holds is read from it.
    pub fn into_reply<L: Log>(self, log: &L) -> Result<Reply, Unread<L::Error>> {
        match self {
            Answer::Reply(reply) => Ok(reply),
            Answer::Votes(reading) => reading.into_reply(log),
        }
    }

    /// About how many bytes of values it tells; as many as may be where the log has to say.
    pub(crate) fn size_hint(&self) -> usize {
        let Answer::Votes(reading) = self else {
            return 0;
        };
        let most = reading.limits.bytes;
        let sizes = reading.pieces.iter().map(|piece| match piece {
            Piece::Held { values, range, .. } => values[range.clone()].iter().map(Value::len).sum(),
            Piece::Logged { .. } => most,
            Piece::Later(_) => 0,
        });
        sizes
            .fold(0, |all: usize, size: usize| all.saturating_add(size))
            .min(most)
    }

    /// Whether the log need not be read for it.
    pub fn is_in_memory(&self) -> bool {
        let is_logged = |piece: &Piece| matches!(piece, Piece::Logged { .. });
        match self {
            Answer::Reply(_) => true,
            Answer::Votes(reading) => !reading.pieces.iter().any(is_logged),
        }
    }
}

impl Reading {
    pub(crate) fn new(about: About, pieces: Vec<Piece>, limits: AnswerLimits) -> Reading {
        Reading {
            about,
            pieces,
            limits,
        }
    }

    pub(crate) fn about(&self) -> About {
        self.about
    }

    fn into_reply<L: Log>(self, log: &L) -> Result<Reply, Unread<L::Error>> {
        let mut page = Page {
            votes: Vec::new(),
            bytes: 0,
            rest: None,
            limits: self.limits,
        };
        for piece in self.pieces {
            page.take(piece, log)?;
            if page.rest.is_some() {
                break;
            }
        }
        let Page { votes, rest, .. } = page;
        Ok(match self.about {
            About::Promise {
                ballot,
                from,
                committed,
            } => Reply::Promise {
                ballot,
                from,
                votes,
                rest,
                committed,
            },
            About::Fetched { from, to } => Reply::Fetched {
                from,
                to: rest.map_or(to, Slot::previous),
                votes,
            },
        })
    }
}

/// An answer that fills.
struct Page {
    votes: Vec<Vote>,
    bytes: usize,
    /// The first slot left out.
    rest: Option<Slot>,
    limits: AnswerLimits,
}

impl Page {
    /// `false` when there is no room.
    fn push(&mut self, slot: Slot, ballot: Ballot, value: &Value) -> bool {
        let full =
            self.votes.len() >= self.limits.votes || self.bytes + value.len() > self.limits.bytes;
        if full && !self.votes.is_empty() {
            self.rest = Some(slot);
            return false;
        }
        self.bytes += value.len();
        self.votes.push(Vote {
            slot,
            ballot,
            value: value.clone(),
        });
        true
    }

    fn take<L: Log>(&mut self, piece: Piece, log: &L) -> Result<(), Unread<L::Error>> {
        match piece {
            Piece::Later(slot) => self.rest = Some(slot),
            Piece::Held {
                first,
                ballot,
                values,
                range,
            } => {
                for (i, value) in values[range].iter().enumerate() {
                    if !self.push(first.plus(i as u64), ballot, value) {
                        break;
                    }
                }
            }
            Piece::Logged {
                place,
                first,
                last,
                ballot,
            } => {
                let votes = Wanted {
                    place,
                    first,
                    last,
                    ballot,
                };
                votes.read(log, |slot, value| self.push(slot, ballot, value))?;
            }
        }
        Ok(())
    }
}

/// Votes in the log.
struct Wanted {
    place: Place,
    first: Slot,
    last: Slot,
    ballot: Ballot,
}

impl Wanted {
    /// Shows each value, in order, until `take` says `false`.
    fn read<L: Log>(
        &self,
        log: &L,
        mut take: impl FnMut(Slot, &Value) -> bool,
    ) -> Result<(), Unread<L::Error>> {
        let (mut next, mut enough) = (self.first, false);
        let read = log.read(self.place, &mut |record| {
            let Some((_, first, values)) =
                votes_of(record).filter(|(ballot, ..)| *ballot == self.ballot)
            else {
                return true;
            };
            while next <= self.last
                && let Some(at) = next.0.checked_sub(first.0)
                && let Some(value) = usize::try_from(at).ok().and_then(|at| values.get(at))
            {
                enough = !take(next, value);
                if enough {
                    return false;
                }
                next = next.next();
            }
            next <= self.last
        });
        read.map_err(Unread::Log)?;
        match enough || next > self.last {
            true => Ok(()),
            false => Err(Unread::Missing(next)),
        }
    }
}

/// Whether values are those that were voted for is for the log to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    pub(crate) first: Slot,
    pub(crate) values: Values,
    pub(crate) pieces: Vec<Piece>,
}

impl Doubt {
    /// Whether they are. Nothing is kept in memory of what is read.
    pub fn settle<L: Log>(self, log: &L) -> Result<bool, Unread<L::Error>> {
        let mut same = true;
        for piece in self.pieces {
            let Piece::Logged {
                place,
                first,
                last,
                ballot,
            } = piece
            else {
                continue;
            };
            let votes = Wanted {
                place,
                first,
                last,
                ballot,
            };
            votes.read(log, |slot, value| {
                same &= self.values[(slot.0 - self.first.0) as usize] == *value;
                same
            })?;
        }
        Ok(same)
    }
}
