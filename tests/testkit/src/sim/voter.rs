//! The world of an acceptor, whose loop is the real one: how long a write takes and what becomes of it, what
//! its disk has room for, when its clock strikes, and where its answers go.

use std::time::Duration;

use node::wal;
use paxos::acceptor::{Record, Room, Volume};
use paxos::ids::NodeId;
use paxos::message::{Message, Reply, Request};
use paxos::standing::{Member, Roster};
use paxos::votes::{Answer, Place, Unread};
use roles::acceptor::{AcceptorRole, Action, Bounds, Finished, Standing, View, Write};

use super::disk::BadWrite;
use super::node::{Asker, Disk, Process};
use super::{ELECTION, Event, Packet, Sim, Timer};

/// What the loop is told.
type Told = roles::acceptor::Event<Asker>;

/// An acceptor's process.
#[derive(Debug)]
pub(super) struct Voter {
    /// What it does.
    pub(super) role: AcceptorRole<Asker>,
    /// The write under way.
    writing: Option<Write<Asker>>,
    /// How full its disk was when it last looked.
    room: Room,
    /// The newest wake-up, which alone counts, and when it comes.
    wakes: u64,
    wakes_at: Option<u64>,
}

impl Voter {
    /// Of a member that has replayed its log.
    pub(super) fn new(member: Member, bounds: Bounds) -> Voter {
        let role = AcceptorRole::new(member, Duration::from_millis(ELECTION));
        Voter {
            role: role.with_bounds(bounds),
            writing: None,
            room: Room::Enough,
            wakes: 0,
            wakes_at: None,
        }
    }

    /// The process ends. A write under way goes to `write`, which fails.
    pub(super) fn end(self, write: impl FnOnce(&[Record]) -> Result<(), BadWrite>) {
        if let Some(under_way) = self.writing {
            let _ended = under_way.persist(|records| write(records).map(|()| Vec::new()));
        }
    }
}

