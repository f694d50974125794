//! The acceptor's loop: what is answered at once and what waits, which requests share one write to the log,
//! and what follows a write. Those who ask come from any thread ([`AcceptorRole::answer`],
//! [`AcceptorRole::enqueue`], [`AcceptorRole::heard`]); one loop calls [`AcceptorRole::on`], does what that
//! returns, and calls it again with what came of it.
//!
//! No call waits for anything. The owner of a lock around it holds the lock for a call at a time and never
//! while it does what a call asks for, so what needs no write is answered however long a write takes.
//!
//! One thing is done at a time, and at most one write is under way. Its answers are sealed in a [`Write`],
//! then in a [`Persisted`], and come out when [`AcceptorRole::on`] has been told that the write is durable.

use std::mem;
use std::time::Duration;

use paxos::acceptor::{Record, Room, Volume};
use paxos::ids::NodeId;
use paxos::message::{Reply, Request};
use paxos::output::Output;
use paxos::standing::Member;
use paxos::votes::{Answer, Doubt};

pub use queue::{Bounds, Busy};
use queue::{Queue, Waiting};
pub use view::{Standing, View};
pub use write::{Finished, Persisted, Trim, Write};

mod queue;
mod view;
mod write;

/// How often the other acceptors are asked to witness this start, until it votes and after that.
const ENLIST_INTERVAL: Duration = Duration::from_millis(100);
const LATE_ENLIST_INTERVAL: Duration = Duration::from_secs(2);

/// What the loop has to tell.
#[derive(Debug)]
pub enum Event<A> {
    /// It runs: what it was asked to do is done, it has rested long enough, or it was woken.
    Woken,
    /// The answer to [`Action::Look`].
    Looked {
        /// Whether the log may grow.
        room: Room,
        /// What there is of the volume, for those who are refused.
        volume: Volume,
    },
    /// The answer to [`Action::Settle`]: whether the values are those in the log.
    Settled(bool),
    /// [`Action::Write`] is done.
    Written(Persisted<A>),
}

/// What the loop does next.
#[derive(Debug)]
pub enum Action<A> {
    /// See whether so many more bytes may be written. [`Event::Looked`].
    Look {
        /// Bytes of values.
        more: u64,
    },
    /// Read the log. [`Event::Settled`].
    Settle(Doubt),
    /// Make it durable. [`Event::Written`]; when it fails, the process must end.
    Write(Write<A>),
    /// A write is durable: do what follows from it, in the order of the fields. [`Event::Woken`].
    Finish(Finished<A>),
    /// Show how things stand, all of it durable. [`Event::Woken`].
    Show(View),
    /// Ask these acceptors, and do not wait for them. [`Event::Woken`].
    Enlist {
        /// Whom.
        open: Vec<NodeId>,
        /// What.
        request: Request,
    },
    /// Do nothing until this time, or until somebody who asks says that the loop is to be woken.
    /// [`Event::Woken`].
    Rest {
        /// `None`: until what is under way has ended.
        until: Option<Duration>,
    },
}

/// An acceptor. `A` stands for one who waits for an answer.
#[derive(Debug)]
pub struct AcceptorRole<A> {
    /// The state, ahead of the disk by the write under way.
    member: Member,
    bounds: Bounds,
    queue: Queue<A>,
    group: Group<A>,
    state: State<A>,
    /// The room that the core knows of.
    room: Room,
    tick: Duration,
    next_tick: Duration,
    next_enlist: Duration,
    must_look: bool,
    shown: Option<Standing>,
}

/// Where the loop is.
#[derive(Debug)]
enum State<A> {
    /// It has not begun.
    New,
    /// It does what nobody waits for, or nothing: it goes on when it is called.
    Free,
    /// It has nothing to do before the next deadline.
    Resting,
    /// It looks at the volume, for a request that is next or for all that come.
    Looking(Option<Taken<A>>),
    /// It reads the log for a request.
    Settling(Taken<A>),
    /// A write is under way.
    Writing,
}

