//! `proposer client` and what it may find at the addresses that it is given: another role, another
//! program, nobody, somebody who does not answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use serde_json::Value as Json;
use testkit::cluster::{Cluster, binary};

/// What a hanging server may cost a command that has another one to ask: far less than a person notices.
const SOON: Duration = Duration::from_millis(1500);

struct Said {
    code: i32,
    out: String,
    error: String,
}

/// Runs the command with these variables and nothing else of ours.
fn client(variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let output = Command::new(binary::path())
        .env_clear()
        .envs(variables.iter().copied())
        .arg("client")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    Said {
        code: output.status.code().expect("it ends by itself"),
        out: text(output.stdout),
        error: text(output.stderr),
    }
}

fn read_from(learners: &str, arguments: &[&str]) -> Said {
    let variables = [
        ("CLUSTER_SYNC_LEARNERS", learners),
        ("CLUSTER_SYNC_TIMEOUT", "3s"),
    ];
    client(&variables, arguments)
}

fn write_to(servers: &str, arguments: &[&str]) -> Said {
    let variables = [
        ("CLUSTER_SYNC_SERVERS", servers),
        ("CLUSTER_SYNC_TIMEOUT", "3s"),
    ];
    client(&variables, arguments)
}

/// A server that sends these bytes to everybody, one text for each connection in turn, the last one
/// without end. It runs until the test ends.
fn impostor(answers: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut answers = answers.iter().peekable();
        for stream in listener.incoming().map_while(Result::ok) {
            let Some(answer) = answers.peek().copied() else {
                return;
            };
            if answers.len() > 1 {
                answers.next();
            }
            answer_with(stream, answer);
        }
    });
    address
}

fn answer_with(mut stream: TcpStream, answer: &str) {
    let _ = stream.read(&mut [0; 16 << 10]);
    let _ = stream.write_all(answer.as_bytes());
}

/// Takes connections and says nothing.
fn hanging() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Nobody listens there.
fn dead() -> String {
    hanging().1
}

#[test]
fn absent_is_said_by_learners_and_stores_alone() {
    let mut cluster = Cluster::start(1, 1, 1);
    cluster.add_store();
    cluster.wait_until_ready();
    let host = |role| cluster.hosts(role).remove(0);
    let (proposer, acceptor) = (host(Role::Proposer), host(Role::Acceptor));
    let (learner, store) = (host(Role::Learner), host(Role::Store));
    assert_eq!(write_to(&proposer, &["put", "here", "1"]).code, 0);
    for readers in [&learner, &store] {
        assert_eq!(read_from(readers, &["get", "absent"]).code, 1);
        assert_eq!(read_from(readers, &["get", ".."]).code, 1);
        let said = read_from(readers, &["get", "here"]);
        assert_eq!((said.code, &*said.out), (0, "1"), "{}", said.error);
    }
    for (address, role) in [(&proposer, "a proposer"), (&acceptor, "an acceptor")] {
        for consistency in ["linearizable", "local"] {
            let said = read_from(address, &["get", "lock", "--consistency", consistency]);
            assert_eq!(said.code, 2, "{}", said.error);
            let expected = format!("{address} is {role}, not a learner or store");
            assert!(said.error.contains(&expected), "{}", said.error);
        }
    }
    // One that is right is enough, wherever it stands in the list.
    for list in [
        format!("{acceptor},{learner}"),
        format!("{store},{proposer}"),
    ] {
        assert_eq!(read_from(&list, &["get", "here"]).code, 0);
        assert_eq!(read_from(&list, &["get", "absent"]).code, 1);
    }
    // And what is wrong does not become absent because the rest is away.
    let said = read_from(&format!("{proposer},{}", dead()), &["get", "lock"]);
    assert_eq!(said.code, 3, "{}", said.error);
    assert!(said.error.contains("is a proposer"), "{}", said.error);
    assert_eq!(read_from(&learner, &["get", ""]).code, 2);
}

