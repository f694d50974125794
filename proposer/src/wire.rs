//! The JSON that clients and the readable forms of the protocol speak. The one place for the names
//! of its fields.

pub(crate) mod admit;
pub mod answers;
pub mod json;
pub(crate) mod number;
mod outcome;

use std::borrow::Cow;

use paxos::codec::Entry;
use paxos::command::{Command, MAX_ID_CHARS, MAX_RESOURCE_CHARS, MAX_SEQUENCE, Operation};
use paxos::ids::{Ballot, NodeId, Slot};
use paxos::machine::{Outcome, Page, Resource};
use paxos::message::{Heartbeat, Value};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use outcome::refused_as;
pub use outcome::{
    FULL_DETAIL, NO_LEADER_DETAIL, NO_ROOM_DETAIL, NOT_PROPOSED_DETAIL, NOT_READ_DETAIL,
    OutcomeView, REUSED_DETAIL, UNKNOWN_DETAIL, refusal,
};

/// A client's request, as in `POST /propose`. Unknown fields are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = Request)]
#[serde(
    rename_all = "camelCase",
    expecting = "an object with clientId, timestamp, operation, resource and data"
)]
pub struct ProposeBody<'a> {
    /// Who asks.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 256)]
    pub client_id: Cow<'a, str>,
    /// Milliseconds since 1970 by the client's clock.
    #[serde(deserialize_with = "number::milliseconds")]
    #[schema(value_type = f64, minimum = 0, maximum = 18446744073709551615usize)]
    pub timestamp: u64,
    /// `WRITE`, `DELETE` or `READ`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub operation: Cow<'a, str>,
    /// On what.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    pub resource: Cow<'a, str>,
    /// Any JSON; needed by WRITE alone.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub data: Option<&'a RawValue>,
    /// Names the request among the client's own.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    pub request_id: Option<Cow<'a, str>>,
    /// Compare and set; 0: there must be no such resource.
    #[serde(default, deserialize_with = "number::whole_or_null")]
    #[schema(maximum = 18446744073709551615usize)]
    pub if_version: Option<u64>,
    /// The `instanceId` that last wrote the resource; 0: there must be no such resource. Unlike a
    /// version, no instance comes twice. With `ifVersion` both must hold.
    #[serde(default, deserialize_with = "number::whole_or_null")]
    #[schema(maximum = 18446744073709551615usize)]
    pub if_instance: Option<u64>,
    /// Numbers the client's requests, growing within its `clientId`, and names this one. At most 4,096
    /// may be under way.
    #[serde(default, deserialize_with = "number::whole_or_null")]
    #[schema(maximum = 9007199254740991usize)]
    pub sequence: Option<u64>,
}

/// `null` is data like any other JSON, and not the same as no data.
pub(crate) fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Its name.
    pub field: &'static str,
    /// What it may be.
    pub expected: String,
}

impl ProposeBody<'_> {
    /// The value that says this.
    pub fn to_value(&self) -> Result<Value, BadField> {
        let bad = |field, expected: &str| {
            Err(BadField {
                field,
                expected: expected.to_owned(),
            })
        };
        let Some(operation) = Operation::parse(&self.operation) else {
            return bad("operation", "must be WRITE, DELETE or READ");
        };
        if !has_chars(&self.client_id, MAX_ID_CHARS) {
            return bad("clientId", "must have 1 to 256 characters");
        }
        if !has_chars(&self.resource, MAX_RESOURCE_CHARS) {
            return bad("resource", "must have 1 to 1024 characters");
        }
        let request_id = self.request_id.as_ref();
        if request_id.is_some_and(|id| !has_chars(id, MAX_ID_CHARS)) {
            return bad("requestId", "must have 1 to 256 characters, or be left out");
        }
        let data = match (operation, self.data) {
            (Operation::Write, Some(data)) => {
                let data = data.get().as_bytes();
                if let Err(wrong) = json::check(data) {
                    return bad("data", wrong);
                }
                data
            }
            (Operation::Write, None) => return bad("data", "is needed by WRITE: any JSON"),
            (Operation::Delete | Operation::Read, _) => b"",
        };
        if operation == Operation::Read && self.if_version.is_some() {
            return bad("ifVersion", "makes no sense for READ: leave it out");
        }
        if operation == Operation::Read && self.if_instance.is_some() {
            return bad("ifInstance", "makes no sense for READ: leave it out");
        }
        if self.sequence.is_some_and(|number| number > MAX_SEQUENCE) {
            return bad("sequence", "must be from 0 to 9007199254740991");
        }
        let command = Command {
            operation,
            timestamp: self.timestamp,
            if_version: self.if_version,
            if_instance: self.if_instance,
            sequence: self.sequence,
            client_id: &self.client_id,
            request_id: self.request_id.as_deref(),
            resource: &self.resource,
            data,
        };
        Ok(command.encode())
    }
}

