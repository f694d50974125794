//! An acceptor's loop: what waits becomes one write, and what the write makes true is said.

use proposer::paxos::acceptor::Record;
use proposer::paxos::message::{Message, Reply};
use proposer::paxos::output::Output;

use super::disk::BadWrite;
use super::node::{Asker, Disk, Process, Waiting, Write};
use super::{Sim, Timer};

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
            self.send(at, self.acceptor(id), &packet);
        }
    }

    /// Takes what waits into one write, unless one is under way. Records go to the log in the order
    /// in which they came to be, so what is heard of the standing is written by itself.
    pub(super) fn write_next(&mut self, at: usize) {
        let Process::Acceptor(voter) = &mut self.nodes[at].process else {
            return;
        };
        if voter.writing.is_some() {
            return;
        }
        let (mut askers, mut outputs) = (Vec::new(), Vec::new());
        while let Some(waiting) = voter.inbox.pop_front() {
            match waiting {
                Waiting::Request(asker, request) => {
                    askers.push(asker);
                    outputs.push(voter.member.handle(request));
                }
                Waiting::Heard(from, reply) if askers.is_empty() => {
                    let heard = voter.member.heard(from, &reply);
                    voter.writing = Some(Write::Standing(heard));
                    return self.start_timer(at, Timer::Written);
                }
                heard => {
                    voter.inbox.push_front(heard);
                    break;
                }
            }
        }
        if !askers.is_empty() {
            voter.writing = Some(Write::Answers(askers, Output::group(outputs)));
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
        let answers: Result<(Vec<Asker>, Vec<Reply>), BadWrite> = match write {
            Write::Answers(askers, output) => output
                .persist(|records| self.write(at, records))
                .map(|replies| (askers, replies)),
            Write::Standing(output) => output
                .persist(|records| self.write(at, records))
                .map(|()| Default::default()),
        };
        let Ok((askers, replies)) = answers else {
            let down = self.rng.between(1, self.config.down);
            return self.crash(at, down);
        };
        let node = &mut self.nodes[at];
        let (Process::Acceptor(voter), Disk::Log(log)) = (&node.process, &mut node.disk) else {
            return;
        };
        // The name of a start that counts is never used again.
        if voter.member.votes() {
            log.witnessed();
        }
        let id = node.name.id;
        self.check.committed(voter.member.acceptor().committed());
        for (asker, reply) in askers.into_iter().zip(replies) {
            self.check.answered(id, &reply);
            self.summary.unmasked += u64::from(matches!(reply, Reply::Refused { .. }));
            let packet = self.said(at, Message::Reply(reply));
            self.answer(at, asker, packet);
        }
        self.write_next(at);
    }

    fn write(&mut self, at: usize, records: &[Record]) -> Result<(), BadWrite> {
        let node = &mut self.nodes[at];
        let Disk::Log(log) = &mut node.disk else {
            return Ok(());
        };
        log.write(records, node.bad_write.take(), &mut self.rng)?;
        let is_trim = |record: &&Record| matches!(record, Record::Trimmed { .. });
        self.summary.trims += records.iter().filter(is_trim).count() as u64;
        self.check.durable(node.name.id, records);
        Ok(())
    }
}
