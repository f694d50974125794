//! The Cluster Sync node.
pub mod breaker;
pub mod config;
pub mod media;
pub mod paxos;
pub mod peers;
pub mod problem;
pub mod serve;
pub mod wal;
