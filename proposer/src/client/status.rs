//! The state of every server, side by side.

use std::time::Duration;

use futures::future::join_all;
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
    let rows = states.iter().map(|state| row(|name| cell(state, name)));
    let text: Vec<String> = [row(str::to_owned)].into_iter().chain(rows).collect();
    let answers = states.iter().filter(|state| state.get("error").is_none());
    let answers = answers.count();
    let has_leader = states.iter().any(|state| state["is_leader"] == true);
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
            state @ Json::Object(_) if answer.status.is_success() => state,
            _ => json!({"error": answer.detail()}),
        },
        Err(error) => json!({"error": error.why}),
    };
    state["address"] = server.to_string().into();
    state
}

fn cell(state: &Json, name: &str) -> String {
    match (&state[name], name, &state["error"]) {
        (Json::Null, "role", Json::String(error)) => error.clone(),
        (Json::Null, ..) => "-".to_owned(),
        (Json::String(text), ..) => text.clone(),
        (other, ..) => other.to_string(),
    }
}

fn row(cell: impl Fn(&str) -> String) -> String {
    let cells = COLUMNS.map(|(name, width)| format!("{:<width$}", cell(name)));
    cells.join(" ").trim_end().to_owned()
}
