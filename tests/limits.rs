//! One process's memory, connections and descriptors are bounded no matter who asks, and others are
//! served meanwhile. The attacks are those of clients that send without an end, or never take their answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use std::{fs, thread};

use api::env::Role;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};

const MIB: usize = 1 << 20;
/// What a node may take of the 512 MiB that it has by default.
const MOST: usize = 400 * MIB;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn cluster() -> Cluster {
    Cluster::start(2, 3, 2)
}

fn client(cluster: &Cluster, id: &str) -> Client {
    Client::new(id, cluster.urls(Role::Proposer))
}

/// A figure of a process's memory, in bytes.
fn memory(cluster: &Cluster, name: Name, figure: &str) -> usize {
    let pid = cluster.node(name).pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kib = line.unwrap().trim_start_matches(':').trim();
    kib.trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

fn assert_bounded(cluster: &Cluster) {
    for name in cluster.names() {
        let peak = memory(cluster, name, "VmHWM");
        assert!(peak < MOST, "{name:?} took {} MiB", peak / MIB);
    }
}

/// A connection from an address of this machine, which takes as little of an answer as there can be.
fn connect(cluster: &Cluster, name: Name, from: Ipv4Addr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.node(name).config.port));
    socket.connect(&to.into()).ok()?;
    let stream: TcpStream = socket.into();
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    Some(stream)
}

/// Connections that sent a head and what of its body the node took.
fn send(cluster: &Cluster, name: Name, count: usize, head: &str, body: &[u8]) -> Vec<TcpStream> {
    let each = || -> Option<TcpStream> {
        let mut stream = connect(cluster, name, ELSEWHERE)?;
        stream.write_all(head.as_bytes()).ok()?;
        // As much as it takes.
        let _ = stream.write_all(body);
        Some(stream)
    };
    thread::scope(|scope| {
        let part = || scope.spawn(|| (0..count / 10).filter_map(|_| each()).collect::<Vec<_>>());
        let parts: Vec<_> = (0..10).map(|_| part()).collect();
        let streams = parts.into_iter().flat_map(|part| part.join().unwrap());
        streams.collect()
    })
}

/// Writes while something is under way, each within a few seconds.
fn assert_writes(client: &mut Client, count: usize) {
    for i in 0..count {
        let begun = Instant::now();
        client.write("meanwhile", json!(i));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "a write took {took:?}");
    }
}