/// A request that has its turn.
#[derive(Debug)]
struct Taken<A> {
    asker: A,
    request: Request,
}

/// Requests that share the next write.
#[derive(Debug)]
struct Group<A> {
    askers: Vec<A>,
    outputs: Vec<Output<Record, Answer>>,
    bytes: usize,
}

impl<A> AcceptorRole<A> {
    /// Of a member that has replayed its log.
    pub fn new(member: Member, election_timeout: Duration) -> AcceptorRole<A> {
        AcceptorRole {
            member,
            bounds: Bounds::default(),
            queue: Queue::new(),
            group: Group::new(),
            state: State::New,
            room: Room::Enough,
            tick: election_timeout / 2,
            next_tick: Duration::ZERO,
            next_enlist: Duration::ZERO,
            must_look: false,
            shown: None,
        }
    }

    /// The same, with other bounds.
    pub fn with_bounds(self, bounds: Bounds) -> AcceptorRole<A> {
        AcceptorRole { bounds, ..self }
    }

    /// The answer to what needs no write and tells nothing that is not durable; `None` for what has to
    /// wait its turn.
    pub fn answer(&mut self, request: &Request) -> Option<Answer> {
        self.member.answer(request)
    }

    /// Has a request wait its turn. `true` if the loop rests and is to be woken.
    ///
    /// # Errors
    /// When too much waits. Whoever sent it sends it again.
    pub fn enqueue(&mut self, request: Request, asker: A) -> Result<bool, Busy> {
        self.queue.push_request(request, asker, self.bounds)?;
        Ok(self.is_to_be_woken())
    }

    /// Another acceptor's answer to [`Action::Enlist`] waits its turn. `true` if the loop rests and is to
    /// be woken.
    ///
    /// # Errors
    /// When too much waits. That acceptor is asked again.
    pub fn heard(&mut self, from: NodeId, reply: Reply) -> Result<bool, Busy> {
        self.queue.push_heard(from, reply, self.bounds)?;
        Ok(self.is_to_be_woken())
    }

    /// An answer once more, whose votes were forgotten, and their file removed, before they were read.
    pub fn answer_again(&mut self, answer: Answer) -> Answer {
        match answer {
            Answer::Votes(reading) => self.member.answer_again(&reading),
            reply => reply,
        }
    }

    /// What it knows.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// What the loop does next. `now` is the time since the process started.
    pub fn on(&mut self, event: Event<A>, now: Duration) -> Action<A> {
        match (mem::replace(&mut self.state, State::Free), event) {
            (State::New, _) => self.begin(now),
            (State::Free | State::Resting, _) => self.next(now),
            (State::Looking(taken), Event::Looked { room, volume }) => {
                if room != self.room {
                    self.room = room;
                    self.member.set_room(room, volume);
                }
                match taken {
                    Some(taken) => self.handle(taken, now),
                    None => Action::Show(self.view()),
                }
            }
            (State::Settling(taken), Event::Settled(is_same)) => {
                self.handle_settled(taken, Some(is_same), now)
            }
            (State::Writing, Event::Written(persisted)) => Action::Finish(self.finish(persisted)),
            // One thing at a time.
            (under_way, _) => {
                self.state = under_way;
                Action::Rest { until: None }
            }
        }
    }

    fn is_to_be_woken(&mut self) -> bool {
        let rests = matches!(self.state, State::Resting);
        if rests {
            self.state = State::Free;
        }
        rests
    }

    fn begin(&mut self, now: Duration) -> Action<A> {
        (self.next_tick, self.next_enlist) = (now + self.tick, now);
        self.must_look = true;
        let begun = self.member.begin();
        self.write(Write::of_the_standing(begun))
    }

    fn next(&mut self, now: Duration) -> Action<A> {
        let due = match self.group.is_empty() {
            true => self.due(now),
            false => None,
        };
        due.unwrap_or_else(|| self.take())
    }

