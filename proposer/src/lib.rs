//! The Cluster Sync node.
pub mod config;
pub mod media;
pub mod paxos;
pub mod wal;