fn assert_healthy(cluster: &Cluster, name: Name, within: Duration) {
    for _ in 0..10 {
        let begun = Instant::now();
        let mut stream = connect(cluster, name, Ipv4Addr::LOCALHOST).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        assert!(begun.elapsed() < within, "{name:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn frames_and_bodies_that_never_end_take_no_more_than_their_part() {
    let cluster = cluster();
    let mut client = client(&cluster, "honest");
    assert_writes(&mut client, 3);
    let frame = vec![b'P'; 8 * MIB - 1];
    let head = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    let acceptor = (Role::Acceptor, 2);
    let frames = send(
        &cluster,
        acceptor,
        60,
        &head("/paxos/acceptor/2", 8 * MIB),
        &frame,
    );
    assert_writes(&mut client, 5);
    let body = vec![b' '; MIB - 1];
    let proposer = (Role::Proposer, 1);
    let bodies = send(&cluster, proposer, 200, &head("/propose", MIB), &body);
    assert_writes(&mut client, 5);
    for name in [acceptor, proposer] {
        assert_healthy(&cluster, name, Duration::from_secs(2));
    }
    assert_bounded(&cluster);
    drop((frames, bodies));
    // What was taken for a moment is the system's again.
    for name in [acceptor, proposer] {
        let fallen = || (memory(&cluster, name, "VmRSS") < 150 * MIB).then_some(());
        cluster.wait_for("its memory is given back", Duration::from_secs(30), fallen);
    }
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_lists_end_by_bytes() {
    let cluster = cluster();
    let learner = (Role::Learner, 1);
    let mut client = client(&cluster, "honest");
    for i in 0..40 {
        client.write(&format!("large-{i}"), json!("x".repeat(900_000)));
    }
    cluster.wait_until_learners_agree(40);
    let url = cluster.node(learner).url();
    let page = http::get(&format!("{url}/instances?limit=1000")).unwrap();
    assert!(page.body.len() < 6 * MIB, "{}", page.body.len());
    let (mut next, mut found) = (1, 0);
    while found < 40 {
        let page = http::get(&format!("{url}/instances?from={next}&limit=1000"))
            .unwrap()
            .json();
        let entries = page["instances"].as_array().unwrap();
        assert!(!entries.is_empty(), "the next page continues");
        found += entries
            .iter()
            .filter(|entry| entry["operation"] == "WRITE")
            .count();
        next = page["next"].as_u64().unwrap();
    }
    let mut unread = Vec::new();
    for path in [
        "/instances?limit=1000",
        "/resources",
        "/log",
        "/watch?from=1",
        "/resource/large-3",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        unread.push(send(&cluster, learner, 150, &head, b""));
    }
    assert_healthy(&cluster, learner, Duration::from_secs(2));
    assert_writes(&mut client, 3);
    for path in ["/resources", "/instances?limit=1000"] {
        let read = || {
            let answer = http::get(&format!("{url}{path}")).ok()?;
            (answer.status == 200 && answer.body.len() > 3 * MIB).then_some(())
        };
        cluster.wait_for("a reader is served", Duration::from_secs(20), read);
    }
    assert_bounded(&cluster);
}

#[test]
fn one_address_has_its_share_of_the_streams() {
    let cluster = Cluster::start(1, 1, 1);
    let learner = (Role::Learner, 1);
    let head = "GET /watch HTTP/1.1\r\nHost: a\r\n\r\n";
    let streams = send(&cluster, learner, 300, head, b"");
    let refused = streams.iter().filter(|stream| {
        let mut stream = *stream;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut answer = [0; 12];
        stream
            .read_exact(&mut answer)
            .is_ok_and(|()| &answer == b"HTTP/1.1 503")
    });
    assert_eq!(refused.count(), 300 - 128);
    let mut other = connect(&cluster, learner, Ipv4Addr::LOCALHOST).unwrap();
    other.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn silent_connections_keep_neither_probes_nor_peers_nor_clients_out() {
    let cluster = cluster();
    let mut client = client(&cluster, "honest");
    let mut silent = Vec::new();
    for name in [
        (Role::Acceptor, 1),
        (Role::Acceptor, 2),
        (Role::Proposer, 1),
    ] {
        silent.extend((0..5000).filter_map(|_| connect(&cluster, name, Ipv4Addr::LOCALHOST)));
        assert_healthy(&cluster, name, Duration::from_secs(1));
    }
    assert!(silent.len() > 10_000, "{}", silent.len());
    assert_writes(&mut client, 10);
    for name in [
        (Role::Acceptor, 1),
        (Role::Acceptor, 2),
        (Role::Proposer, 1),
    ] {
        assert_healthy(&cluster, name, Duration::from_secs(1));
        let url = cluster.node(name).url();
        let metrics = http::get(&format!("{url}/metrics")).unwrap().text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("paxos_connections{"));
        let open = line.and_then(|line| line.rsplit_once(' ')).unwrap().1;
        let open: u64 = open.parse().unwrap();
        assert!(open <= 4096 + 512, "{name:?} has {open} connections");
    }
    assert_bounded(&cluster);
}

#[test]
fn a_lack_of_descriptors_is_no_broken_disk() {
    let mut cluster = cluster();
    let mut client = client(&cluster, "honest");
    // Not a leader: a client that cannot reach it has nobody else to ask.
    let names = [(Role::Learner, 1), (Role::Acceptor, 1)];
    assert_writes(&mut client, 2);
    let limit = |cluster: &Cluster, soft: u64| {
        for name in names {
            let limit = Rlimit {
                current: Some(soft),
                maximum: Some(20_000),
            };
            prlimit(Some(cluster.node(name).pid()), Resource::Nofile, limit).unwrap();
        }
    };
    // Below what they have open: no file and no connection more.
    limit(&cluster, 10);
    for i in 0..60 {
        client.write(&format!("k{}", i % 7), json!("x".repeat(900_000)));
    }
    for name in cluster.names() {
        assert!(
            cluster.node_mut(name).is_running(),
            "{name:?}:\n{}",
            cluster.node(name).tail()
        );
        let output = cluster.node(name).output();
        assert!(!output.contains("the disk failed"), "{output}");
    }
    limit(&cluster, 4096);
    cluster.wait_until_ready();
    let fresh = http::agent(Duration::from_secs(5));
    for name in names {
        let url = format!("{}/health", cluster.node(name).url());
        cluster.wait_for("it serves again", Duration::from_secs(20), || {
            fresh.get(&url).call().ok()
        });
    }
    let written = || {
        let learner = cluster.folder.path().join("learner-1/snapshots");
        let snapshots = fs::read_dir(learner).ok()?.flatten();
        let mut names = snapshots.map(|entry| entry.file_name());
        names
            .any(|name| name.to_string_lossy().starts_with("snapshot-"))
            .then_some(())
    };
    cluster.wait_for("the snapshot is written", Duration::from_secs(30), written);
    cluster.wait_until_learners_agree(60);
}

#[test]
fn a_flood_of_batches_leaves_room_for_others() {
    let cluster = cluster();
    let target = cluster.node(cluster.wait_for_leader()).url();
    let host = target.trim_start_matches("http://").to_owned();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let mut honest = Client::new("honest", vec![target.clone()]);
    thread::scope(|scope| {
        for n in 0..24 {
            let host = &host;
            let stopped = &stopped;
            scope.spawn(move || {
                let to: SocketAddr = host.parse().unwrap();
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::from((ELSEWHERE, 0)).into()).unwrap();
                socket.connect(&to.into()).unwrap();
                let mut stream: TcpStream = socket.into();
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                for round in 0.. {
                    let items = (0..1000).map(|i| {
                        json!({"clientId": format!("flood{n}"), "requestId": format!("{round}-{i}"),
                            "timestamp": 1, "operation": "WRITE", "resource": format!("f{i}"), "data": i})
                    });
                    let body = serde_json::Value::from_iter(items).to_string();
                    let length = body.len();
                    let request = format!("POST /propose/batch HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
                    if stopped() || stream.write_all(request.as_bytes()).is_err() {
                        return;
                    }
                    // Whatever it says.
                    let mut answer = [0; 1 << 16];
                    while !stopped() && stream.read(&mut answer).is_ok_and(|read| read == answer.len()) {}
                }
            });
        }
        thread::sleep(Duration::from_secs(1));
        let mut took: Vec<Duration> = (0..30)
            .map(|i| {
                let begun = Instant::now();
                honest.write("honest", json!(i));
                begun.elapsed()
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        took.sort_unstable();
        assert!(took[27] < Duration::from_secs(2), "{took:?}");
    });
}