#[test]
fn a_write_or_a_stream_at_another_role_names_it() {
    let mut cluster = Cluster::start(1, 1, 1);
    cluster.add_store();
    let host = |role| cluster.hosts(role).remove(0);
    let (proposer, acceptor) = (host(Role::Proposer), host(Role::Acceptor));
    let (learner, store) = (host(Role::Learner), host(Role::Store));
    for (address, role) in [
        (&learner, "a learner"),
        (&acceptor, "an acceptor"),
        (&store, "a store"),
    ] {
        let said = write_to(address, &["put", "a", "1"]);
        let expected = format!("{address} is {role}, not a proposer");
        assert_eq!(said.code, 2, "{}", said.error);
        assert!(said.error.contains(&expected), "{}", said.error);
        let list = format!("{address},{proposer}");
        for _ in 0..4 {
            assert_eq!(write_to(&list, &["put", "a", "1"]).code, 0);
        }
    }
    for task in [
        &["log", "--no-follow"][..],
        &["watch", "--from", "1", "--limit", "1"],
    ] {
        for (address, role) in [(&proposer, "a proposer"), (&store, "a store")] {
            let said = read_from(address, task);
            let expected = format!("{address} is {role}, not a learner");
            assert_eq!(said.code, 2, "{task:?} {}", said.error);
            assert!(said.error.contains(&expected), "{}", said.error);
            let said = read_from(&format!("{address},{learner}"), task);
            assert_eq!(said.code, 0, "{task:?} {}", said.error);
        }
    }
}

#[test]
fn another_program_at_an_address_is_neither_absence_nor_an_outcome() {
    let not_found = impostor(&["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"]);
    let said = read_from(&not_found, &["get", "a"]);
    assert_eq!(said.code, 2, "{}", said.error);
    let expected = format!("{not_found} does not answer as a node of Cluster Sync");
    assert!(said.error.contains(&expected), "{}", said.error);
    let said = write_to(&not_found, &["delete", "a"]);
    assert_eq!(said.code, 2, "{}", said.error);

    let gone = impostor(&["HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"]);
    for task in [&["log"][..], &["watch"], &["get", "a"]] {
        let said = read_from(&gone, task);
        assert_eq!(said.code, 2, "{task:?} {}", said.error);
    }

    let page = impostor(&["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>"]);
    for task in [&["log"][..], &["watch"], &["get", "a"]] {
        let said = read_from(&page, task);
        assert_eq!(said.code, 2, "{task:?} {}", said.error);
        assert!(said.error.contains(&page), "{}", said.error);
    }

    // A server that says OK may have done something, but it is no outcome.
    let fine = impostor(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]);
    let said = write_to(&fine, &["cas", "lock", "0", "1", "--timeout", "500ms"]);
    assert_eq!(said.code, 4, "{}", said.error);
    assert!(said.error.contains("--request-id"), "{}", said.error);
}

#[test]
fn a_refusal_after_an_unknown_outcome_leaves_it_unknown() {
    let conflict = "HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let both = impostor(&[
        "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ]);
    assert_eq!(write_to(&both, &["put", "a", "1"]).code, 4);
    let at_once: &'static [&'static str] = Box::leak(Box::new([conflict]));
    assert_eq!(write_to(&impostor(at_once), &["put", "a", "1"]).code, 2);
}

#[test]
fn what_does_not_speak_plain_http_is_named() {
    // What a server that expects TLS says to a request in clear text: an alert.
    let tls = impostor(&["\x15\x03\x03\x00\x02\x02\x32"]);
    for said in [
        read_from(&tls, &["get", "a", "--timeout", "500ms"]),
        write_to(&tls, &["put", "a", "1", "--timeout", "500ms"]),
    ] {
        assert!(matches!(said.code, 3 | 4), "{}", said.error);
        assert!(said.error.contains(&tls), "{}", said.error);
        assert!(said.error.contains("TLS"), "{}", said.error);
    }
    let closes = impostor(&[""]);
    let said = read_from(&closes, &["get", "a", "--timeout", "500ms"]);
    assert_eq!(said.code, 3);
    assert!(
        said.error.contains("ended before an answer"),
        "{}",
        said.error
    );
    let said = read_from("https://a:1", &["get", "a"]);
    assert_eq!(said.code, 2);
    assert!(said.error.contains("TLS"), "{}", said.error);
    let said = read_from(
        "no-such-host.invalid:1",
        &["get", "a", "--timeout", "500ms"],
    );
    assert_eq!(said.code, 3);
    assert!(
        said.error
            .contains("no-such-host.invalid:1: cannot connect"),
        "{}",
        said.error
    );
}

