//! An acceptor says only what is on its disk, and all of it.

use std::collections::{BTreeMap, BTreeSet};

use paxos::acceptor::{Acceptor, Record};
use paxos::ids::{Ballot, Members, NodeId, Slot};
use paxos::message::{Reply, Value, Vote};
use paxos::standing::Start;

/// What is on each acceptor's disk.
#[derive(Debug)]
pub struct Promises {
    disks: Vec<Disk>,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    promised: Ballot,
    votes: BTreeMap<Slot, (Ballot, Value)>,
    /// Votes up to here are forgotten; our books keep them.
    floor: Slot,
    /// The highest promise in an answer that was sent.
    told: Ballot,
    /// What it has known of the nodes' starts.
    starts: BTreeSet<Start>,
}

impl Promises {
    /// Empty disks.
    pub fn new(members: Members) -> Promises {
        Promises {
            disks: vec![Disk::default(); members.count().into()],
        }
    }

    pub(super) fn durable(&mut self, acceptor: NodeId, record: &Record) {
        let disk = &mut self.disks[acceptor.index()];
        let (Record::Promised { ballot, .. }
        | Record::Accepted { ballot, .. }
        | Record::Trimmed {
            promised: ballot, ..
        }) = record
        else {
            if let Record::Known(roster) = record {
                disk.starts.extend(roster.starts.values());
            }
            return;
        };
        assert!(
            *ballot >= disk.promised,
            "a promise on disk never goes down"
        );
        disk.promised = *ballot;
        match record {
            Record::Accepted { first, values, .. } => {
                for (i, value) in values.iter().enumerate() {
                    let slot = first.plus(i as u64);
                    if slot > disk.floor {
                        disk.votes.insert(slot, (*ballot, value.clone()));
                    }
                }
            }
            Record::Trimmed { floor, .. } => disk.floor = disk.floor.max(*floor),
            Record::Promised { .. } | Record::Known(_) => {}
        }
    }

    pub(super) fn answered(&mut self, acceptor: NodeId, reply: &Reply) {
        let disk = &mut self.disks[acceptor.index()];
        match reply {
            Reply::Probed { promised, .. } => {
                assert!(*promised >= disk.told, "an acceptor tells its promise");
                assert!(
                    *promised <= disk.promised,
                    "an acceptor tells what is on disk"
                );
            }
            Reply::Promise {
                ballot,
                from,
                votes,
                rest,
                committed,
            } => {
                assert!(
                    disk.promised >= *ballot,
                    "a promise is on disk before it is given"
                );
                disk.told = disk.told.max(*ballot);
                let end = rest.unwrap_or(Slot(u64::MAX));
                let forgotten = disk.floor.min(*committed);
                disk.told_every_vote(*from, end, votes, *ballot, forgotten);
            }
            Reply::Accepted {
                ballot,
                first,
                count,
            }
            | Reply::AcceptedTight {
                ballot,
                first,
                count,
                ..
            } => {
                for slot in (first.0..first.0 + count).map(Slot) {
                    let voted = disk.votes.get(&slot).is_some_and(|(at, _)| at >= ballot);
                    assert!(
                        voted || slot <= disk.floor,
                        "a vote is on disk before it is told"
                    );
                }
                disk.told = disk.told.max(*ballot);
            }
            Reply::Renewed { ballot, .. } => {
                assert!(
                    disk.promised >= *ballot,
                    "a promise is on disk before it is given"
                );
                disk.told = disk.told.max(*ballot);
            }
            Reply::Fetched { from, to, votes } => {
                let nothing = Slot::ZERO;
                disk.told_every_vote(*from, to.next(), votes, Ballot::NONE, nothing);
            }
            Reply::Truncated { from, floor } => {
                assert!(
                    from <= floor && *floor <= disk.floor,
                    "only what is forgotten is said to be"
                );
            }
            Reply::Witnessed { start, .. } => {
                let mut known = disk.starts.iter();
                assert!(
                    known.any(|known| known == start || follows(known, start)),
                    "what is witnessed is on disk"
                );
            }
            Reply::Nack { .. }
            | Reply::NoRoom { .. }
            | Reply::NotVoting
            | Reply::Refused { .. } => {}
        }
    }

    pub(super) fn restarted(&self, acceptor: NodeId, state: &Acceptor, votes: &Reply) {
        let disk = &self.disks[acceptor.index()];
        assert_eq!(
            state.promised(),
            disk.promised,
            "a promise outlives a crash"
        );
        assert_eq!(state.floor(), disk.floor, "a trim outlives a crash");
        let Reply::Fetched { votes, .. } = votes else {
            panic!("these are no votes: {votes:?}");
        };
        let found = votes
            .iter()
            .map(|vote| (&vote.slot, &vote.ballot, &vote.value));
        let on_disk = disk.votes.range(disk.floor.next()..);
        let on_disk = on_disk.map(|(slot, (ballot, value))| (slot, ballot, value));
        assert!(found.eq(on_disk), "a vote outlives a crash");
        let last = disk.votes.last_key_value().map(|(slot, _)| *slot);
        assert_eq!(
            state.last_voted(),
            last.unwrap_or_default().max(disk.floor),
            "an acceptor never invents a vote"
        );
    }
}

/// Whether this is a later start from the same disk.
fn follows(known: &Start, start: &Start) -> bool {
    known.incarnation == start.incarnation && known.count > start.count
}

impl Disk {
    /// Votes may have been replaced at `ballot` or above since the answer was made. Those up to
    /// `forgotten` may be left out.
    fn told_every_vote(
        &self,
        from: Slot,
        end: Slot,
        votes: &[Vote],
        ballot: Ballot,
        forgotten: Slot,
    ) {
        let mut told = votes.iter().peekable();
        for (slot, (at, value)) in self.votes.range(from..end) {
            match told.next_if(|vote| vote.slot == *slot) {
                Some(vote) if vote.ballot == *at => {
                    assert_eq!(vote.value, *value, "votes are told as they are")
                }
                Some(vote) => assert!(vote.ballot < *at, "only what was on disk is told"),
                None => assert!(
                    *at >= ballot || *slot <= forgotten,
                    "slot {slot}: every vote below the promise is told"
                ),
            }
        }
        assert_eq!(told.next(), None, "only what was on disk is told");
    }
}
