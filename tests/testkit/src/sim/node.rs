//! One process, its disk, and what strikes it next.

use std::cell::RefCell;
use std::rc::Rc;

use paxos::acceptor::Room;
use paxos::codec::NodeName;
use paxos::roll_call::RollCall;

use super::clock::Clock;
use super::disk::{BadWrite, Claims};
use super::lists::Belongs;
use super::log::{Copy, Log};
use super::proposer::Desk;
use super::replica::{Replica, Shelf};
use super::voter::Voter;
use super::wire::Dialect;

/// A node: at most one process at a time, on one disk.
#[derive(Debug)]
pub(super) struct Node {
    /// Role and number.
    pub(super) name: NodeName,
    /// How often it was started before.
    pub(super) life: u32,
    /// It does nothing until then.
    pub(super) paused_until: u64,
    /// The next write goes wrong.
    pub(super) bad_write: Option<BadWrite>,
    /// Its clock.
    pub(super) clock: Clock,
    /// Its disk takes this many times longer than others.
    pub(super) slow: u64,
    /// How full its disk is.
    pub(super) room: Room,
    /// Which version of the encoding its program speaks.
    pub(super) dialect: Dialect,
    /// How many acceptors its list names.
    pub(super) list: u8,
    /// What a proposer or a learner has heard of the acceptors in this life.
    pub(super) call: Option<RollCall>,
    /// And what it knew of its cluster before.
    pub(super) belongs: Option<Belongs>,
    /// Whether its program writes down how many founded the cluster.
    pub(super) counts: bool,
    /// Only the newest election timer counts.
    pub(super) election_timer: u64,
    /// It is not the node's own disk any more: an acceptor must never vote again.
    pub(super) lost: bool,
    /// It is an older copy of it.
    pub(super) set_back: bool,
    /// It never starts again.
    pub(super) gone: bool,
    /// An older state of an acceptor's disk.
    pub(super) copy: Option<Copy>,
    /// The state at the moment when those of all were kept.
    pub(super) early: Option<Copy>,
    /// What runs.
    pub(super) process: Process,
    /// What it keeps.
    pub(super) disk: Disk,
}

/// The process, if one runs.
#[derive(Debug)]
pub(super) enum Process {
    /// None runs.
    Down,
    /// A proposer.
    Proposer(Box<Desk>),
    /// An acceptor.
    Acceptor(Box<Voter>),
    /// A learner and what it has applied.
    Learner(Box<Replica>),
}

/// A node, by number, and how often it was started before.
pub(super) type Life = (usize, u32);

/// Who waits for an answer, and to which of its calls. An answer never reaches another life, as it comes
/// back on the connection of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) life: Life,
    pub(super) call: u64,
}

/// What a node keeps when its process ends.
#[derive(Debug)]
pub(super) enum Disk {
    /// A proposer's, which its process uses while it runs.
    Claims(Rc<RefCell<Claims>>),
    /// An acceptor's.
    Log(Box<Log>),
    /// A learner's.
    Shelf(Shelf),
}
