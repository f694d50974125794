//! Streams of a learner: the log, and changes of resources. When one breaks off, the next learner
//! continues with the instance after the last one printed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use paxos::ids::Role;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Context;
use super::args::{Log, Server, Watch};
use super::exit::{Failure, Verdict};
use super::http::Answer;
use super::read::{escape, is_passing};
use super::sse::Events;
use super::troubles::Troubles;
use super::who::{Misplaced, Who, who};
use crate::wire::present;

/// A stream that is silent for this long is opened again: its learner may be gone without a word.
const SILENCE: Duration = Duration::from_secs(60);
/// With other learners to follow, how long one may take to begin.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// A learner that served for so long is the first to be asked again when its stream ends.
const SERVED: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// The longest error answer read.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// What one line or event says.
struct Item {
    instance: u64,
    /// As text and as JSON; nothing to print when the server only says how far it has looked.
    prints: Option<(String, String)>,
}

/// A form in which items come, line by line; a new one for each connection.
trait Feed: Default {
    /// Its content type.
    const MEDIA_TYPE: &str;

    fn line(&mut self, line: &str) -> Result<Option<Item>, serde_json::Error>;
}

#[derive(Default)]
struct LogFeed;

#[derive(Default)]
struct WatchFeed(Events);

/// The fields that are printed as text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    instance_id: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    resource: String,
    version: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// `what`, the resource, its version and data, as far as there are any.
    fn text(&self, what: &str) -> String {
        let mut text = format!("{} {what}", self.instance_id);
        if !self.resource.is_empty() {
            text.push_str(&format!(" {:?}", self.resource));
        }
        if let Some(version) = self.version {
            text.push_str(&format!(" version={version}"));
        }
        if let Some(data) = self.data {
            text.push_str(&format!(" {}", data.get()));
        }
        text
    }
}

impl Feed for LogFeed {
    const MEDIA_TYPE: &str = "application/x-ndjson";

    fn line(&mut self, line: &str) -> Result<Option<Item>, serde_json::Error> {
        if line.is_empty() {
            return Ok(None);
        }
        let fields: Fields<'_> = serde_json::from_str(line)?;
        Ok(Some(Item {
            instance: fields.instance_id,
            prints: Some((
                fields.text(&format!("{} {}", fields.status, fields.operation)),
                line.to_owned(),
            )),
        }))
    }
}

impl Feed for WatchFeed {
    const MEDIA_TYPE: &str = "text/event-stream";

    fn line(&mut self, line: &str) -> Result<Option<Item>, serde_json::Error> {
        let Some(event) = self.0.line(line) else {
            return Ok(None);
        };
        if event.data.is_empty() {
            let instance = event.id.parse().ok();
            return Ok(instance.map(|instance| Item {
                instance,
                prints: None,
            }));
        }
        let fields: Fields<'_> = serde_json::from_str(&event.data)?;
        let rest = event.data.trim_start().trim_start_matches('{');
        Ok(Some(Item {
            instance: event.id.parse().unwrap_or(fields.instance_id),
            prints: Some((
                fields.text(&event.kind),
                format!("{{\"event\":{:?},{rest}", event.kind),
            )),
        }))
    }
}

pub(super) async fn log(context: &Context, log: &Log) -> Result<Verdict, Failure> {
    let follow = !log.no_follow;
    let path = |from: Option<u64>| format!("/log?follow={follow}{}", parameter(from));
    follow_from::<LogFeed>(context, Some(log.from), path, log.limit, follow).await
}

pub(super) async fn watch(context: &Context, watch: &Watch) -> Result<Verdict, Failure> {
    let prefix = escape(&watch.prefix);
    let path = |from: Option<u64>| format!("/watch?prefix={prefix}{}", parameter(from));
    follow_from::<WatchFeed>(context, watch.from, path, watch.limit, true).await
}

fn parameter(from: Option<u64>) -> String {
    from.map_or_else(String::new, |from| format!("&from={from}"))
}

/// How far a command has come.
struct Progress {
    /// `None`: where the learner is, which says so at once.
    next: Option<u64>,
    left: Option<u64>,
    /// When a learner was last of use.
    good_at: Instant,
}

