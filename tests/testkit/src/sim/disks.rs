//! Acceptors that lose their disks: wiped, set back to an older copy, or exchanged for another's. At
//! most a minority of them in one run, and only what the others can see.

use paxos::ids::{Members, NodeName, Role};
use paxos::standing::Start;

use super::Sim;
use super::log::Log;
use super::node::Disk;

/// What takes the place of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// An empty one.
    Wiped,
    /// An older copy.
    SetBack,
    /// A copy of another acceptor's, or one of another cluster.
    Exchanged,
}

impl Sim {
    /// Somebody copies an acceptor's disk.
    pub(super) fn copy_disk(&mut self) {
        let at = self.some_acceptor();
        if let Disk::Log(log) = &self.nodes[at].disk {
            self.nodes[at].copy = Some(log.copy());
        }
    }

    /// An acceptor loses its disk, and must be found out.
    pub(super) fn lose_disk(&mut self, loss: Loss) {
        let members = Members::new(self.config.acceptors).expect("there is an acceptor");
        let lost = self.nodes.iter().filter(|node| node.lost).count();
        let at = self.some_acceptor();
        let founded = self.logs().all(|(_, log)| log.roster().cluster.is_some());
        let odd = self.nodes[at].list != self.config.acceptors;
        if self.nodes[at].lost || odd || lost >= members.tolerates() || !(founded || lost > 0) {
            return;
        }
        let copy = self.nodes[at].copy.clone();
        let set_back = copy.as_ref().and_then(|copy| copy.next_name());
        let still_seen = |other: usize| {
            let start = self.log(other).and_then(Log::next_name);
            !self.nodes[other].set_back
                || start.is_none_or(|start| self.is_seen(other, start, Some(at)))
        };
        let seen = match (loss, set_back) {
            (Loss::SetBack, Some(start)) => self.is_seen(at, start, None),
            (Loss::SetBack, None) => false,
            _ => true,
        };
        if !seen || !self.of_role(Role::Acceptor).all(still_seen) {
            return;
        }
        self.crash(at, self.config.down);
        let id = self.nodes[at].name.id;
        self.check.lost(id);
        self.nodes[at].lost = true;
        self.summary.lost_disks += 1;
        if self.trace {
            let (now, name) = (self.now, self.nodes[at].name);
            eprintln!("{now:>7} {name} {loss:?} {set_back:?}");
        }
        let segment_bytes = self.config.segment_bytes;
        let foreign = match self.rng.chance(500) {
            true => None,
            false => self
                .logs()
                .find(|(other, _)| *other != at && !self.nodes[*other].lost)
                .map(|(_, log)| log.copy()),
        };
        let disk = match (loss, copy, foreign) {
            (Loss::SetBack, Some(copy), _) => {
                self.nodes[at].set_back = true;
                restored(segment_bytes, &copy)
            }
            (Loss::Exchanged, _, Some(other)) => restored(segment_bytes, &other),
            (Loss::Exchanged, ..) => Log::of_another_cluster(segment_bytes, &mut self.rng),
            _ => Log::new(segment_bytes),
        };
        self.nodes[at].disk = Disk::Log(Box::new(disk));
    }

    /// Whether so many others would refuse this start that too few are left to witness it, even if
    /// one of them forgot.
    fn is_seen(&self, at: usize, start: Start, forgets: Option<usize>) -> bool {
        let members = Members::new(self.config.acceptors).expect("there is an acceptor");
        let name = self.nodes[at].name;
        let others = self.logs().filter(|(other, _)| *other != at);
        let unaware =
            others.filter(|(other, log)| Some(*other) == forgets || !refuses(log, name, start));
        unaware.count() + 1 < members.quorum()
    }

    fn log(&self, at: usize) -> Option<&Log> {
        match &self.nodes[at].disk {
            Disk::Log(log) => Some(log),
            _ => None,
        }
    }

    fn logs(&self) -> impl Iterator<Item = (usize, &Log)> {
        let acceptors = self.of_role(Role::Acceptor);
        acceptors.filter_map(|at| Some((at, self.log(at)?)))
    }

    fn some_acceptor(&mut self) -> usize {
        let all: Vec<usize> = self.of_role(Role::Acceptor).collect();
        self.rng.pick(&all).expect("there is an acceptor")
    }
}

/// Whether an acceptor with this disk knows of a later start. A run of 0 is one that nobody had.
fn refuses(log: &Log, node: NodeName, start: Start) -> bool {
    let known = log.roster().starts.get(&node).copied();
    known.is_some_and(|known| known != start && known.count >= start.count)
}

fn restored(segment_bytes: u64, copy: &super::log::Copy) -> Log {
    let mut log = Log::new(segment_bytes);
    log.restore(copy);
    log
}
