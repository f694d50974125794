//! The metrics of a real run are those in `docs/metrics.md`, and their names are as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use node::metrics::{Described, Metrics};
use operator::telemetry::Metrics as OperatorMetrics;
use paxos::ids::NodeId;
use testkit::cluster::http;
use testkit::local::Local;
use testkit::tools::{root, said, tool};

use super::read;

const BEGIN: &str =
    "<!-- Generated from the code: `UPDATE=1 cargo test -p tests --test monitoring` -->\n";
/// The name that the operator's metrics go by here, beside those of the roles.
const OPERATOR: &str = "operator";
/// Those of the process, which the client library defines.
const PROCESS: [(&str, &str, &str); 7] = [
    (
        "process_cpu_seconds_total",
        "counter",
        "Processor time used, user and system.",
    ),
    (
        "process_max_fds",
        "gauge",
        "File descriptors that may be open.",
    ),
    (
        "process_open_fds",
        "gauge",
        "File descriptors that are open.",
    ),
    ("process_resident_memory_bytes", "gauge", "Resident memory."),
    (
        "process_start_time_seconds",
        "gauge",
        "When the process started, as a Unix time.",
    ),
    ("process_threads", "gauge", "Threads."),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory."),
];

/// Each metric, and who has it.
fn catalogue() -> BTreeMap<Described, Vec<&'static str>> {
    let mut catalogue: BTreeMap<Described, Vec<&'static str>> = BTreeMap::new();
    for role in Role::ALL {
        let config = Config::new(role, NodeId::new(1).unwrap());
        for described in Metrics::new(&config).unwrap().described() {
            catalogue.entry(described).or_default().push(role.name());
        }
    }
    for described in OperatorMetrics::default().described() {
        catalogue.entry(described).or_default().push(OPERATOR);
    }
    for (name, kind, help) in PROCESS {
        let described = Described {
            name: name.to_owned(),
            kind,
            labels: Vec::new(),
            help: help.to_owned(),
        };
        let all = Role::ALL.iter().map(|role| role.name());
        catalogue.insert(described, all.chain([OPERATOR]).collect());
    }
    catalogue
}

/// Every metric's name.
pub(super) fn names() -> BTreeSet<String> {
    catalogue().into_keys().map(|metric| metric.name).collect()
}

#[test]
fn the_documentation_tells_every_metric() {
    let mut table = String::new();
    for (metric, who) in catalogue() {
        let code = |text: &String| format!("`{text}`");
        let labels: Vec<String> = metric.labels.iter().map(code).collect();
        let who = if who.len() == Role::ALL.len() + 1 {
            "all".to_owned()
        } else if who.len() == Role::ALL.len() {
            "nodes".to_owned()
        } else {
            who.join(", ")
        };
        writeln!(
            table,
            "| `{}` | {} | {} | {who} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    let header = "\n| metric | type | labels | who | what it means |\n|---|---|---|---|---|\n";
    let path = "docs/metrics.md";
    let old = read(path);
    let (above, _) = old.split_once(BEGIN).expect("a generated part");
    let text = format!("{above}{BEGIN}{header}{table}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(root().join(path), text).unwrap();
    } else {
        assert!(old == text, "{path} is old; UPDATE=1 rewrites it");
    }
}

/// The labels of each metric that a text in the exposition format has, but those of all.
fn scraped(text: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            current = Some((name.to_owned(), kind.to_owned()));
            metrics.insert(current.clone().unwrap(), BTreeSet::new());
        } else if !line.starts_with('#')
            && let Some(current) = &current
        {
            let labels = line
                .split_once('{')
                .and_then(|(_, rest)| rest.rsplit_once('}'));
            let labels = labels.map_or("", |(labels, _)| labels);
            let names = labels
                .split("\",")
                .filter_map(|label| label.split_once('='));
            let names = names.map(|(name, _)| name.to_owned());
            let of_it = metrics.get_mut(current).expect("it has a type");
            of_it.extend(names.filter(|name| name != "role" && name != "le"));
        }
    }
    metrics
}

/// Prometheus' own judgement of names, units and texts.
fn assert_well_named(text: &str) {
    let mut promtool = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = promtool.stdin.take().expect("it reads");
    stdin
        .write_all(text.as_bytes())
        .expect("it takes the metrics");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
}

fn expected(who: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let those = catalogue()
        .into_iter()
        .filter(|(_, all)| all.contains(&who));
    those
        .map(|(metric, _)| {
            let labels = metric.labels.into_iter().collect();
            ((metric.name, metric.kind.to_owned()), labels)
        })
        .collect()
}

#[test]
fn a_real_run_has_every_metric_that_is_documented_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let base = 10_100;
    let _local = Local::start("crds/samples/store.yaml", folder.path(), base);
    let propose = br#"{"clientId":"a","timestamp":1,"operation":"WRITE","resource":"r","data":1}"#;
    let url = format!("http://127.0.0.1:{}/propose?wait=true", base + 1);
    let agent = http::agent(Duration::from_secs(20));
    assert_eq!(
        http::post(&agent, &url, propose.to_vec()).unwrap().status,
        200
    );
    for (role, offset) in [
        (Role::Proposer, 0),
        (Role::Acceptor, 100),
        (Role::Learner, 200),
        (Role::Store, 300),
    ] {
        let url = format!("http://127.0.0.1:{}/metrics", base + offset + 1);
        let text = || {
            http::get(&url)
                .map(|answer| answer.text())
                .unwrap_or_default()
        };
        // Labels whose values are not known at the start, such as peers, come with the first use.
        let deadline = Instant::now() + Duration::from_secs(30);
        while scraped(&text()) != expected(role.name()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(200));
        }
        let text = text();
        assert_eq!(scraped(&text), expected(role.name()), "{role}");
        assert_well_named(&text);
        let label = format!("role=\"{role}\"");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        for sample in samples.filter(|line| !line.is_empty()) {
            assert!(sample.contains(&label), "{sample}");
        }
    }
    let metrics = OperatorMetrics::default();
    metrics.readable("all", true);
    let text = metrics.text();
    assert_eq!(scraped(&text), expected(OPERATOR));
    assert_well_named(&text);
}
