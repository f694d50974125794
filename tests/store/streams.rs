//! Readers of answers that have no end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value as Json;
use testkit::cluster::{Cluster, Name, Node, http};

fn open(
    cluster: &Cluster,
    name: Name,
    path: &str,
    last_event_id: Option<&str>,
) -> ::http::Response<ureq::Body> {
    let url = format!("{}{path}", cluster.node(name).url());
    let mut request = http::agent(Duration::from_secs(60)).get(url);
    if let Some(id) = last_event_id {
        request = request.header("Last-Event-ID", id);
    }
    request.call().unwrap()
}

/// The lines of `/log`.
pub struct Lines(BufReader<Box<dyn Read>>);

impl Lines {
    /// Starts to read.
    pub fn open(cluster: &Cluster, name: Name, path: &str) -> Lines {
        let answer = open(cluster, name, path, None);
        assert_eq!(answer.status(), 200);
        let (_, body) = answer.into_parts();
        Lines(BufReader::new(Box::new(body.into_reader())))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("no broken connection");
        (read > 0).then_some(line)
    }
}

impl Iterator for Lines {
    type Item = Json;

    fn next(&mut self) -> Option<Json> {
        self.line().map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// An event of `/watch`.
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its instance.
    pub id: u64,
    /// Its data.
    pub data: Json,
}

/// The events of `/watch`, taken apart as the HTML standard says.
pub struct Events(Lines);

impl Events {
    /// Starts to read, and returns when the first sign of life is here.
    pub fn open(cluster: &Cluster, name: Name, path: &str, last: Option<u64>) -> Events {
        let last = last.map(|id| id.to_string());
        let answer = open(cluster, name, path, last.as_deref());
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let (_, body) = answer.into_parts();
        let mut lines = Lines(BufReader::new(Box::new(body.into_reader())));
        assert_eq!(lines.line().as_deref(), Some(":\n"));
        Events(lines)
    }

    /// The status of an answer.
    pub fn status(cluster: &Cluster, name: Name, path: &str, last: Option<&str>) -> u16 {
        open(cluster, name, path, last).status().as_u16()
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), 0, String::new());
        loop {
            let line = self.0.line()?;
            let line = line.trim_end_matches('\n');
            if line.is_empty() {
                if data.is_empty() {
                    continue;
                }
                let data = serde_json::from_str(&data).unwrap();
                return Some(Event { name, id, data });
            }
            match line.split_once(':').expect("a field or a comment") {
                ("", _) => {}
                ("event", value) => name = value.trim_start().to_owned(),
                ("id", value) => id = value.trim_start().parse().unwrap(),
                ("data", value) => data += value,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A client that asks and never reads the answer.
pub fn stuck(cluster: &Cluster, name: Name, path: &str) -> TcpStream {
    let address = cluster.node(name).url().replace("http://", "");
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: learner\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The memory that a node's process has now.
pub fn resident_bytes(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.unwrap().parse::<u64>().unwrap() << 10
}
