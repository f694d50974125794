//! Reads of one resource.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::sleep_until;

use super::Context;
use super::args::{Consistency, Get, Server};
use super::exit::{Failure, Verdict};
use super::http::{Answer, Http, NoAnswer};
use super::troubles::Troubles;
use super::who::{Misplaced, READERS, Who, who};

/// With other learners to ask, how long one may take.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// After so long without an answer the next one is asked as well, and the first answer counts: a read has
/// no effect, so one that was in vain costs little.
const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// Before one that failed is asked again.
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
struct Resource<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// A name as a part of a URL.
pub(super) fn escape(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

pub(super) async fn get(context: &Context, get: &Get) -> Result<Verdict, Failure> {
    if get.resource.is_empty() {
        return Err(Failure::Refused("a resource has a name".to_owned()));
    }
    let consistency = match get.consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Local => "local",
    };
    let name = escape(&get.resource);
    let path = format!("/resource/{name}?consistency={consistency}");
    let learners = &context.options.learners;
    let answer = ask(&context.http, learners, &path, context.deadline()).await?;
    match answer {
        Found::Present(answer) => {
            let found: Resource<'_> = answer.parse().map_err(Failure::Unavailable)?;
            context.printer.print(found.data.get(), answer.text())?;
            Ok(Verdict::Yes)
        }
        Found::Absent(why) => {
            eprintln!("{why}");
            Ok(Verdict::No)
        }
    }
}

/// What a learner or store says of a resource.
enum Found {
    Present(Answer),
    /// With the server's words.
    Absent(String),
}

/// Asks one server after the other, the next one when there is no answer soon, until one knows.
async fn ask(
    http: &Http,
    servers: &[Server],
    path: &str,
    deadline: Instant,
) -> Result<Found, Failure> {
    let mut troubles = Troubles::default();
    // When each may be asked; `None` while it is.
    let mut free: Vec<Option<Instant>> = vec![Some(Instant::now()); servers.len()];
    let mut next_at = Instant::now();
    let mut asked = FuturesUnordered::new();
    loop {
        if let Some(failure) = troubles.all_misplaced(servers.len(), "CLUSTER_SYNC_LEARNERS") {
            return Err(failure);
        }
        let useful = (0..servers.len()).filter(|at| !troubles.is_misplaced(*at));
        let next = useful.filter_map(|at| Some((free[at]?, at))).min();
        let start_at = next.map_or(deadline, |(free_at, _)| free_at.max(next_at).min(deadline));
        tokio::select! {
            Some((at, result)) = asked.next() => {
                free[at] = Some(Instant::now() + PAUSE);
                next_at = Instant::now();
                match result {
                    Outcome::Found(found) => return Ok(found),
                    Outcome::Refused(why) => return Err(Failure::Refused(why)),
                    Outcome::Misplaced(misplaced) => troubles.misplaced(at, misplaced),
                    Outcome::Failed(why) => troubles.failed(at, &servers[at], &why),
                }
            }
            () = sleep_until(start_at.into()) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    for (server, at) in servers.iter().zip(0..) {
                        if free[at].is_none() {
                            troubles.failed(at, server, "no answer in time");
                        }
                    }
                    return Err(Failure::Unavailable(troubles.to_string()));
                }
                let Some((_, at)) = next else { continue };
                free[at] = None;
                next_at = Instant::now() + HEDGE_AFTER;
                let within = if servers.len() > 1 { left.min(TRY_WITHIN) } else { left };
                let server = &servers[at];
                asked.push(async move { (at, try_one(http, server, path, within).await) });
            }
        }
    }
}

enum Outcome {
    Found(Found),
    /// It is the request that is wrong.
    Refused(String),
    Misplaced(Misplaced),
    Failed(String),
}

async fn try_one(http: &Http, server: &Server, path: &str, within: Duration) -> Outcome {
    let answer = match http.get(server, path, within).await {
        Ok(answer) => answer,
        Err(NoAnswer { why, .. }) => return Outcome::Failed(why),
    };
    match answer.status {
        StatusCode::OK => match answer.parse::<Resource<'_>>() {
            Ok(_) => Outcome::Found(Found::Present(answer)),
            Err(why) => {
                let who = who(http, server, within).await;
                let misplaced = Misplaced::new(server, &who, READERS, &answer);
                misplaced.map_or(Outcome::Failed(why), Outcome::Misplaced)
            }
        },
        status if status.is_client_error() => {
            let who = who(http, server, within).await;
            if let Some(misplaced) = Misplaced::new(server, &who, READERS, &answer) {
                return Outcome::Misplaced(misplaced);
            }
            match who {
                Who::Silent(why) => Outcome::Failed(why),
                _ if status == StatusCode::NOT_FOUND => {
                    Outcome::Found(Found::Absent(answer.detail()))
                }
                _ if is_passing(status) => Outcome::Failed(answer.detail()),
                _ => Outcome::Refused(format!("{server}: {}", answer.detail())),
            }
        }
        _ => Outcome::Failed(answer.detail()),
    }
}

/// Whether a refusal of this kind may not be repeated with the next try: too slow, too many.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    )
}
