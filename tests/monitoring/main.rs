//! What people see of clusters: metrics, alerts and dashboards, each against the others and against a
//! real run; rules and names judged by Prometheus' own tools.

mod alerts;
mod dashboards;
mod metrics;

use std::collections::BTreeSet;
use std::fs;

use testkit::tools::root;

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The metrics that a text names. A histogram's parts are parts of it.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c));
    words
        .filter(|word| word.starts_with("paxos_") || word.starts_with("process_"))
        // A label, which monitors add.
        .filter(|word| *word != "paxos_cluster")
        .map(|word| {
            let parts = ["_bucket", "_sum", "_count"];
            let whole = parts.iter().find_map(|part| word.strip_suffix(part));
            whole.unwrap_or(word).to_owned()
        })
        .collect()
}