fn has_chars(text: &str, max: usize) -> bool {
    !text.is_empty() && (text.len() <= max || text.chars().count() <= max)
}

/// A chosen request, as in `/log` and in `acceptedValue`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Command)]
#[serde(rename_all = "camelCase")]
pub struct CommandView<'a> {
    /// `NOOP` for a filled hole.
    pub operation: &'static str,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a str>,
    /// Which of the client's requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// By the client's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    /// On what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<&'a str>,
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub data: Option<&'a RawValue>,
    /// Compare and set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u64>,
    /// The same by the instance that last wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_instance: Option<u64>,
    /// The client's number of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl<'a> CommandView<'a> {
    /// What a value says; `UNREADABLE` for one that a newer version wrote.
    pub fn of(value: &'a Value) -> CommandView<'a> {
        let nothing = CommandView {
            operation: "NOOP",
            client_id: None,
            request_id: None,
            timestamp: None,
            resource: None,
            data: None,
            if_version: None,
            if_instance: None,
            sequence: None,
        };
        match Command::decode(value) {
            Ok(None) => nothing,
            Err(_) => CommandView {
                operation: "UNREADABLE",
                ..nothing
            },
            Ok(Some(command)) => CommandView {
                operation: command.operation.name(),
                client_id: Some(command.client_id),
                request_id: command.request_id,
                timestamp: Some(command.timestamp),
                resource: Some(command.resource),
                data: raw(command.data),
                if_version: command.if_version,
                if_instance: command.if_instance,
                sequence: command.sequence,
            },
        }
    }
}

/// Data as JSON. It was JSON when it came in.
fn raw(data: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(data).ok()
}

/// A line of `/log`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
#[serde(rename_all = "camelCase")]
pub struct EntryView<'a> {
    /// Where.
    pub instance_id: u64,
    /// `COMMITTED`, `NOT_COMMITTED`, `DUPLICATE`, `READ` or `NOOP`; `CONFLICT`, `TOO_OLD`, `FULL` or
    /// `QUOTA` for a request that was not executed.
    pub status: &'static str,
    /// The resource's version after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Where the request took effect, if not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<u64>,
    /// What was chosen.
    #[serde(flatten)]
    pub command: CommandView<'a>,
}

impl<'a> EntryView<'a> {
    /// An applied entry, readable.
    pub fn of(entry: &'a Entry) -> EntryView<'a> {
        let duplicate = entry.applied.slot != entry.slot;
        let status = match &entry.applied.outcome {
            _ if duplicate => "DUPLICATE",
            Outcome::Noop => "NOOP",
            Outcome::Committed { .. } => "COMMITTED",
            Outcome::NotCommitted { .. } => "NOT_COMMITTED",
            Outcome::Read(_) => "READ",
            Outcome::Untold | Outcome::Withheld => "UNKNOWN",
            refused => refused_as(refused),
        };
        let version = match entry.applied.outcome {
            Outcome::Committed { version } | Outcome::NotCommitted { version, .. } => Some(version),
            _ => None,
        };
        EntryView {
            instance_id: entry.slot.0,
            status,
            version,
            duplicate_of: duplicate.then_some(entry.applied.slot.0),
            command: CommandView::of(&entry.value),
        }
    }
}

/// `GET /resource/{id}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Resource)]
#[serde(rename_all = "camelCase")]
pub struct ResourceView<'a> {
    /// Its name.
    pub resource: &'a str,
    /// As it was written.
    #[schema(value_type = serde_json::Value)]
    pub data: Option<&'a RawValue>,
    /// 1 after the write that made it, one more with every write since.
    pub version: u64,
    /// The instance of the last write.
    pub instance_id: u64,
    /// By the clock of the client that wrote it.
    pub timestamp: u64,
    /// Who wrote it.
    pub client_id: &'a str,
}

impl<'a> ResourceView<'a> {
    /// A resource under its name.
    pub fn of(name: &'a str, resource: &'a Resource) -> ResourceView<'a> {
        ResourceView {
            resource: name,
            data: raw(&resource.data),
            version: resource.version,
            instance_id: resource.slot.0,
            timestamp: resource.timestamp,
            client_id: &resource.client_id,
        }
    }
}

/// A page of `GET /resources`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Page)]
#[serde(rename_all = "camelCase")]
pub struct PageView<'a> {
    /// In the order of their names.
    pub resources: Vec<ResourceView<'a>>,
    /// The page shows what stood after this instance: `/watch?from=` the next one continues from it.
    pub instance_id: u64,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
}

