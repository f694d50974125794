//! The loops of a node, without their threads: what a proposer, an acceptor and a learner do when something
//! happens. Each is a state machine that takes an event and the time and names the actions that follow. It
//! owns no socket, thread, clock or dice, so the simulator runs what ships. The program's `driver` is the
//! shell around it: threads, sockets and disks.
//!
//! Times are durations since the process started.

pub mod acceptor;
pub mod learner;
pub mod newest;
pub mod pace;
pub mod proposer;
pub mod reach;
