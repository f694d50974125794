//! Whether an acceptor may vote: only with the disk that it has always voted with.
//!
//! Paxos takes an acceptor's memory for granted. One whose disk was wiped, exchanged or set back to
//! an older copy would break its promises, and its own disk cannot tell it so. Hence the others
//! remember. Each start of a node has a name, [`Start`]; before an acceptor takes part it has its
//! start *witnessed* by other acceptors, who write it down durably and refuse one that is of another
//! disk than they know, or not later than what they know.
//!
//! - An acceptor that has never voted needs **all** others as witnesses, once in its life. From then
//!   on every other one knows its disk, so whichever of them remains unmasks a new one. A new cluster
//!   therefore begins when all its acceptors have met; if all of them lose their disks together, they
//!   found another cluster, which the proposers' and learners' disks do not belong to.
//! - One that has voted before needs as many as make a quorum with itself, so a restart works
//!   whenever the cluster does. An older copy of a disk is unmasked by every acceptor that was up
//!   with the newer one, and a quorum of them was.
//!
//! A start keeps its name until it has been witnessed. Else an older copy, refused at one start after
//! the other, would count its way past what the witnesses know.
//!
//! What is not seen: a copy made since the last start, of a disk that is not used any more; and an
//! older copy, if none of those that witnessed the later start answers before others have made a
//! quorum with it. Each start is shown to every acceptor in the end, so this takes one that was away
//! for the whole of the later start. A wiped disk is always seen.
//!
//! The cluster is named after the disk of acceptor 1 at its founding.
//!
//! How many acceptors it has is written down with its name, as quorums of two sizes need not meet. It
//! is the length of the founders' lists, all of which must agree. Later lists are addresses: an acceptor
//! whose list has another length takes no part.

use std::collections::{BTreeMap, BTreeSet};

use super::acceptor::Acceptor;
use super::ids::{ClusterId, Members, NodeId, NodeName, Role};
use super::limits::{Room, Volume};
use super::message::{Reply, Request};
use super::output::{Output, Written};
use super::record::Record;
use super::roster::acceptor;
pub use super::roster::{Refusal, Roster, Start};
use super::votes::{Answer, Doubt, Place, Reading};

/// How many starts of a disk there may be that an acceptor has not heard of. No node starts so often
/// while an acceptor is away, and what is above the highest number could never start again.
const MAX_STARTS: u64 = 1 << 20;

/// How many starts of other roles are written down at once, and how many ticks it takes until one more is.
/// Each costs a record of all that is known, and whoever reaches the port may name nodes.
const STARTS_AT_ONCE: u32 = 256;
const TICKS_A_START: u32 = 5;

/// An acceptor and its standing: the whole of what answers [`Request`]s.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    me: NodeId,
    members: Members,
    start: Start,
    roster: Roster,
    /// Who has witnessed this start.
    witnesses: BTreeSet<NodeId>,
    /// Who is of another cluster, or of one without this acceptor or with another number of them.
    strangers: BTreeSet<NodeId>,
    /// Whose list has another length, while nothing is founded.
    differing: BTreeMap<NodeId, Members>,
    refusal: Option<Refusal>,
    /// Whether it voted when its disk last had everything.
    voted: bool,
    /// For how many ticks' worth of starts of other roles there is room.
    room_for_starts: u32,
    acceptor: Acceptor,
}

impl Member {
    /// At a start, before the records on its disk.
    pub fn new(me: NodeId, members: Members, start: Start, acceptor: Acceptor) -> Member {
        Member {
            me,
            members,
            start,
            roster: Roster::default(),
            witnesses: BTreeSet::new(),
            strangers: BTreeSet::new(),
            differing: BTreeMap::new(),
            refusal: None,
            voted: false,
            room_for_starts: STARTS_AT_ONCE * TICKS_A_START,
            acceptor,
        }
    }

    /// Replays one record, in the order in which they were written, from its place in the log.
    pub fn replay(&mut self, record: &Record, place: Place) {
        match record {
            Record::Known(roster) => self.roster = roster.clone(),
            record => self.acceptor.replay(record, place),
        }
    }

    /// All records so far are durable; those of votes that were not known to be lie at these places.
    pub fn written(&mut self, proof: Written, places: &[Place]) {
        self.acceptor.written(proof, places);
        self.voted = self.votes();
    }

    /// See [`Acceptor::answer`].
    pub fn answer(&mut self, request: &Request) -> Option<Answer> {
        match request {
            Request::Enlist { .. } => None,
            // What makes it vote may not be durable yet.
            _ if !self.voted || !self.votes() => None,
            request => self.acceptor.answer(request),
        }
    }

    /// See [`Acceptor::doubt`].
    pub fn doubt(&self, request: &Request) -> Option<Doubt> {
        self.acceptor.doubt(request)
    }