impl<'a> PageView<'a> {
    /// A page, readable.
    pub fn of(page: &'a Page) -> PageView<'a> {
        let resources = page.resources.iter();
        let last = page.resources.last().map(|(name, _)| &**name);
        PageView {
            resources: resources
                .map(|(name, resource)| ResourceView::of(name, resource))
                .collect(),
            instance_id: page.applied.0,
            next: last.filter(|_| page.more),
        }
    }
}

/// The data of an event of `GET /watch`: a resource as [`ResourceView`] shows it, or without `data`
/// its removal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Change)]
#[serde(rename_all = "camelCase")]
pub struct ChangeView<'a> {
    /// Its name.
    pub resource: &'a str,
    /// As it was written; absent when it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub data: Option<&'a RawValue>,
    /// The resource's version after the change; for a removal, the one that it would have had.
    pub version: u64,
    /// The instance of the change.
    pub instance_id: u64,
    /// By the clock of the client that made it.
    pub timestamp: u64,
    /// Who made it.
    pub client_id: &'a str,
}

impl<'a> ChangeView<'a> {
    /// What an entry changed, if anything: not what was a retry, or removed what was not there.
    pub fn of(entry: &'a Entry) -> Option<ChangeView<'a>> {
        let Outcome::Committed { version } = entry.applied.outcome else {
            return None;
        };
        if entry.applied.slot != entry.slot || version == 0 {
            return None;
        }
        let command = Command::decode(&entry.value).ok()??;
        Some(ChangeView {
            resource: command.resource,
            data: raw(command.data),
            version,
            instance_id: entry.slot.0,
            timestamp: command.timestamp,
            client_id: command.client_id,
        })
    }
}

/// Adds a value as one line of JSON. Clients' data is shown as it was written, and may have line
/// breaks between its tokens, where JSON takes a space as well; within texts they are escaped.
pub fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    let start = out.len();
    // Numbers, texts and JSON that was parsed before: nothing in it can fail.
    if serde_json::to_writer(&mut *out, value).is_err() {
        return out.truncate(start);
    }
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

/// `POST /leader-heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Heartbeat)]
#[serde(
    rename_all = "camelCase",
    expecting = "an object with leaderId, term and lastInstanceId"
)]
pub struct HeartbeatBody {
    /// The leader: the number of a proposer in `PROPOSERS`.
    #[serde(deserialize_with = "number::whole")]
    #[schema(minimum = 1, maximum = 255)]
    pub leader_id: u8,
    /// Its term.
    #[serde(deserialize_with = "number::whole")]
    #[schema(minimum = 1, maximum = 72057594037927935usize)]
    pub term: u64,
    /// The last instance it has given out.
    #[serde(deserialize_with = "number::whole")]
    #[schema(maximum = 18446744073709551615usize)]
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 18446744073709551615usize)]
    pub committed_instance_id: u64,
}

impl From<Heartbeat> for HeartbeatBody {
    fn from(heartbeat: Heartbeat) -> HeartbeatBody {
        HeartbeatBody {
            leader_id: heartbeat.ballot.node().map_or(0, NodeId::number),
            term: heartbeat.ballot.counter(),
            last_instance_id: heartbeat.last.0,
            committed_instance_id: heartbeat.committed.0,
        }
    }
}

impl HeartbeatBody {
    /// The heartbeat, if leader and term can be.
    pub fn to_heartbeat(self) -> Result<Heartbeat, BadField> {
        let bad = |field, expected: &str| BadField {
            field,
            expected: expected.to_owned(),
        };
        let leader =
            NodeId::new(self.leader_id).ok_or_else(|| bad("leaderId", "must be 1 to 255"))?;
        let ballot = Ballot::new(self.term, leader)
            .ok_or_else(|| bad("term", "must be from 1 to 72057594037927935"))?;
        let (last, committed) = (
            Slot(self.last_instance_id),
            Slot(self.committed_instance_id),
        );
        Ok(Heartbeat {
            ballot,
            last,
            committed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_several_lines_is_shown_on_one() {
        let data = "{\n  \"text\": \"a\\nb\",\r\n  \"n\": 1\n}";
        let value: &RawValue = serde_json::from_str(data).unwrap();
        let mut out = b"data: ".to_vec();
        write_line(&mut out, &value);
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        let shown: serde_json::Value = serde_json::from_str(&line[6..]).unwrap();
        assert_eq!(shown, serde_json::json!({"text": "a\nb", "n": 1}));
    }
}
