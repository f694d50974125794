//! The protocol: Multi-Paxos with its roles in separate processes, and the state machine it feeds.
//!
//! Everything in this crate is pure: no clock, no disk, no network, no threads, no randomness and no
//! hashing order that decides anything. Time reaches it as an input (`Tick`, `ElectionTimeout`), so that
//! the processes, the simulator and the model checker drive the same code.
//!
//! ```text
//!            elect                                   a write
//!  candidate      acceptors            client   leader       acceptors   learners
//!      |-- Probe ---->|                  |-propose->|              |          |
//!      |<-- Probed ---|                  |          |--- Accept -->| (disk)   |
//!  (claim, disk)      |                  |          |<- Accepted --|          |
//!      |-- Prepare -->| (disk)           |     quorum: chosen      |          |
//!      |<-- Promise --|                  |          |----------- Learn ------>| apply
//!  quorum: leader     |                  |<-outcome-|<---- applied, outcomes -|
//! ```
//!
//! Why it is safe, in one paragraph. A value is chosen in a slot when a quorum of acceptors has
//! voted for it at one ballot. A ballot belongs to one proposer, which uses it once, for one value
//! per slot. Before it uses it, a quorum has promised to vote at no lower ballot and has reported
//! its votes; the proposer takes the reported value of the highest ballot. So once a value is
//! chosen, every higher ballot carries that same value: two quorums always share an acceptor.

pub mod acceptor;
pub mod audit;
pub mod codec;
pub mod command;
mod digest;
pub mod digests;
pub mod ids;
pub mod in_memory;
pub mod kept;
pub mod learner;
mod limits;
pub mod machine;
pub mod message;
pub mod outcome;
pub mod output;
pub mod proposer;
pub mod quorum;
pub mod recall;
pub mod recent;
mod record;
mod resources;
pub mod roll_call;
mod roster;
pub mod rows;
pub mod sessions;
pub mod snapshot;
pub mod stamp;
pub mod standing;
pub mod telling;
mod value;
pub mod verify;
pub mod votes;