async fn follow_from<F: Feed>(
    context: &Context,
    from: Option<u64>,
    path: impl Fn(Option<u64>) -> String,
    limit: Option<u64>,
    follow: bool,
) -> Result<Verdict, Failure> {
    let mut progress = Progress {
        next: from,
        left: limit,
        good_at: Instant::now(),
    };
    let learners = &context.options.learners;
    let mut troubles = Troubles::default();
    let mut at = 0;
    loop {
        if let Some(failure) = troubles.all_misplaced(learners.len(), "CLUSTER_SYNC_LEARNERS") {
            return Err(failure);
        }
        if troubles.is_misplaced(at) {
            at = (at + 1) % learners.len();
            continue;
        }
        let learner = &learners[at];
        let path = path(progress.next);
        let (opened_at, was_good_at) = (Instant::now(), progress.good_at);
        match stream::<F>(context, learner, &path, &mut progress).await? {
            End::Enough => break,
            End::Complete if !follow => break,
            End::Complete => {}
            End::Misplaced(misplaced) => troubles.misplaced(at, misplaced),
            End::Broken(why) => {
                troubles.failed(at, learner, &why);
                if progress.good_at.elapsed() >= context.options.timeout {
                    return Err(Failure::Unavailable(troubles.to_string()));
                }
            }
        }
        // One that has served for a while is likely to do so again, sooner than one that hangs.
        let served = progress.good_at > was_good_at && opened_at.elapsed() >= SERVED;
        if !served {
            at = (at + 1) % learners.len();
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Verdict::Yes)
}

/// How a stream ended that is no failure of the command.
enum End {
    /// As many items as were wanted.
    Enough,
    /// The server ended it.
    Complete,
    /// It broke off, or could not be opened.
    Broken(String),
    /// What is there has no such stream.
    Misplaced(Misplaced),
}

async fn stream<F: Feed>(
    context: &Context,
    learner: &Server,
    path: &str,
    progress: &mut Progress,
) -> Result<End, Failure> {
    if progress.left == Some(0) {
        return Ok(End::Enough);
    }
    let http = &context.http;
    let open = http.open(Method::GET, learner, path, Bytes::new());
    let within = match context.options.learners.len() {
        1 => context.options.timeout,
        _ => context.options.timeout.min(OPEN_WITHIN),
    };
    let response = match tokio::time::timeout(within, open).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Ok(End::Broken(error.why)),
        Err(_) => return Ok(End::Broken(format!("no answer within {within:?}"))),
    };
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        let problem = Limited::new(body, MAX_PROBLEM_BYTES).collect().await;
        let body = problem.map(http_body_util::Collected::to_bytes);
        let answer = Answer::new(head.status, body.unwrap_or_default());
        return no_stream(context, learner, &answer, within).await;
    }
    let media_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !media_type.is_some_and(|given| given.starts_with(F::MEDIA_TYPE.as_bytes())) {
        let answer = Answer::new(head.status, Bytes::new());
        return no_stream(context, learner, &answer, within).await;
    }
    progress.good_at = Instant::now();
    let mut feed = F::default();
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(End::Complete),
            Ok(Some(Err(error))) => return Ok(End::Broken(error.to_string())),
            Err(_) => return Ok(End::Broken("silent for too long".to_owned())),
        };
        progress.good_at = Instant::now();
        let mut data: &[u8] = frame.data_ref().map_or(b"", |data| data);
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            pending.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            let item = feed.line(&String::from_utf8_lossy(&pending));
            pending.clear();
            let item = item.map_err(|error| {
                Failure::Unavailable(format!("{learner} sends what is not understood: {error}"))
            })?;
            let Some(item) = item else { continue };
            progress.next = Some(item.instance + 1);
            let Some((text, json)) = item.prints else {
                continue;
            };
            context.printer.print(&text, json)?;
            if let Some(left) = &mut progress.left {
                *left -= 1;
                if *left == 0 {
                    return Ok(End::Enough);
                }
            }
        }
        pending.extend_from_slice(data);
    }
}

/// What an answer means that is no stream.
async fn no_stream(
    context: &Context,
    learner: &Server,
    answer: &Answer,
    within: Duration,
) -> Result<End, Failure> {
    let status = answer.status;
    if status.is_server_error() || is_passing(status) {
        return Ok(End::Broken(answer.detail()));
    }
    let who = who(&context.http, learner, within).await;
    // A store has no streams.
    if let Some(misplaced) = Misplaced::new(learner, &who, &[Role::Learner], answer) {
        return Ok(End::Misplaced(misplaced));
    }
    let why = format!("{learner}: {}", answer.detail());
    match who {
        Who::Silent(why) => Ok(End::Broken(why)),
        _ if status == StatusCode::GONE => Err(Failure::Gone(why)),
        _ if status.is_client_error() => Err(Failure::Refused(why)),
        _ => Ok(End::Broken(answer.detail())),
    }
}
