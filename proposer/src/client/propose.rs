//! Writes: one request under one id, sent to one proposer after the other until its outcome is
//! known or the time is over.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value as Json, json};

use super::Context;
use super::args::{Cas, Data, Delete, Put, Request, Server};
use super::exit::{Failure, Verdict};
use super::http::{Answer, Http};
use super::read::is_passing;
use super::troubles::Troubles;
use super::who::{Misplaced, WRITERS, who};

/// With other proposers to ask, how long one may take: longer than an election.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// The longest that a proposer lets itself be asked to wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The pause before the next try, doubled with every round of all proposers up to the second.
const PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn put(context: &Context, put: Put) -> Result<Verdict, Failure> {
    let data = data(put.data)?;
    write(
        context,
        "WRITE",
        &put.resource,
        Some(data),
        (put.if_version, put.if_instance.if_instance),
        put.request,
    )
    .await
}

pub(super) async fn cas(context: &Context, cas: Cas) -> Result<Verdict, Failure> {
    let data = data(cas.data)?;
    write(
        context,
        "WRITE",
        &cas.resource,
        Some(data),
        (Some(cas.version), cas.if_instance.if_instance),
        cas.request,
    )
    .await
}

pub(super) async fn delete(context: &Context, delete: Delete) -> Result<Verdict, Failure> {
    let Delete {
        resource,
        if_version,
        if_instance,
        request,
    } = delete;
    let conditions = (if_version, if_instance.if_instance);
    write(context, "DELETE", &resource, None, conditions, request).await
}

/// What to write, as the JSON text that it was given as.
fn data(Data { data, string }: Data) -> Result<Box<RawValue>, Failure> {
    let given = if data == "-" {
        let mut given = String::new();
        let read = std::io::stdin().read_to_string(&mut given);
        read.map_err(|error| Failure::Refused(format!("standard input: {error}")))?;
        given
    } else {
        data
    };
    let parsed = match string {
        true => to_raw_value(&given),
        false => serde_json::from_str(&given),
    };
    parsed.map_err(|error| {
        let hint =
            "JSON is expected, as '{\"a\":1}' or '\"text\"'; with --string any text is taken";
        Failure::Refused(format!("the data is no JSON ({error}): {hint}"))
    })
}

async fn write(
    context: &Context,
    operation: &str,
    resource: &str,
    data: Option<Box<RawValue>>,
    conditions: Conditions,
    request: Request,
) -> Result<Verdict, Failure> {
    let name = match request.sequence {
        Some(sequence) => Name::Sequence(sequence),
        None => Name::Id(request.request_id.unwrap_or_else(request_id)),
    };
    let client_id = context.options.client_id.clone();
    let body = body(
        &client_id.unwrap_or_else(|| name.client_id()),
        &name,
        operation,
        resource,
        data.as_deref(),
        conditions,
    );
    let servers = &context.options.servers;
    let mut at = rand::rng().random_range(0..servers.len());
    let answer = propose(&context.http, servers, &mut at, &body, context.deadline())
        .await
        .map_err(|failure| match failure {
            Failure::Unknown(why) => Failure::Unknown(format!(
                "{why}; to find out, repeat it with {}",
                name.option()
            )),
            other => other,
        })?;
    let status = answer["status"].as_str().unwrap_or_default().to_owned();
    let mut text = format!(
        "{status} version={} instance={}",
        answer["version"], answer["instanceId"]
    );
    // For the next try of a client that compares instances; to the others it says nothing.
    if let (_, Some(_)) = conditions
        && let Some(last) = answer["resourceInstanceId"].as_u64()
    {
        text.push_str(&format!(" resource-instance={last}"));
    }
    let mut answer = answer;
    name.show(&mut answer);
    context.printer.print(&text, answer)?;
    Ok(match status.as_str() {
        "COMMITTED" => Verdict::Yes,
        _ => Verdict::No,
    })
}

/// `ifVersion` and `ifInstance`.
type Conditions = (Option<u64>, Option<u64>);

/// How clients are called that have no name.
pub(super) const CLIENT: &str = "cli";

/// What names a request among its client's.
pub(super) enum Name {
    Id(String),
    Sequence(u64),
}

impl Name {
    fn show(&self, json: &mut Json) {
        match self {
            Name::Id(id) => json["requestId"] = id.as_str().into(),
            Name::Sequence(sequence) => json["sequence"] = (*sequence).into(),
        }
    }

    /// Of a user who gives none. Timestamps of one clientId are compared, and the machines on which
    /// somebody uses this program do not share one clock.
    fn client_id(&self) -> String {
        match self {
            Name::Id(id) => format!("{CLIENT}-{id}"),
            Name::Sequence(_) => CLIENT.to_owned(),
        }
    }

    fn option(&self) -> String {
        match self {
            Name::Id(id) => format!("--request-id {id}"),
            Name::Sequence(sequence) => format!("--sequence {sequence}"),
        }
    }
}

