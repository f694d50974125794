//! The protocol.
pub mod ids;
