//! An acceptor's loop: what waits becomes one write, and what the write makes true is said.

use node::wal;
use paxos::acceptor::{Record, Room, Volume};
use paxos::message::{Message, Reply, Request};
use paxos::output::Output;
use paxos::standing::Roster;
use paxos::votes::{Answer, Place, Unread};

use super::disk::BadWrite;
use super::node::{Asker, Disk, Process, Waiting, Write};
use super::{Event, Sim, Timer};

impl Sim {
    /// Asks other acceptors to witness this start.
    pub(super) fn enlist(&mut self, at: usize) {
        let Process::Acceptor(voter) = &self.nodes[at].process else {
            return;
        };
        let Some((open, request)) = voter.member.enlist() else {
            return;
        };
        let packet = self.said(at, Message::Request(request));
        for id in open {
            if let Some(acceptor) = self.listed_at(at, id) {
                self.send(at, acceptor, &packet);
            }
        }
    }

    /// A request arrives: what needs no write is answered at once, the other waits its turn.
    pub(super) fn ask(&mut self, at: usize, asker: Asker, request: Request) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        match voter.member.answer(&request) {
            Some(answer) => {
                self.summary.at_once += u64::from(voter.writing.is_some());
                self.reply(at, asker, answer);
            }
            None => {
                voter.inbox.push_back(Waiting::Request(asker, request));
                self.write_next(at);
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
        let reply = match (answer.clone().into_reply(&**log), &answer) {
            // Forgotten in the meantime, and its file removed.
            (Err(Unread::Log(wal::Error::Absent(_))), Answer::Votes(reading)) => {
                voter.member.answer_again(reading).into_reply(&**log)
            }
            (reply, _) => reply,
        };
        let reply =
            reply.unwrap_or_else(|error| panic!("a vote is where it was written: {error:?}"));
        let id = node.name.id;
        self.check.committed(voter.member.acceptor().committed());
        self.check.answered(id, &reply);
        self.summary.unmasked += u64::from(matches!(reply, Reply::Refused { .. }));
        self.summary.no_room += u64::from(matches!(reply, Reply::NoRoom { .. }));
        let packet = self.said(at, Message::Reply(reply));
        self.answer(at, asker, packet);
    }

    /// Takes what waits into one write, unless one is under way. Records go to the log in the order
    /// in which they came to be, so what is heard of the standing is written by itself.
    pub(super) fn write_next(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let room = node.room;
        let (Process::Acceptor(voter), Disk::Log(log)) = (&mut node.process, &node.disk) else {
            return;
        };
        if voter.writing.is_some() {
            return;
        }
        voter.member.set_room(room, Volume::default());
        voter.room = room;
        let (mut askers, mut outputs) = (Vec::new(), Vec::new());
        while let Some(waiting) = voter.inbox.pop_front() {
            match waiting {
                Waiting::Request(asker, request) => {
                    askers.push(asker);
                    let is_same = voter.member.doubt(&request).map(|doubt| {
                        let settled = doubt.settle(&**log);
                        settled.unwrap_or_else(|error| panic!("a vote is there: {error:?}"))
                    });
                    outputs.push(voter.member.handle_settled(request, is_same));
                }
                Waiting::Heard(from, reply) if askers.is_empty() => {
                    let heard = voter.member.heard(from, &reply);
                    return self.begin_write(at, Write::Standing(heard));
                }
                heard => {
                    voter.inbox.push_front(heard);
                    break;
                }
            }
        }
        if !askers.is_empty() {
            self.begin_write(at, Write::Answers(askers, Output::group(outputs)));
        }
    }

    /// A write of no records takes no time: nothing is synced for it.
    fn begin_write(&mut self, at: usize, write: Write) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        let takes_time = match &write {
            Write::Answers(_, output) => output.has_records(),
            Write::Standing(output) => output.has_records(),
        };
        voter.writing = Some(write);
        if takes_time {
            return self.start_timer(at, Timer::Written);
        }
        let of = (at, self.nodes[at].life);
        let timer = Timer::Written;
        self.schedule(0, Event::Timer { of, timer });
    }

    /// Forgets what leaders that were answered at once have said to be needed no more.
    pub(super) fn tidy(&mut self, at: usize) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        voter.member.tick();
        if voter.writing.is_some() {
            return;
        }
        let tidied = voter.member.tidy();
        if tidied.has_records() {
            voter.writing = Some(Write::Standing(tidied));
            self.start_timer(at, Timer::Written);
        }
    }

    /// The write under way is done, or fails.
    pub(super) fn written(&mut self, at: usize) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        let Some(write) = voter.writing.take() else {
            return;
        };
        let (mut places, mut trims) = (Vec::new(), false);
        let mut to_disk = |records: &[Record]| {
            trims = records
                .iter()
                .any(|record| matches!(record, Record::Trimmed { .. }));
            self.write(at, records).map(|placed| places = placed)
        };
        let done = match write {
            Write::Answers(askers, output) => output
                .persist_proven(&mut to_disk)
                .map(|(answers, proof)| (askers, answers, proof)),
            Write::Standing(output) => output
                .persist_proven(&mut to_disk)
                .map(|((), proof)| (Vec::new(), Vec::new(), proof)),
        };
        let done = done.and_then(|(askers, answers, proof)| {
            let node = &mut self.nodes[at];
            let (Process::Acceptor(voter), Disk::Log(log)) = (&mut node.process, &mut node.disk)
            else {
                return Ok((askers, answers));
            };
            voter.member.written(proof, &places);
            let acceptor = voter.member.acceptor();
            assert!(
                acceptor.memory().0 <= self.config.held_bytes,
                "values in memory keep to their number of bytes"
            );
            if trims {
                log.trim(acceptor.oldest_place(), &mut self.rng)?;
            }
            // The name of a start that counts is never used again.
            if voter.member.votes() {
                log.witnessed();
            }
            Ok((askers, answers))
        });
        let Ok((askers, answers)) = done else {
            let down = self.rng.between(1, self.config.down);
            return self.crash(at, down);
        };
        for (asker, answer) in askers.into_iter().zip(answers) {
            self.reply(at, asker, answer);
        }
        self.write_next(at);
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
}
