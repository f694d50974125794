//! What a node's door does with requests as they come off the wire: whom it lets in, what it tells
//! browsers, and JSON that would break its later readers.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use api::env::Role;
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};
use testkit::local::Local;

const ROLES: [Role; 3] = [Role::Proposer, Role::Acceptor, Role::Learner];

/// An answer's status, head and body.
struct Raw {
    status: u16,
    head: String,
    body: String,
}

impl Raw {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut lines = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        lines.next().map(|(_, value)| value)
    }

    fn detail(&self) -> String {
        let body: Json = serde_json::from_str(&self.body).unwrap();
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends bytes as they are and reads the first answer.
fn raw(port: u16, request: &str) -> Raw {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_owned();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut answer = Raw {
                status,
                head,
                body: body.to_owned(),
            };
            let length = answer.header("content-length");
            let length = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length || request.starts_with("HEAD") {
                answer.body.truncate(length);
                return answer;
            }
        }
        match stream.read(&mut buffer).unwrap() {
            0 => panic!("{request:?}: closed after {text:?}"),
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
}

fn port(cluster: &Cluster, role: Role) -> u16 {
    cluster.node((role, 1)).config.port
}

fn write_body(resource: &str, data: &str) -> String {
    format!(
        r#"{{"clientId":"page","timestamp":1,"operation":"WRITE","resource":"{resource}","data":{data}}}"#
    )
}

fn post(port: u16, path: &str, headers: &str, body: &str) -> Raw {
    let length = body.len();
    raw(
        port,
        &format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"),
    )
}

fn get(port: u16, path: &str, headers: &str) -> Raw {
    raw(port, &format!("GET {path} HTTP/1.1\r\n{headers}\r\n"))
}

#[test]
fn web_pages_of_other_sites_neither_write_nor_read() {
    let cluster = Cluster::start(1, 1, 1);
    let proposer = port(&cluster, Role::Proposer);
    let own = format!("Host: localhost:{proposer}\r\n");
    let write = |headers: &str, resource: &str| {
        let headers = format!("{own}Content-Type: text/plain\r\n{headers}");
        post(
            proposer,
            "/propose?wait=true",
            &headers,
            &write_body(resource, "1"),
        )
    };
    for (n, foreign) in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let answer = write(foreign, &format!("foreign-{n}"));
        assert_eq!(answer.status, 403, "{foreign}");
        assert!(
            answer.detail().contains("ALLOWED_ORIGINS"),
            "{}",
            answer.body
        );
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let here = format!("Origin: http://localhost:{proposer}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(write(&here, "own-page").status, 200);
    assert_eq!(write("", "program").status, 200);
    let preflight = raw(
        proposer,
        &format!(
            "OPTIONS /propose HTTP/1.1\r\n{own}Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        ),
    );
    assert_eq!(preflight.status, 403);
    assert_eq!(preflight.header("access-control-allow-methods"), None);

    // Under its own name a page could read whatever answers.
    for role in ROLES {
        let port = port(&cluster, role);
        for path in [
            "/status",
            "/health",
            "/metrics",
            "/nothing",
            "/log?follow=false",
            "/resources",
        ] {
            let answer = get(port, path, "Host: evil.example\r\n");
            assert_eq!(answer.status, 421, "{role} {path}");
            assert!(answer.detail().contains("evil.example"), "{}", answer.body);
        }
        for hosts in [
            "",
            "Host: a\r\nHost: b\r\n",
            "Host: a\r\nHost: a\r\n",
            "Host:\r\n",
        ] {
            assert_eq!(get(port, "/status", hosts).status, 400, "{role} {hosts:?}");
        }
        for host in [
            "127.0.0.1",
            "[::1]:9",
            "localhost",
            "anything",
            "LOCALHOST.:80",
        ] {
            let answer = get(port, "/status", &format!("Host: {host}\r\n"));
            assert_eq!(answer.status, 200, "{role} {host}");
        }
        let read = get(
            port,
            "/status",
            "Host: localhost\r\nOrigin: https://evil.example\r\n",
        );
        assert_eq!(read.status, 403);
        let without = raw(port, "GET /health HTTP/1.0\r\n\r\n");
        assert_eq!(without.status, 200, "HTTP/1.0 has no Host");
    }
    let learner = port(&cluster, Role::Learner);
    let names = get(learner, "/resources", "Host: localhost\r\n").body;
    let names: Json = serde_json::from_str(&names).unwrap();
    let names = names["resources"].as_array().unwrap().iter();
    let names: Vec<_> = names
        .map(|found| found["resource"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["own-page", "program"]);
}

#[test]
fn every_answer_says_that_it_is_what_its_type_says() {
    let cluster = Cluster::start(1, 1, 1);
    for role in ROLES {
        let port = port(&cluster, role);
        for (request, status) in [
            ("GET /status HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            ("DELETE /status HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("GET /logs HTTP/1.1\r\nHost: a\r\n\r\n", 403),
            (
                "GET /logs/important?limit=0 HTTP/1.1\r\nHost: a\r\n\r\n",
                400,
            ),
            ("GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
            ("GET /status HTTP/1.1\r\n\r\n", 400),
        ] {
            let answer = raw(port, request);
            assert_eq!(answer.status, status, "{role} {request}");
            assert_eq!(
                answer.header("x-content-type-options"),
                Some("nosniff"),
                "{request}"
            );
            let policy = answer.header("cross-origin-resource-policy");
            assert_eq!(policy, Some("same-origin"), "{request}");
        }
    }
}

#[test]
fn listed_hosts_and_pages_may() {
    let mut cluster = Cluster::prepare(1, 1, 1);
    for name in cluster.names() {
        let access = &mut cluster.node_mut(name).config.access;
        access.hosts = vec!["paxos.example.com".to_owned()];
        access.origins = vec!["https://console.example.com".to_owned()];
    }
    cluster.start_all();
    let proposer = port(&cluster, Role::Proposer);
    let headers = "Host: Paxos.Example.com:443\r\nOrigin: https://console.example.com\r\n\
                   Sec-Fetch-Site: same-site\r\n";
    let answer = post(
        proposer,
        "/propose?wait=true",
        headers,
        &write_body("a", "1"),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://console.example.com"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let preflight = raw(
        proposer,
        &format!("OPTIONS /propose HTTP/1.1\r\n{headers}\r\n"),
    );
    assert_eq!(preflight.status, 204);
    assert_eq!(
        get(proposer, "/status", "Host: x.paxos.example.com\r\n").status,
        421
    );
}

#[test]
fn data_that_would_break_its_readers_is_refused_by_name() {
    let cluster = Cluster::start(2, 1, 1);
    let acceptor = port(&cluster, Role::Acceptor);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"k\":".repeat(depth), "}".repeat(depth));
    let bad = [
        nested(129),
        nested(100_000),
        objects(140),
        r#""\ud800""#.to_owned(),
        r#"{"a":["\udfff\ud800"]}"#.to_owned(),
        "1e999999".to_owned(),
        "[-4.5E+12345]".to_owned(),
    ];
    let leader = cluster.wait_for_leader();
    for name in cluster.of_role(Role::Proposer) {
        let port = cluster.node(name).config.port;
        for data in &bad {
            let shown = &data[..data.len().min(40)];
            let body = write_body("bad", data);
            let answer = post(port, "/propose?wait=true", "Host: a\r\n", &body);
            assert_eq!(answer.status, 400, "{shown}");
            assert!(answer.detail().starts_with("data:"), "{}", answer.body);
            let batch = format!("[{},{body}]", write_body("bad", "1"));
            let answer = post(port, "/propose/batch?wait=true", "Host: a\r\n", &batch);
            assert_eq!(answer.status, 400, "{shown}");
            assert!(answer.detail().starts_with("[1].data:"), "{}", answer.body);
        }
        for good in [
            nested(128),
            objects(128),
            r#""\ud83d\ude00\\ud800""#.to_owned(),
            "-0.0e999999".to_owned(),
        ] {
            let answer = post(
                port,
                "/propose?wait=true",
                "Host: a\r\n",
                &write_body("good", &good),
            );
            assert_eq!(answer.status, 200, "{good}: {}", answer.body);
        }
        let texts = r#"{"clientId":"\udc00","timestamp":1,"operation":"READ","resource":"r"}"#;
        let answer = post(port, "/propose", "Host: a\r\n", texts);
        assert_eq!(answer.status, 400);
        assert!(answer.detail().contains("clientId"), "{}", answer.body);
    }
    for data in &bad {
        let value = write_body("bad", data);
        let number = 256 * 9000 + 9;
        let body = format!(
            r#"{{"proposalNumber":{number},"instanceId":900,"proposerId":9,"value":{value}}}"#
        );
        let answer = post(acceptor, "/accept", "Host: a\r\n", &body);
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.detail().contains("value.data"), "{}", answer.body);
    }
    let url = cluster.node((Role::Learner, 1)).url();
    assert_eq!(
        http::get(&format!("{url}/resource/bad")).unwrap().status,
        404
    );
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn names_in_another_case_are_refused_with_the_right_one() {
    let cluster = Cluster::start(1, 1, 1);
    let [proposer, acceptor, learner] = ROLES.map(|role| port(&cluster, role));
    let with = |field: &str| write_body("r", "1").replace('}', &format!(",{field}}}"));
    for (port, path, body, right) in [
        (
            proposer,
            "/propose?wait=true",
            with(r#""ifversion":9"#),
            "ifVersion",
        ),
        (
            proposer,
            "/propose?wait=true",
            with(r#""RequestID":"x""#),
            "requestId",
        ),
        (proposer, "/propose?wait=true", with(r#""DATA":2"#), "data"),
        (proposer, "/propose?WAIT=true", write_body("r", "1"), "wait"),
        (
            proposer,
            "/propose?timeoutms=9",
            write_body("r", "1"),
            "timeoutMs",
        ),
        (
            proposer,
            "/propose/batch?Wait=true",
            "[]".to_owned(),
            "wait",
        ),
        (
            proposer,
            "/propose/batch",
            format!("[{}]", with(r#""IFVERSION":9"#)),
            "ifVersion",
        ),
        (
            proposer,
            "/leader-heartbeat",
            r#"{"leaderId":1,"term":1,"lastInstanceId":1,"leaderid":2}"#.to_owned(),
            "leaderId",
        ),
        (
            acceptor,
            "/prepare",
            r#"{"proposalNumber":257,"instanceId":1,"proposerId":1,"InstanceID":2}"#.to_owned(),
            "instanceId",
        ),
        (
            acceptor,
            "/accept",
            format!(
                r#"{{"proposalNumber":257,"instanceId":1,"proposerId":1,"value":{}}}"#,
                with(r#""IfVersion":9"#)
            ),
            "ifVersion",
        ),
        (
            learner,
            "/learn",
            r#"{"instanceId":1,"instanceid":2}"#.to_owned(),
            "instanceId",
        ),
    ] {
        let answer = post(port, path, "Host: a\r\n", &body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        let detail = answer.detail();
        assert!(
            detail.contains(&format!("write {right}")),
            "{path}: {detail}"
        );
    }
    for (path, right) in [
        ("/log?FROM=1", "from"),
        ("/instances?Limit=1", "limit"),
        ("/resources?PREFIX=a", "prefix"),
        ("/resource/r?Consistency=local", "consistency"),
        ("/watch?From=1", "from"),
        ("/logs/important?LIMIT=1", "limit"),
    ] {
        let answer = get(learner, path, "Host: a\r\n");
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(
            answer.detail().contains(&format!("write {right}")),
            "{}",
            answer.body
        );
    }
    // Nothing of it took effect, and what is nobody's field is nobody's mistake.
    let url = cluster.node((Role::Learner, 1)).url();
    assert_eq!(http::get(&format!("{url}/resource/r")).unwrap().status, 404);
    let body = with(r#""comment":"x","if_version":9"#);
    let answer = post(proposer, "/propose?wait=true&trace=1", "Host: a\r\n", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn signals_that_mean_nothing_end_nobody() {
    let cluster = Cluster::start(1, 1, 1);
    let url = cluster.node((Role::Proposer, 1)).url();
    let mut client = Client::new("a", vec![url]);
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::PIPE,
        Signal::HUP,
    ] {
        for name in cluster.names() {
            cluster.node(name).signal(signal);
        }
        client.write("r", json!(1));
    }
    let said = |name: Name| {
        let log = http::get(&format!("{}/logs/important", cluster.node(name).url()));
        let log = log.unwrap().text();
        ["SIGHUP", "SIGUSR1", "SIGUSR2"]
            .iter()
            .all(|signal| log.contains(signal))
    };
    for name in cluster.names() {
        cluster.wait_for("the node says so", Duration::from_secs(10), || {
            said(name).then_some(())
        });
    }
}

#[test]
fn a_local_cluster_is_not_for_the_network_and_its_files_are_not_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let base = 7_300;
    let local = Local::start("crds/samples/small.yaml", folder.path(), base);
    assert_eq!(get(base + 1, "/status", "Host: localhost\r\n").status, 200);
    // Were it to listen on all addresses, nobody else could take the port on another one.
    for port in [base + 1, base + 101, base + 201] {
        TcpListener::bind(("127.0.0.2", port)).unwrap();
    }
    let mut looked_at = 0;
    let mut folders = vec![local.folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let own = path.components().any(|part| part.as_os_str() == "logs")
                || path.extension().is_some_and(|extension| extension == "wal");
            if own {
                looked_at += 1;
                assert_eq!(meta.mode() & 0o007, 0, "{}", path.display());
            }
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(looked_at > 10, "{looked_at}");
}

#[test]
fn a_node_listens_where_it_is_told() {
    let mut cluster = Cluster::prepare(1, 1, 1);
    let name = (Role::Acceptor, 1);
    cluster.node_mut(name).config.access.listen = Some("127.0.0.3".parse().unwrap());
    let port = cluster.node(name).config.port;
    cluster.node_mut(name).start();
    let reached = || TcpStream::connect(("127.0.0.3", port)).ok();
    cluster.wait_for("the node listens", Duration::from_secs(20), reached);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