    /// See [`Acceptor::answer_again`].
    pub fn answer_again(&mut self, reading: &Reading) -> Answer {
        self.acceptor.answer_again(reading)
    }

    /// Answers a request. Until it may vote, all but [`Request::Enlist`] is refused.
    pub fn handle(&mut self, request: Request) -> Output<Record, Answer> {
        self.handle_settled(request, None)
    }

    /// See [`Acceptor::handle_settled`].
    pub fn handle_settled(
        &mut self,
        request: Request,
        is_same: Option<bool>,
    ) -> Output<Record, Answer> {
        match request {
            Request::Enlist {
                node,
                start,
                cluster,
                acceptors,
            } => self
                .witness(node, start, cluster, acceptors)
                .map(Answer::Reply),
            _ if !self.votes() => Output::new(Vec::new(), Answer::Reply(Reply::NotVoting)),
            request => {
                let output = self.acceptor.handle_settled(request, is_same);
                self.repeat_after_trim(output)
            }
        }
    }

    /// See [`Acceptor::tidy`].
    pub fn tidy(&mut self) -> Output<Record, ()> {
        let output = self.acceptor.tidy();
        self.repeat_after_trim(output)
    }

    /// What lies before a trim may be removed from the disk.
    fn repeat_after_trim<E>(&self, output: Output<Record, E>) -> Output<Record, E> {
        output.and(|records| {
            let trims = |record: &Record| matches!(record, Record::Trimmed { .. });
            let repeat = records.iter().any(trims);
            repeat.then(|| Record::Known(self.roster.clone()))
        })
    }

    /// See [`Acceptor::set_room`].
    pub fn set_room(&mut self, room: Room, volume: Volume) {
        self.acceptor.set_room(room, volume);
    }

    /// Whom to ask for what, now and again, until nobody is left.
    pub fn enlist(&self) -> Option<(Vec<NodeId>, Request)> {
        let open: Vec<NodeId> = self.unmet().collect();
        if open.is_empty() || self.refusal.is_some() {
            return None;
        }
        let request = Request::Enlist {
            node: acceptor(self.me),
            start: self.start,
            cluster: self.roster.cluster,
            acceptors: Some(self.members),
        };
        Some((open, request))
    }

    /// Takes another acceptor's answer to [`Member::enlist`]. What it makes of it counts once the
    /// records are durable.
    pub fn heard(&mut self, from: NodeId, reply: &Reply) -> Output<Record, ()> {
        self.change(|member| match reply {
            Reply::Refused { start, refusal }
                if *start == member.start && member.others().any(|other| other == from) =>
            {
                member.refused(from, *refusal);
            }
            Reply::Witnessed {
                start,
                witness,
                cluster,
                ..
            } if *start == member.start && member.others().any(|other| other == from) => {
                member.witnessed(from, *witness, *cluster);
            }
            _ => {}
        })
    }

    /// Call once, after the replay: compares the list with what the disk says, and an acceptor without
    /// others needs no witness.
    pub fn begin(&mut self) -> Output<Record, ()> {
        self.change(|member| match member.founders() {
            Some(founded) if founded != member.members => {
                let listed = member.members;
                member.refusal = Some(Refusal::OtherCount { founded, listed });
            }
            founded => member.roster.founders = founded,
        })
    }

    /// Whether it takes part.
    pub fn votes(&self) -> bool {
        self.roster.cluster.is_some()
            && self.refusal.is_none()
            && self.members.is_quorum(self.witnesses.len() + 1)
    }

