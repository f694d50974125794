//! The Cluster Sync node.
pub mod config;
pub mod paxos;
