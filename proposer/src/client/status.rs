//! The state of every server, side by side.

use std::time::Duration;

use api::status::Status;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Context;
use super::args::Server;
use super::exit::{Failure, Verdict};

const COLUMNS: [(&str, usize); 8] = [
    ("address", 28),
    ("role", 9),
    ("node_id", 8),
    ("state", 12),
    ("leader_id", 10),
    ("term", 6),
    ("last_instance_id", 17),
    ("committed_instance_id", 0),
];

pub(super) async fn status(context: &Context) -> Result<Verdict, Failure> {
    let options = &context.options;
    let all = options.servers.iter().chain(&options.learners);
    let within = options.timeout;
    let states = join_all(all.map(|server| ask(context, server, within))).await;
    let rows = states.iter().map(|state| row(cells(state)));
    let head = row(COLUMNS.map(|(name, _)| name.to_owned()));
    let text: Vec<String> = [head].into_iter().chain(rows).collect();
    let answers = states.iter().filter(|state| state.get("error").is_none());
    let answers = answers.count();
    let has_leader = states
        .iter()
        .filter_map(read)
        .any(|status| status.is_leader());
    context
        .printer
        .print(&text.join("\n"), Json::Array(states))?;
    if has_leader {
        Ok(Verdict::Yes)
    } else {
        let detail = format!("{answers} servers answer, and none of them leads");
        Err(Failure::Unavailable(detail))
    }
}

/// What the server says, with its address; or `error`.
async fn ask(context: &Context, server: &Server, within: Duration) -> Json {
    let mut state = match context.http.get(server, "/status", within).await {
        Ok(answer) => match answer.json() {
            state if answer.status.is_success() && read(&state).is_some() => state,
            _ => json!({"error": answer.detail()}),
        },
        Err(error) => json!({"error": error.why}),
    };
    state["address"] = server.to_string().into();
    state
}

fn read(state: &Json) -> Option<Status> {
    Status::deserialize(state).ok()
}

/// In the order of [`COLUMNS`].
fn cells(state: &Json) -> [String; 8] {
    let text = |name: &str| state[name].as_str().unwrap_or("-").to_owned();
    let Some(status) = read(state) else {
        let mut cells = COLUMNS.map(|_| "-".to_owned());
        (cells[0], cells[1]) = (text("address"), text("error"));
        return cells;
    };
    let or_none = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
    [
        text("address"),
        status.role().to_string(),
        status.node().node_id.to_string(),
        status.state().to_owned(),
        or_none(status.leader_id().map(u64::from)),
        or_none(status.term()),
        status.last_instance_id().to_string(),
        status.committed_instance_id().to_string(),
    ]
}

fn row(cells: [String; 8]) -> String {
    let cells = COLUMNS.iter().zip(cells);
    let cells: Vec<String> = cells
        .map(|((_, width), cell)| format!("{cell:<width$}"))
        .collect();
    cells.join(" ").trim_end().to_owned()
}
