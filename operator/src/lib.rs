//! The operator of Cluster Sync.

pub mod cluster;
pub mod config;
pub mod crd;
pub mod desired;
pub mod names;
pub mod quantity;

pub use desired::render;
