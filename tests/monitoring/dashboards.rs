//! The rules of Grafana's own dashboard linter, and a few more.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use testkit::tools::{run, said, tool};

use super::{named, read};

const FILES: [&str; 2] = ["cluster", "operator"];

fn dashboard(name: &str) -> Value {
    let text = read(&format!("charts/paxos-operator/dashboards/{name}.json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All panels but the headings.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = list(&dashboard["panels"]).iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// The queries of a dashboard, with values for its variables.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = panels(dashboard)
        .into_iter()
        .flat_map(|panel| list(&panel["targets"]));
    let expressions = targets.map(|target| {
        let expression = text(&target["expr"]).replace("$__rate_interval", "5m");
        ["$namespace", "$cluster"]
            .iter()
            .fold(expression, |e, variable| e.replace(variable, ".*"))
    });
    expressions.collect()
}

#[test]
fn dashboards_are_as_grafana_wants_them() {
    let mut uids = BTreeSet::new();
    for name in FILES {
        let dashboard = dashboard(name);
        assert_eq!(dashboard["editable"], false, "{name}");
        assert!(uids.insert(text(&dashboard["uid"]).to_owned()), "{name}");
        assert!(!text(&dashboard["description"]).is_empty(), "{name}");
        let variables = list(&dashboard["templating"]["list"]);
        assert_eq!(variables[0]["name"], "datasource", "{name}");
        assert_eq!(variables[0]["type"], "datasource", "{name}");
        assert_eq!(variables[0]["query"], "prometheus", "{name}");
        let names: Vec<&str> = variables.iter().map(|v| text(&v["name"])).collect();
        let expected: &[&str] = match name {
            "cluster" => &["datasource", "namespace", "cluster"],
            _ => &["datasource", "namespace"],
        };
        assert_eq!(names, expected);
        for variable in &variables[1..] {
            // Again with each change of the time range.
            assert_eq!(variable["refresh"], 2, "{variable}");
            assert_eq!(variable["multi"], true, "{variable}");
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{variable}");
        }
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
            assert!(!text(&panel["title"]).is_empty(), "{panel}");
        }
        for panel in panels(&dashboard) {
            let title = text(&panel["title"]);
            assert!(text(&panel["description"]).ends_with('.'), "{title}");
            assert!(
                !text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let targets = list(&panel["targets"]);
            assert!(!targets.is_empty(), "{title}");
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
                assert!(!text(&target["legendFormat"]).is_empty(), "{title}");
                let expression = text(&target["expr"]);
                for variable in &names[1..] {
                    assert!(
                        expression.contains(&format!("=~\"${variable}\"")),
                        "{title}"
                    );
                }
                assert_counters_as_rates(title, expression);
            }
        }
        assert_no_overlap(list(&dashboard["panels"]));
    }
}

/// A counter's value says nothing, and a rate's interval is Grafana's to choose.
fn assert_counters_as_rates(title: &str, expression: &str) {
    for ending in ["_total{", "_bucket{", "_count{"] {
        for (at, _) in expression.match_indices(ending) {
            let before = &expression[..at];
            let name = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let before = &before[..=name.expect("it is in a function")];
            let in_rate = before.ends_with("rate(") || before.ends_with("increase(");
            assert!(in_rate, "{title}: {expression}");
        }
    }
    for (at, _) in expression.match_indices('[') {
        assert!(
            expression[at..].starts_with("[$__rate_interval]"),
            "{title}"
        );
    }
}

fn assert_no_overlap(panels: &[Value]) {
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
    }
}

#[test]
fn every_query_is_one_and_names_metrics_that_there_are() {
    let known = super::metrics::names();
    let mut rules = Vec::new();
    for name in FILES {
        let dashboard = dashboard(name);
        for variable in list(&dashboard["templating"]["list"]) {
            let query = text(&variable["definition"]);
            assert!(named(query).is_subset(&known), "{query}");
        }
        for expression in expressions(&dashboard) {
            let names = named(&expression);
            assert!(!names.is_empty() && names.is_subset(&known), "{expression}");
            rules.push(json!({"record": format!("panel_{}", rules.len()), "expr": expression}));
        }
    }
    assert!(rules.len() > 40, "{}", rules.len());
    // JSON is YAML, and promtool parses what is in a rule.
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    let groups = json!({"groups": [{"name": "panels", "rules": rules}]});
    fs::write(file.path(), groups.to_string()).expect("the scratch file can be written");
    let check = ["check", "rules", "--lint=none"];
    let output = run(Command::new(tool("promtool")).args(check).arg(file.path()));
    assert!(output.status.success(), "{}", said(&output));
}