    /// Why it never will, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The cluster it votes in.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.roster.cluster
    }

    /// How many acceptors founded the cluster.
    pub fn founders(&self) -> Option<Members> {
        self.roster.founders(self.me)
    }

    /// Who has not witnessed this start yet.
    pub fn unmet(&self) -> impl Iterator<Item = NodeId> {
        self.others().filter(|id| !self.witnesses.contains(id))
    }

    /// How many acceptors another one's list names, while nothing is founded and that differs.
    pub fn list_of(&self, other: NodeId) -> Option<Members> {
        self.differing.get(&other).copied()
    }

    /// Half an election timeout has passed.
    pub fn tick(&mut self) {
        let most = STARTS_AT_ONCE * TICKS_A_START;
        self.room_for_starts = (self.room_for_starts + 1).min(most);
        self.acceptor.tick();
    }

    /// Its promises and votes.
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    fn change(&mut self, change: impl FnOnce(&mut Member)) -> Output<Record, ()> {
        let before = self.roster.clone();
        change(self);
        self.found();
        let changed = self.roster != before;
        let record = changed.then(|| Record::Known(self.roster.clone()));
        Output::new(record.into_iter().collect(), ())
    }

    fn others(&self) -> impl Iterator<Item = NodeId> {
        let me = self.me;
        self.members.acceptors().filter(move |id| *id != me)
    }

    fn witnessed(&mut self, from: NodeId, witness: Start, cluster: Option<ClusterId>) {
        self.differing.remove(&from);
        if self.roster.cluster.is_some() {
            // One that has lost its disk remembers nobody.
            if cluster == self.roster.cluster {
                self.witnesses.insert(from);
            }
            return;
        }
        let known = self.roster.starts.entry(acceptor(from)).or_insert(witness);
        // Another disk than before, while the cluster is being founded: somebody must see to that.
        if known.incarnation == witness.incarnation {
            self.witnesses.insert(from);
        }
    }

    fn refused(&mut self, from: NodeId, refusal: Refusal) {
        if let Refusal::OtherList { witness, .. } = refusal {
            self.differing.insert(from, witness);
            return;
        }
        // Who is of another cluster may have the wrong disk itself: it is one witness less.
        let is_stranger = match refusal {
            Refusal::OtherCluster { .. } | Refusal::NotAMember | Refusal::OtherCount { .. } => true,
            // It wrote this very start down, so it is its own disk that has been exchanged since. A
            // disk of another cluster says so itself, unless the question was put before the founding
            // and named no cluster.
            Refusal::OtherDisk { .. } => self.witnesses.contains(&from),
            _ => false,
        };
        if is_stranger {
            self.strangers.insert(from);
            // To found a cluster it needs all of them.
            let is_founded = self.roster.cluster.is_some();
            if is_founded && self.members.is_quorum_without(self.strangers.len()) {
                return;
            }
        }
        self.refusal.get_or_insert(refusal);
    }

    /// Joins the cluster when every other acceptor knows this disk.
    fn found(&mut self) {
        let all = self.witnesses.len() + 1 == usize::from(self.members.count());
        let listed = self.members.contains(self.me);
        if self.roster.cluster.is_some() || self.refusal.is_some() || !all || !listed {
            return;
        }
        let first = self.members.acceptors().next().unwrap_or(self.me);
        let name = match self.roster.starts.get(&acceptor(first)) {
            Some(start) if first != self.me => start.incarnation,
            _ => self.start.incarnation,
        };
        self.roster.cluster = ClusterId::new(name);
        self.roster.founders = Some(self.members);
    }

    fn witness(
        &mut self,
        node: NodeName,
        start: Start,
        cluster: Option<ClusterId>,
        acceptors: Option<Members>,
    ) -> Output<Record, Reply> {
        let refuse = |refusal| Output::new(Vec::new(), Reply::Refused { start, refusal });
        if let (Some(mine), Some(theirs)) = (self.roster.cluster, cluster)
            && mine != theirs
        {
            return refuse(Refusal::OtherCluster { cluster: mine });
        }
        let founders = self.founders();
        if self.roster.cluster.is_some() && founders.is_none() {
            // Another acceptor's disk, of a build that did not write it down. The list here may be wrong,
            // too, and who asks with the same one would take it for confirmed.
            return Output::new(Vec::new(), Reply::NotVoting);
        }
        let members = founders.unwrap_or(self.members);
        if let Some(listed) = acceptors.filter(|listed| *listed != members) {
            return refuse(match founders {
                Some(founded) => Refusal::OtherCount { founded, listed },
                None => Refusal::OtherList {
                    witness: members,
                    listed,
                },
            });
        }
        let votes = node.role == Role::Acceptor;
        if votes && (node.id == self.me || !members.contains(node.id)) {
            return refuse(Refusal::NotAMember);
        }
        let known = self.roster.starts.get(&node).map_or(0, |known| known.count);
        if start.count > known.saturating_add(MAX_STARTS) {
            return Output::new(Vec::new(), Reply::NotVoting);
        }
        let mut records = Vec::new();
        match self.roster.starts.get(&node) {
            Some(known) if *known == start => {}
            Some(known) if known.incarnation == start.incarnation && !start.follows(known) => {
                return refuse(Refusal::OlderCopy { known: *known });
            }
            Some(known) if known.incarnation != start.incarnation && votes => {
                return refuse(Refusal::OtherDisk { known: *known });
            }
            None if votes && self.roster.cluster.is_some() => return refuse(Refusal::NotAMember),
            // It asks again.
            _ if !votes && self.room_for_starts < TICKS_A_START => {
                return Output::new(Vec::new(), Reply::NotVoting);
            }
            // A later start; or a new disk of a node that others can restore.
            _ => {
                if !votes {
                    self.room_for_starts -= TICKS_A_START;
                }
                self.roster.starts.insert(node, start);
                records.push(Record::Known(self.roster.clone()));
            }
        }
        let reply = Reply::Witnessed {
            start,
            witness: self.start,
            cluster: self.roster.cluster,
            // One that does not tell its own would not understand it.
            acceptors: acceptors.map(|_| members),
        };
        Output::new(records, reply)
    }
}

#[cfg(test)]
mod tests;