#[test]
fn the_message_has_every_address() {
    let addresses = [dead(), dead(), dead()];
    let list = addresses.join(",");
    for said in [
        read_from(&list, &["get", "a", "--timeout", "500ms"]),
        write_to(&list, &["put", "a", "1", "--timeout", "500ms"]),
        read_from(&list, &["watch", "--timeout", "1s"]),
    ] {
        assert_eq!(said.code, 3, "{}", said.error);
        for address in &addresses {
            let expected = format!("{address}: cannot connect");
            assert!(said.error.contains(&expected), "{}", said.error);
        }
    }
}

#[test]
fn a_learner_that_hangs_costs_little_when_there_is_another() {
    let cluster = Cluster::start(1, 1, 1);
    let learner = cluster.hosts(Role::Learner).remove(0);
    let proposer = cluster.hosts(Role::Proposer).remove(0);
    assert_eq!(write_to(&proposer, &["put", "a", "1"]).code, 0);
    let (_one, first) = hanging();
    let (_two, second) = hanging();
    for list in [
        format!("{first},{learner}"),
        format!("{first},{second},{learner}"),
        format!("{first},{},{learner}", dead()),
    ] {
        for (task, code) in [
            (&["get", "a"][..], 0),
            (&["get", "absent"], 1),
            (&["get", "a", "--consistency", "local"], 0),
        ] {
            let started = Instant::now();
            let said = read_from(&list, task);
            assert_eq!(said.code, code, "{}", said.error);
            let took = started.elapsed();
            assert!(took < SOON, "{list}: {took:?}");
        }
    }
    let list = format!("{first},{learner}");
    for task in [
        &["log", "--no-follow"][..],
        &["watch", "--from", "1", "--limit", "1"],
    ] {
        let started = Instant::now();
        let said = read_from(&list, task);
        assert_eq!(said.code, 0, "{}", said.error);
        assert!(started.elapsed() < 2 * SOON, "{:?}", started.elapsed());
    }
    // With nobody else to ask it is waited for, and named.
    let said = read_from(&first, &["get", "a", "--timeout", "500ms"]);
    assert_eq!(said.code, 3);
    assert!(said.error.contains(&first), "{}", said.error);
}

#[test]
fn a_variable_that_is_set_and_empty_counts_as_unset() {
    let cluster = Cluster::start(1, 1, 1);
    let learner = cluster.hosts(Role::Learner).remove(0);
    let proposer = cluster.hosts(Role::Proposer).remove(0);
    let empty = |servers, learners| {
        [
            ("CLUSTER_SYNC_SERVERS", servers),
            ("CLUSTER_SYNC_LEARNERS", learners),
            ("CLUSTER_SYNC_TIMEOUT", ""),
            ("CLUSTER_SYNC_OUTPUT", " "),
            ("CLUSTER_SYNC_CLIENT_ID", ""),
        ]
    };
    let said = client(&empty(&*proposer, ""), &["put", "a", "1"]);
    assert_eq!((said.code, &*said.error), (0, ""));
    let said = client(&empty("", &*learner), &["get", "a"]);
    assert_eq!((said.code, &*said.out), (0, "1"), "{}", said.error);
    let said = client(
        &empty("", &*learner),
        &["log", "--no-follow", "--output", "json"],
    );
    let entry: Json = serde_json::from_str(said.out.lines().next().unwrap()).unwrap();
    let id = entry["requestId"].as_str().unwrap();
    assert_eq!(entry["clientId"], format!("cli-{id}"), "{entry}");
    // The defaults are what is left, and an option still wins.
    let said = client(&empty("", ""), &["get", "a", "--timeout", "200ms"]);
    assert_eq!(said.code, 3, "{}", said.error);
    assert!(said.error.contains("localhost:8081"), "{}", said.error);
    let said = client(&empty("", ""), &["get", "a", "--learners", &learner]);
    assert_eq!(said.code, 0, "{}", said.error);
}
