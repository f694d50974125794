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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::acceptor::{Acceptor, Record, Room, Volume};
use super::ids::{ClusterId, Members, NodeId, NodeName, Role};
use super::message::{Reply, Request};
use super::output::{Output, Written};
use super::votes::{Answer, Doubt, Place, Reading};

/// How many starts of a disk there may be that an acceptor has not heard of. No node starts so often
/// while an acceptor is away, and what is above the highest number could never start again.
const MAX_STARTS: u64 = 1 << 20;

/// One start of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Start {
    /// A random number as old as what is on the disk: a wiped one has another.
    pub incarnation: u64,
    /// How many starts of this disk have been witnessed, and this one.
    pub count: u64,
    /// A random number of this start: an older copy of the disk counts the same starts again.
    pub run: u64,
}

impl Start {
    /// The start after one that was witnessed.
    #[must_use]
    pub fn next(self, run: u64) -> Start {
        Start {
            incarnation: self.incarnation,
            count: self.count.saturating_add(1),
            run,
        }
    }

    /// Whether it is `known` or a later start from the same disk.
    fn follows(&self, known: &Start) -> bool {
        self.incarnation == known.incarnation && (self == known || self.count > known.count)
    }
}

/// Why a witness refuses a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The acceptor had another disk before: what it promised and voted is not on this one.
    OtherDisk {
        /// That disk's last start.
        known: Start,
    },
    /// A later start from this disk is known: it is an older copy, or two processes use it.
    OlderCopy {
        /// The later start.
        known: Start,
    },
    /// The disk belongs to another cluster than the witness.
    OtherCluster {
        /// The witness's.
        cluster: ClusterId,
    },
    /// The cluster was founded without an acceptor of this number.
    NotAMember,
}

impl Refusal {
    /// Every [`Refusal::name`].
    pub const NAMES: [&'static str; 4] = ["amnesia", "older-copy", "other-cluster", "not-a-member"];

    /// In a word, for metrics and conditions.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::OtherDisk { .. } => Refusal::NAMES[0],
            Refusal::OlderCopy { .. } => Refusal::NAMES[1],
            Refusal::OtherCluster { .. } => Refusal::NAMES[2],
            Refusal::NotAMember => Refusal::NAMES[3],
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OtherDisk { known } => write!(
                f,
                "the cluster has run with another disk of this node (incarnation {:016x}): what it \
                 voted is not on this one, so it must not vote. Give it that disk back; the others \
                 go on without it",
                known.incarnation
            ),
            Refusal::OlderCopy { known } => write!(
                f,
                "the disk is an older copy of this node's, or another process uses it: start {} of \
                 it is known. Give it the newest copy, and stop the other process",
                known.count
            ),
            Refusal::OtherCluster { cluster } => write!(
                f,
                "the disk belongs to another cluster than that of its peers, {cluster}. Give it \
                 the disk of this cluster"
            ),
            Refusal::NotAMember => f.write_str(
                "the cluster was founded without an acceptor of this number, and the number of \
                 acceptors is fixed",
            ),
        }
    }
}

/// What an acceptor knows of the cluster and its nodes; on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Roster {
    /// The cluster it votes in; `None` before its founding.
    pub cluster: Option<ClusterId>,
    /// The latest start known of each node.
    pub starts: BTreeMap<NodeName, Start>,
}

/// An acceptor and its standing: the whole of what answers [`Request`]s.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    me: NodeId,
    members: Members,
    start: Start,
    roster: Roster,
    /// Who has witnessed this start.
    witnesses: BTreeSet<NodeId>,
    /// Who is of another cluster, or of one without this acceptor.
    strangers: BTreeSet<NodeId>,
    refusal: Option<Refusal>,
    /// Whether it voted when its disk last had everything.
    voted: bool,
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
            refusal: None,
            voted: false,
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
            } => self.witness(node, start, cluster).map(Answer::Reply),
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
        let others = self.others();
        let open: Vec<NodeId> = others.filter(|id| !self.witnesses.contains(id)).collect();
        if open.is_empty() || self.refusal.is_some() {
            return None;
        }
        let request = Request::Enlist {
            node: acceptor(self.me),
            start: self.start,
            cluster: self.roster.cluster,
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
            } if *start == member.start && member.others().any(|other| other == from) => {
                member.witnessed(from, *witness, *cluster);
            }
            _ => {}
        })
    }

    /// Call once, after the replay: an acceptor without others needs no witness.
    pub fn begin(&mut self) -> Output<Record, ()> {
        self.change(|_| {})
    }

    /// Whether it takes part.
    pub fn votes(&self) -> bool {
        self.roster.cluster.is_some()
            && self.refusal.is_none()
            && self.witnesses.len() + 1 >= self.members.quorum()
    }

    /// Why it never will, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The cluster it votes in.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.roster.cluster
    }

    /// Half an election timeout has passed.
    pub fn tick(&mut self) {
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
        // Who is of another cluster may have the wrong disk itself: it is one witness less.
        if let Refusal::OtherCluster { .. } | Refusal::NotAMember = refusal {
            self.strangers.insert(from);
            let others = usize::from(self.members.count()) - 1;
            let needed = match self.roster.cluster {
                Some(_) => self.members.quorum() - 1,
                None => others,
            };
            if others - self.strangers.len() >= needed {
                return;
            }
        }
        self.refusal.get_or_insert(refusal);
    }

    /// Joins the cluster when every other acceptor knows this disk.
    fn found(&mut self) {
        let all = self.witnesses.len() + 1 == usize::from(self.members.count());
        if self.roster.cluster.is_some() || self.refusal.is_some() || !all {
            return;
        }
        let first = self.members.acceptors().next().unwrap_or(self.me);
        let name = match self.roster.starts.get(&acceptor(first)) {
            Some(start) if first != self.me => start.incarnation,
            _ => self.start.incarnation,
        };
        self.roster.cluster = ClusterId::new(name);
    }

    fn witness(
        &mut self,
        node: NodeName,
        start: Start,
        cluster: Option<ClusterId>,
    ) -> Output<Record, Reply> {
        let refuse = |refusal| Output::new(Vec::new(), Reply::Refused { start, refusal });
        if let (Some(mine), Some(theirs)) = (self.roster.cluster, cluster)
            && mine != theirs
        {
            return refuse(Refusal::OtherCluster { cluster: mine });
        }
        let votes = node.role == Role::Acceptor;
        if votes && (node.id == self.me || !self.members.contains(node.id)) {
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
            // A later start; or a new disk of a node that others can restore.
            _ => {
                self.roster.starts.insert(node, start);
                records.push(Record::Known(self.roster.clone()));
            }
        }
        let reply = Reply::Witnessed {
            start,
            witness: self.start,
            cluster: self.roster.cluster,
        };
        Output::new(records, reply)
    }
}

fn acceptor(id: NodeId) -> NodeName {
    NodeName {
        role: Role::Acceptor,
        id,
    }
}

#[cfg(test)]
mod tests;
