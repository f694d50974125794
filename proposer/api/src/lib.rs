//! What crosses a process boundary, once: a node's environment, what it says of itself, and how it says
//! that something is wrong. Nodes write it; the operator, other nodes, clients and tests read it with the
//! very same types.
//!
//! A reader takes what it does not know from a newer writer: fields are ignored, words become
//! `Unknown`. A writer adds fields and words, and takes none away.

pub mod env;
pub mod problem;
pub mod status;
