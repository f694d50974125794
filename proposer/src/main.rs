//! The node's entry point.
fn main() {}
