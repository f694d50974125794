//! Reads of one resource.

use std::time::{Duration, Instant};

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Context;
use super::args::{Consistency, Get};
use super::exit::{Failure, Verdict};

/// With other learners to ask, how long one may take.
const TRY_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// What needs no escape in a path or a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The part of an answer that is printed as text; as it was written, since a parsed number may lose
/// digits.
#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// A name as a part of a URL.
pub(super) fn escape(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

pub(super) async fn get(context: &Context, get: &Get) -> Result<Verdict, Failure> {
    let consistency = match get.consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Local => "local",
    };
    let name = escape(&get.resource);
    let path = format!("/resource/{name}?consistency={consistency}");
    let deadline = context.deadline();
    let learners = &context.options.learners;
    let mut last = String::new();
    for learner in learners.iter().cycle() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let within = if learners.len() > 1 {
            left.min(TRY_WITHIN)
        } else {
            left
        };
        match context.http.get(learner, &path, within).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let found: Found<'_> = answer.parse()?;
                context.printer.print(found.data.get(), answer.text())?;
                return Ok(Verdict::Yes);
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                eprintln!("{}", answer.detail());
                return Ok(Verdict::No);
            }
            Ok(answer) if answer.status.is_client_error() => {
                return Err(Failure::Refused(answer.detail()));
            }
            Ok(answer) => last = format!("{learner}: {}", answer.detail()),
            Err(error) => last = format!("{learner}: {}", error.why),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(PAUSE.min(left)).await;
    }
    Err(Failure::Unavailable(last))
}