    /// What is to be done by the clock, between two groups.
    fn due(&mut self, now: Duration) -> Option<Action<A>> {
        if now >= self.next_tick {
            self.next_tick = now + self.tick;
            self.must_look = true;
            self.member.tick();
            // Forgets what leaders that were answered at once have said to be needed no more.
            let tidied = self.member.tidy();
            if tidied.has_records() {
                return Some(self.write(Write::of_the_standing(tidied)));
            }
        }
        if mem::take(&mut self.must_look) {
            self.state = State::Looking(None);
            return Some(Action::Look { more: 0 });
        }
        if now >= self.next_enlist {
            let interval = match self.member.votes() {
                true => LATE_ENLIST_INTERVAL,
                false => ENLIST_INTERVAL,
            };
            self.next_enlist = now + interval;
            let asked = self.member.enlist();
            return asked.map(|(open, request)| Action::Enlist { open, request });
        }
        None
    }

    /// Gives the next request its turn, or writes what requests have come to.
    fn take(&mut self) -> Action<A> {
        let is_open = !self.group.is_full(self.bounds);
        // Records go to the log in the order in which they came to be. So what is heard of the standing
        // is written by itself, after all that came before.
        let next = self.queue.pop_if(|next| match next {
            Waiting::Request { .. } => is_open,
            Waiting::Heard { .. } => self.group.is_empty(),
        });
        match next {
            Some(Waiting::Request {
                asker,
                request,
                bytes,
            }) => {
                self.group.bytes += bytes;
                self.state = State::Looking(Some(Taken { asker, request }));
                Action::Look {
                    more: self.group.bytes as u64,
                }
            }
            Some(Waiting::Heard { from, reply }) => {
                let heard = self.member.heard(from, &reply);
                self.write(Write::of_the_standing(heard))
            }
            None if self.group.is_empty() => {
                self.state = State::Resting;
                Action::Rest {
                    until: Some(self.next_tick.min(self.next_enlist)),
                }
            }
            None => {
                let Group {
                    askers, outputs, ..
                } = mem::replace(&mut self.group, Group::new());
                self.write(Write::of_answers(askers, outputs))
            }
        }
    }

    fn handle(&mut self, taken: Taken<A>, now: Duration) -> Action<A> {
        match self.member.doubt(&taken.request) {
            Some(doubt) => {
                self.state = State::Settling(taken);
                Action::Settle(doubt)
            }
            None => self.handle_settled(taken, None, now),
        }
    }

    fn handle_settled(
        &mut self,
        taken: Taken<A>,
        is_same: Option<bool>,
        now: Duration,
    ) -> Action<A> {
        let output = self.member.handle_settled(taken.request, is_same);
        self.group.askers.push(taken.asker);
        self.group.outputs.push(output);
        self.next(now)
    }

    fn write(&mut self, write: Write<A>) -> Action<A> {
        self.state = State::Writing;
        Action::Write(write)
    }

    /// Only here does the core learn that something is durable.
    fn finish(&mut self, persisted: Persisted<A>) -> Finished<A> {
        let (proof, places, trims, answers) = persisted.open();
        self.member.written(proof, &places);
        let trim = trims.then(|| Trim {
            before: self.member.acceptor().oldest_place(),
        });
        Finished {
            trim,
            answers,
            view: self.view(),
        }
    }

    fn view(&mut self) -> View {
        let view = View::of(&self.member, self.shown);
        self.shown = Some(view.standing);
        view
    }
}

impl<A> Group<A> {
    fn new() -> Group<A> {
        Group {
            askers: Vec::new(),
            outputs: Vec::new(),
            bytes: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.askers.is_empty()
    }

    /// A first request has its place, whatever its size.
    fn is_full(&self, bounds: Bounds) -> bool {
        let is_over = self.askers.len() >= bounds.group || self.bytes >= bounds.group_bytes;
        is_over && !self.is_empty()
    }
}

#[cfg(test)]
mod tests;
