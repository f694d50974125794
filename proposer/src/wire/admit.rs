//! The door for values that other nodes bring: all limits of `POST /propose`, on the encoded form.

use paxos::command::{Command, MAX_ID_CHARS, MAX_RESOURCE_CHARS, Operation};
use paxos::message::Value;
use serde_json::value::RawValue;

use super::{BadField, has_chars, json};

/// The largest value: a body of `POST /propose`, which is text about the same things.
const MAX_BYTES: usize = 1 << 20;

/// Whether a client may propose this value.
pub(crate) fn admit(value: &Value) -> Result<(), BadField> {
    let bad = |field, expected: &str| {
        Err(BadField {
            field,
            expected: expected.to_owned(),
        })
    };
    if value.len() > MAX_BYTES {
        return bad("value", "must have 1 MiB at most");
    }
    // Time passes by the leader's word alone: a client may not send a stamp.
    let Ok(command) = Command::decode_from_client(value) else {
        return bad("value", "must be a command that this version understands");
    };
    if !has_chars(command.client_id, MAX_ID_CHARS) {
        return bad("clientId", "must have 1 to 256 characters");
    }
    if !has_chars(command.resource, MAX_RESOURCE_CHARS) {
        return bad("resource", "must have 1 to 1024 characters");
    }
    if command
        .request_id
        .is_some_and(|id| !has_chars(id, MAX_ID_CHARS))
    {
        return bad("requestId", "must have 1 to 256 characters, or be left out");
    }
    match command.operation {
        Operation::Write => {
            let parsed: Result<&RawValue, _> = serde_json::from_slice(command.data);
            if parsed.is_err() {
                return bad("data", "must be JSON");
            }
            if let Err(wrong) = json::check(command.data) {
                return bad("data", wrong);
            }
        }
        Operation::Delete | Operation::Read if !command.data.is_empty() => {
            return bad("data", "is for WRITE alone");
        }
        Operation::Read if command.if_version.is_some() => {
            return bad("ifVersion", "makes no sense for READ: leave it out");
        }
        Operation::Read if command.if_instance.is_some() => {
            return bad("ifInstance", "makes no sense for READ: leave it out");
        }
        Operation::Delete | Operation::Read => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Command<'static> = Command {
        operation: Operation::Write,
        timestamp: 1,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "alice",
        request_id: Some("r"),
        resource: "colour",
        data: br#""red""#,
    };

    fn field(command: Command<'_>) -> Option<&'static str> {
        admit(&command.encode()).err().map(|bad| bad.field)
    }

    #[test]
    fn what_passes_the_clients_door_passes_this_one() {
        let read = Command {
            operation: Operation::Read,
            data: b"",
            ..WRITE
        };
        let delete = Command {
            operation: Operation::Delete,
            if_version: Some(3),
            ..read
        };
        for command in [WRITE, read, delete] {
            assert_eq!(field(command), None, "{command:?}");
        }
    }

    #[test]
    fn what_does_not_is_refused_by_the_same_name() {
        let long = "x".repeat(1025);
        let refused = [
            (
                Command {
                    client_id: "",
                    ..WRITE
                },
                "clientId",
            ),
            (
                Command {
                    client_id: &long[..257],
                    ..WRITE
                },
                "clientId",
            ),
            (
                Command {
                    request_id: Some(""),
                    ..WRITE
                },
                "requestId",
            ),
            (
                Command {
                    resource: "",
                    ..WRITE
                },
                "resource",
            ),
            (
                Command {
                    resource: &long,
                    ..WRITE
                },
                "resource",
            ),
            (
                Command {
                    data: b"not json {",
                    ..WRITE
                },
                "data",
            ),
            (Command { data: b"", ..WRITE }, "data"),
            (
                Command {
                    data: b"1e999999",
                    ..WRITE
                },
                "data",
            ),
            (
                Command {
                    data: b"1 2",
                    ..WRITE
                },
                "data",
            ),
            (
                Command {
                    data: b"\"\xff\"",
                    ..WRITE
                },
                "data",
            ),
            (
                Command {
                    operation: Operation::Delete,
                    ..WRITE
                },
                "data",
            ),
            (
                Command {
                    operation: Operation::Read,
                    if_version: Some(1),
                    data: b"",
                    ..WRITE
                },
                "ifVersion",
            ),
        ];
        for (command, name) in refused {
            assert_eq!(field(command), Some(name), "{command:?}");
        }
        for bytes in [
            &b""[..],
            b"\xff",
            b"\x02 of a newer version",
            b"\x01\x01\x80",
        ] {
            let bad = admit(&Value(bytes.to_vec().into()));
            assert_eq!(bad.map_err(|bad| bad.field), Err("value"), "{bytes:?}");
        }
        let big = vec![b'1'; MAX_BYTES];
        assert_eq!(
            field(Command {
                data: &big,
                ..WRITE
            }),
            Some("value")
        );
    }
}
