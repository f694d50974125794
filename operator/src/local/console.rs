//! What `local` shows: a table that is redrawn each second on a terminal, elsewhere a line for what
//! changed.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::status::Status;
use node::connect;
use tokio::time::timeout;

use super::Node;
use crate::ask::ANSWER_MAX_BYTES;

/// How long a node may take to say how it stands.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// Lines that stay below the table.
const LINES: usize = 8;

/// Standard output. Clones are the same.
#[derive(Clone)]
pub(super) struct Console {
    table: bool,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Console {
    pub(super) fn new() -> Console {
        Console {
            table: std::io::stdout().is_terminal(),
            lines: Arc::default(),
        }
    }

    /// A line for people. Below a table it stays until newer ones take its place.
    pub(super) fn say(&self, line: &str) {
        if !self.table {
            println!("{line}");
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// How the nodes stand. `shown` is what was shown before.
    pub(super) fn show(&self, nodes: &[Node], states: &[Option<Status>], shown: &mut String) {
        let text = summary(nodes, states);
        if self.table {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            print!("{}", table(&text, nodes, states, &lines));
            let _ = std::io::stdout().flush();
        } else if *shown != text {
            println!("{text}");
            *shown = text;
        }
    }
}

pub(super) async fn ask(node: &Node) -> Option<Status> {
    let asked = async {
        let address = ("127.0.0.1", node.config.port);
        let answer = connect::get(address, "localhost", "/status", ANSWER_MAX_BYTES).await;
        serde_json::from_slice(answer.ok()?.body()).ok()
    };
    timeout(STATUS_TIMEOUT, asked).await.ok().flatten()
}

fn summary(nodes: &[Node], states: &[Option<Status>]) -> String {
    let leader = nodes.iter().zip(states).find_map(|(node, state)| {
        state
            .as_ref()
            .filter(|state| state.is_leader())
            .map(|state| (node, state))
    });
    let ready = states.iter().flatten();
    let ready = ready.filter(|state| state.node().ready).count();
    match leader {
        Some((node, state)) => format!(
            "{ready}/{} ready, {} leads in term {}",
            nodes.len(),
            node.pod,
            state.term().unwrap_or(0)
        ),
        None => format!("{ready}/{} ready, no leader", nodes.len()),
    }
}

fn table(
    summary: &str,
    nodes: &[Node],
    states: &[Option<Status>],
    lines: &VecDeque<String>,
) -> String {
    // Writing to a string cannot fail.
    let mut drawn = String::from("\x1b[2J\x1b[H");
    let _ = writeln!(drawn, "{summary}   (Ctrl-C stops)\n");
    let _ = writeln!(
        drawn,
        "{:<10} {:>3} {:>6}  {:<9} {:<7} {:>12}",
        "ROLE", "ID", "PORT", "HEALTH", "LEADER", "COMMITTED"
    );
    for (node, state) in nodes.iter().zip(states) {
        let health = match state {
            None => "down",
            Some(state) if state.node().ready => "ready",
            Some(_) => "not ready",
        };
        let _ = writeln!(
            drawn,
            "{:<10} {:>3} {:>6}  {:<9} {:<7} {:>12}",
            node.config.role.name(),
            node.config.node_id.number(),
            node.config.port,
            health,
            if state.as_ref().is_some_and(Status::is_leader) {
                "leads"
            } else {
                ""
            },
            state.as_ref().map_or(0, Status::committed_instance_id)
        );
    }
    if !lines.is_empty() {
        drawn.push('\n');
    }
    for line in lines {
        let _ = writeln!(drawn, "{line}");
    }
    drawn
}