/// A request id that nobody else has.
pub(super) fn request_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// A request as `POST /propose` takes it.
pub(super) fn body(
    client_id: &str,
    name: &Name,
    operation: &str,
    resource: &str,
    data: Option<&RawValue>,
    (if_version, if_instance): Conditions,
) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut body = json!({
        "clientId": client_id,
        "timestamp": now.map_or(0, |now| now.as_millis() as u64),
        "operation": operation,
        "resource": resource,
    });
    name.show(&mut body);
    if let Some(version) = if_version {
        body["ifVersion"] = version.into();
    }
    if let Some(instance) = if_instance {
        body["ifInstance"] = instance.into();
    }
    // The data goes in as it was given: through a value, numbers would lose digits.
    let mut text = body.to_string();
    if let Some(data) = data {
        text.pop();
        text.push_str(",\"data\":");
        text.push_str(data.get());
        text.push('}');
    }
    text.into()
}

/// Proposes to `servers[at]` and on to the others until one knows the outcome. `at` is left at the
/// one that did.
pub(super) async fn propose(
    http: &Http,
    servers: &[Server],
    at: &mut usize,
    body: &Bytes,
    deadline: Instant,
) -> Result<Json, Failure> {
    let mut may_have_effect = false;
    let mut troubles = Troubles::default();
    let mut pause = PAUSE;
    for round in 1.. {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if let Some(failure) = troubles.all_misplaced(servers.len(), "CLUSTER_SYNC_SERVERS") {
            return Err(failure);
        }
        if troubles.is_misplaced(*at) {
            *at = (*at + 1) % servers.len();
            continue;
        }
        let server = &servers[*at];
        let within = left.min(if servers.len() > 1 {
            TRY_WITHIN
        } else {
            MAX_WAIT
        });
        // The proposer speaks first: it knows more than that there was no answer.
        let wait_ms = (within.as_millis() * 9 / 10).max(1);
        let path = format!("/propose?wait=true&timeoutMs={wait_ms}");
        let trouble = match http
            .call(Method::POST, server, &path, body.clone(), within)
            .await
        {
            Ok(answer) => match answer.status {
                StatusCode::OK => match outcome(&answer) {
                    Ok(outcome) => return Ok(outcome),
                    // Whatever is at that address or before it may have passed the request on.
                    Err(why) => {
                        may_have_effect = true;
                        why
                    }
                },
                StatusCode::SERVICE_UNAVAILABLE => answer.detail(),
                status if is_passing(status) => answer.detail(),
                // No proposer answers in this way.
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                    let who = who(http, server, left.min(TRY_WITHIN)).await;
                    match Misplaced::new(server, &who, WRITERS, &answer) {
                        Some(misplaced) => {
                            troubles.misplaced(*at, misplaced);
                            continue;
                        }
                        None => answer.detail(),
                    }
                }
                status if status.is_client_error() => {
                    let why = format!("{server}: {}", answer.detail());
                    // This try had no effect, which says nothing of those before it.
                    return Err(match may_have_effect {
                        true => Failure::Unknown(format!(
                            "{why}; an earlier try may have had an effect"
                        )),
                        false => Failure::Refused(why),
                    });
                }
                _ => {
                    may_have_effect = true;
                    answer.detail()
                }
            },
            Err(error) => {
                may_have_effect |= error.sent;
                error.why
            }
        };
        troubles.failed(*at, server, &trouble);
        *at = (*at + 1) % servers.len();
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
        if round % servers.len() == 0 {
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
    Err(match may_have_effect {
        true => Failure::Unknown(troubles.to_string()),
        false => Failure::Unavailable(troubles.to_string()),
    })
}

/// The outcome in a proposer's answer; anything else is an error.
fn outcome(answer: &Answer) -> Result<Json, String> {
    let outcome: Json = answer.parse()?;
    match outcome["status"].as_str() {
        Some("COMMITTED" | "NOT_COMMITTED") => Ok(outcome),
        _ => Err("it answered 200 OK without an outcome, as no proposer does".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_reaches_the_server_as_it_was_given() {
        for text in ["1.000000000000000000001", "null", r#"{"b":1,"a":[]}"#] {
            let given = Data {
                data: text.to_owned(),
                string: false,
            };
            let data = data(given).unwrap();
            let name = Name::Sequence(7);
            let body = body("c", &name, "WRITE", "x", Some(&data), (Some(0), Some(3)));
            let sent: crate::wire::ProposeBody<'_> = serde_json::from_slice(&body).unwrap();
            assert_eq!(sent.data.map(RawValue::get), Some(text));
            assert_eq!((sent.if_version, sent.if_instance), (Some(0), Some(3)));
            assert_eq!((sent.sequence, &sent.request_id), (Some(7), &None));
            assert!(sent.to_value().is_ok());
        }
    }

    #[test]
    fn text_that_is_no_json_needs_the_flag_that_says_so() {
        let given = |string| Data {
            data: "say \"hi\"".to_owned(),
            string,
        };
        assert_eq!(data(given(true)).unwrap().get(), r#""say \"hi\"""#);
        let Failure::Refused(why) = data(given(false)).unwrap_err() else {
            panic!("a usage error");
        };
        assert!(why.contains("--string"), "{why}");
    }
}