impl Sim {
    /// A request arrives: what needs no write is answered at once, the other waits its turn.
    pub(super) fn ask(&mut self, at: usize, asker: Asker, request: Request) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        if let Some(answer) = voter.role.answer(&request) {
            self.summary.at_once += u64::from(voter.writing.is_some());
            return self.reply(at, asker, answer);
        }
        match voter.role.enqueue(request, asker) {
            Ok(true) => self.run_voter(at),
            Ok(false) => {}
            Err(_) => {
                self.summary.busy += 1;
                self.answer(at, asker, Packet::Refused);
            }
        }
    }

    /// Another acceptor has answered the question of this start.
    pub(super) fn heard_by_voter(&mut self, at: usize, from: NodeId, reply: Reply) {
        if let Process::Acceptor(voter) = &mut self.nodes[at].process
            && voter.role.heard(from, reply) == Ok(true)
        {
            self.run_voter(at);
        }
    }

    /// Its clock says that something may be due.
    pub(super) fn wake(&mut self, at: usize, wake: u64) {
        if let Process::Acceptor(voter) = &mut self.nodes[at].process
            && voter.wakes == wake
        {
            voter.wakes_at = None;
            self.run_voter(at);
        }
    }

    /// Its clock jumps.
    pub(super) fn jump_ahead(&mut self, at: usize, by: u64) {
        self.nodes[at].clock.jump(by);
        self.run_voter(at);
    }

    /// Lets the loop run until it waits for a write or has nothing to do.
    pub(super) fn run_voter(&mut self, at: usize) {
        self.drive(at, Told::Woken);
    }

    /// The same, with what came of what it asked for.
    fn drive(&mut self, at: usize, mut told: Told) {
        loop {
            let node = &mut self.nodes[at];
            let (Process::Acceptor(voter), Disk::Log(log)) = (&mut node.process, &node.disk) else {
                return;
            };
            let now = node.clock.shows(self.now);
            told = match voter.role.on(told, now) {
                Action::Look { .. } => {
                    voter.room = node.room;
                    let (room, volume) = (node.room, Volume::default());
                    Told::Looked { room, volume }
                }
                Action::Settle(doubt) => {
                    let settled = doubt.settle(&**log);
                    Told::Settled(settled.unwrap_or_else(|e| panic!("a vote is there: {e:?}")))
                }
                Action::Write(write) => return self.begin_write(at, write),
                Action::Finish(finished) => match self.finish(at, finished) {
                    Ok(()) => Told::Woken,
                    Err(_) => return self.crash_soon(at),
                },
                Action::Show(view) => {
                    self.shown(at, &view);
                    Told::Woken
                }
                Action::Enlist { open, request } => {
                    self.enlist(at, &open, request);
                    Told::Woken
                }
                Action::Rest { until } => {
                    let until = until.map(|until| node.clock.strikes(until).max(self.now));
                    return self.rest(at, until);
                }
            };
        }
    }

    /// One wake-up is on its way at most.
    fn rest(&mut self, at: usize, until: Option<u64>) {
        let life = self.nodes[at].life;
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        let Some(until) = until.filter(|until| voter.wakes_at.is_none_or(|at| *until < at)) else {
            return;
        };
        voter.wakes += 1;
        voter.wakes_at = Some(until);
        let (of, timer) = ((at, life), Timer::Wake(voter.wakes));
        self.schedule(until - self.now, Event::Timer { of, timer });
    }

    /// Asks other acceptors to witness this start.
    fn enlist(&mut self, at: usize, open: &[NodeId], request: Request) {
        let packet = self.said(at, Message::Request(request));
        for id in open {
            if let Some(acceptor) = self.listed_at(at, *id) {
                self.send(at, acceptor, &packet);
            }
        }
    }

    /// Sends an answer, what the log has of it read from there.
    fn reply(&mut self, at: usize, asker: Asker, answer: Answer) {
        let node = &mut self.nodes[at];
        let (Process::Acceptor(voter), Disk::Log(log)) = (&mut node.process, &node.disk) else {
            return;
        };
        self.summary.read_from_logs += u64::from(!answer.is_in_memory());
        let reply = match answer.clone().into_reply(&**log) {
            // Forgotten in the meantime, and its file removed.
            Err(Unread::Log(wal::Error::Absent(_))) => {
                voter.role.answer_again(answer).into_reply(&**log)
            }
            reply => reply,
        };
        let reply =
            reply.unwrap_or_else(|error| panic!("a vote is where it was written: {error:?}"));
        let id = node.name.id;
        self.check
            .committed(voter.role.member().acceptor().committed());
        self.check.answered(id, &reply);
        self.summary.unmasked += u64::from(matches!(reply, Reply::Refused { .. }));
        self.summary.no_room += u64::from(matches!(reply, Reply::NoRoom { .. }));
        let packet = self.said(at, Message::Reply(reply));
        self.answer(at, asker, packet);
    }

    /// A write of no records takes no time: nothing is synced for it.
    fn begin_write(&mut self, at: usize, write: Write<Asker>) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        assert!(voter.writing.is_none(), "one write at a time");
        let takes_time = write.has_records();
        voter.writing = Some(write);
        if takes_time {
            return self.start_timer(at, Timer::Written);
        }
        let of = (at, self.nodes[at].life);
        let timer = Timer::Written;
        self.schedule(0, Event::Timer { of, timer });
    }

    /// The write under way is done, or fails.
    pub(super) fn written(&mut self, at: usize) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        let Some(write) = voter.writing.take() else {
            return;
        };
        match write.persist(|records| self.write(at, records)) {
            Ok(persisted) => self.drive(at, Told::Written(persisted)),
            Err(_) => self.crash_soon(at),
        }
    }

    /// What follows from a write.
    fn finish(&mut self, at: usize, finished: Finished<Asker>) -> Result<(), BadWrite> {
        let Finished {
            trim,
            answers,
            view,
        } = finished;
        if let (Some(trim), Disk::Log(log)) = (trim, &mut self.nodes[at].disk) {
            log.trim(trim.before, &mut self.rng)?;
        }
        self.shown(at, &view);
        for (asker, answer) in answers {
            self.reply(at, asker, answer);
        }
        Ok(())
    }

    fn shown(&mut self, at: usize, view: &View) {
        assert!(
            view.memory.0 <= self.config.held_bytes,
            "values in memory keep to their number of bytes"
        );
        // The name of a start that counts is never used again.
        if let (Standing::Voting { .. }, true) = (view.standing, view.has_changed)
            && let Disk::Log(log) = &mut self.nodes[at].disk
        {
            log.witnessed();
        }
    }

    fn write(&mut self, at: usize, records: &[Record]) -> Result<Vec<Place>, BadWrite> {
        let node = &mut self.nodes[at];
        let (Process::Acceptor(voter), Disk::Log(log)) = (&node.process, &mut node.disk) else {
            return Ok(Vec::new());
        };
        let is_vote = |record: &Record| matches!(record, Record::Accepted { .. });
        assert!(
            voter.room != Room::Reserve || !records.iter().any(is_vote),
            "no vote is written to a disk that is almost full"
        );
        let counts = node.counts;
        let as_written = |record: &Record| match record {
            Record::Known(roster) if !counts => Record::Known(Roster {
                founders: None,
                ..roster.clone()
            }),
            record => record.clone(),
        };
        let records: Vec<Record> = records.iter().map(as_written).collect();
        let records = &records[..];
        let places = log.write(records, node.bad_write.take(), &mut self.rng)?;
        let is_trim = |record: &&Record| matches!(record, Record::Trimmed { .. });
        self.summary.trims += records.iter().filter(is_trim).count() as u64;
        self.check.durable(node.name.id, records);
        Ok(places)
    }

    /// Its disk has failed.
    fn crash_soon(&mut self, at: usize) {
        let down = self.rng.between(1, self.config.down);
        self.crash(at, down);
    }
}
