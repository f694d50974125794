//! The Cluster Sync operator.
