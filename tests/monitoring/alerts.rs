use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use rustix::process::Signal;
use serde_json::Value;
use testkit::local::Local;
use testkit::prometheus::{self, Prometheus};
use testkit::tools::{run, said, tool};

use super::{named, read};

const FILES: [&str; 2] = ["cluster", "operator"];
const PATIENCE: Duration = Duration::from_secs(60);

/// The alerts of the chart.
pub(super) fn alerts() -> Vec<Value> {
    let rules = FILES.map(|file| read(&format!("charts/paxos-operator/rules/{file}.yaml")));
    let groups = rules.iter().flat_map(|text| {
        let file: Value = serde_saphyr::from_str(text).expect("rules are YAML");
        file["groups"].as_array().expect("groups").clone()
    });
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules").clone());
    rules.collect()
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_it_should_not() {
    for file in FILES {
        let rules = format!("charts/paxos-operator/rules/{file}.yaml");
        let tests = format!("tests/rules/{file}.yaml");
        for arguments in [["check", "rules", &rules], ["test", "rules", &tests]] {
            let output = run(Command::new(tool("promtool")).args(arguments));
            assert!(output.status.success(), "{}", said(&output));
        }
    }
    let tests: Vec<Value> = FILES
        .iter()
        .map(|file| serde_saphyr::from_str(&read(&format!("tests/rules/{file}.yaml"))).unwrap())
        .collect();
    let checks = tests
        .iter()
        .flat_map(|file| file["tests"].as_array().unwrap());
    let checks = checks.flat_map(|test| test["promql_expr_test"].as_array().unwrap());
    let checks: Vec<&Value> = checks.collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        let of_it = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}");
        let samples = checks
            .iter()
            .filter(|check| check["expr"] == of_it.as_str());
        let firing: Vec<bool> = samples
            .map(|check| !check["exp_samples"].as_array().unwrap().is_empty())
            .collect();
        assert!(firing.contains(&true), "no test says when {name} fires");
        assert!(
            firing.contains(&false),
            "no test says when {name} is silent"
        );
    }
}

#[test]
fn each_alert_says_how_bad_it_is_what_it_is_and_what_to_do() {
    let runbooks = read("docs/runbooks.md");
    let sections: Vec<&str> = runbooks.split("\n## ").skip(1).collect();
    let mut without_alert: Vec<&str> = sections
        .iter()
        .filter_map(|section| section.lines().next())
        .collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        let annotations = &alert["annotations"];
        for (annotation, least) in [("summary", 20), ("description", 40)] {
            let text = annotations[annotation].as_str().unwrap_or_default();
            assert!(text.len() >= least, "{name} has no {annotation}");
            assert!(text.ends_with('.'), "{name}'s {annotation} is no sentence");
        }
        let url = annotations["runbook_url"].as_str().unwrap_or_default();
        let (_, anchor) = url
            .split_once("docs/runbooks.md#")
            .expect("a runbook's URL");
        assert_eq!(anchor, name.to_lowercase());
        let section = sections
            .iter()
            .find(|section| section.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("docs/runbooks.md has no section {name}"));
        for part in ["**See it**", "**Mend it**", "```sh"] {
            assert!(section.contains(part), "the runbook of {name} lacks {part}");
        }
        without_alert.retain(|section| *section != name);
    }
    assert_eq!(without_alert, [""; 0], "runbooks without an alert");
}

#[test]
fn a_real_prometheus_tells_that_three_of_five_acceptors_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::start("crds/samples/full.yaml", folder.path(), 10_700);
    prometheus::rules(&folder.path().join("rules"), Some("2s"));
    let config = folder.path().join("prometheus.yml");
    let line = format!("prometheus --config.file={} scrapes it", config.display());
    assert!(local.output().contains(&line), "{}", local.output());
    let prometheus = Prometheus::start(&config, folder.path());

    let loaded = prometheus.get("rules", &[]).to_string();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(loaded.contains(name), "{name} is not loaded");
    }
    let wait_for = |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            thread::sleep(Duration::from_millis(100));
        }
    };
    let everything_is_up = || prometheus.query("up == 1").len() == 12;
    wait_for("Prometheus scrapes every node", &everything_is_up);
    assert!(prometheus.firing("PaxosQuorumLost").is_empty());

    let cluster = prometheus.query("paxos_is_leader == 1")[0]["metric"]["paxos_cluster"].clone();
    let cluster = cluster.as_str().expect("a cluster's name").to_owned();
    // Stopped, as a killed one is started again at once.
    let stopped: Vec<String> = (1..=3)
        .map(|id| format!("{cluster}-{}-{id}", Role::Acceptor))
        .collect();
    for pod in &stopped {
        local.signal(pod, Signal::STOP);
    }
    wait_for("the alert fires", &|| {
        !prometheus.firing("PaxosQuorumLost").is_empty()
    });
    let [alert] = &prometheus.firing("PaxosQuorumLost")[..] else {
        panic!("one alert for one cluster");
    };
    assert_eq!(alert["labels"]["severity"], "critical");
    let text = alert["annotations"]["description"].as_str().unwrap();
    let expected = format!("Only 2 acceptors of local/{cluster} vote");
    assert!(text.starts_with(&expected), "{text}");
    for pod in &stopped {
        local.signal(pod, Signal::CONT);
    }
    wait_for("the alert ends", &|| {
        prometheus.firing("PaxosQuorumLost").is_empty()
    });
}

#[test]
fn rules_name_only_metrics_that_there_are() {
    let known = super::metrics::names();
    for alert in alerts() {
        let expression = alert["expr"].as_str().expect("an expression");
        let names = named(expression);
        assert!(!names.is_empty(), "{alert}");
        assert!(names.is_subset(&known), "{names:?} in {alert}");
    }
}
