//! `/openapi.json` of each role says what that role answers: no route is missing, none is invented.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use api::env::Role;
use http::{Method, Request};
use serde_json::Value as Json;
use testkit::cluster::{Cluster, Name, http as wire};
use testkit::files::rust_files;
use testkit::tools::root;

/// The routes of the sources. Those built from a variable are the cluster's own, below `/paxos/`.
fn routes() -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    let files = rust_files(&root().join("proposer/src")).into_iter();
    for file in files.filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        for call in text.split(".route(").skip(1) {
            let argument = call.trim_start();
            match argument.strip_prefix('"') {
                Some(literal) => {
                    routes.insert(literal.split('"').next().unwrap().to_owned());
                }
                None => {
                    let own = ["&path,", "&format!(\"{path}/"];
                    let is_own = own.iter().any(|own| argument.starts_with(own));
                    assert!(is_own, "{}: .route({:.40}", file.display(), argument);
                }
            }
        }
    }
    routes
}

/// What the server allows at a path; `None` when there is nothing.
fn allowed(cluster: &Cluster, node: Name, path: &str) -> Option<BTreeSet<String>> {
    let url = format!("{}{path}", cluster.node(node).url());
    let request = Request::builder().method(Method::OPTIONS).uri(url);
    let agent = wire::agent(Duration::from_secs(10));
    let answer = wire::send(&agent, request.body(Vec::new()).unwrap()).unwrap();
    if answer.status == 404 {
        return None;
    }
    assert_eq!(answer.status, 405, "{path}");
    let allow = answer.header("allow").split(',');
    let methods = allow.map(|method| method.trim().to_ascii_lowercase());
    // What takes GET takes HEAD.
    Some(methods.filter(|method| method != "head").collect())
}

fn document(cluster: &Cluster, node: Name) -> Json {
    let url = format!("{}/openapi.json", cluster.node(node).url());
    let answer = wire::get(&url).unwrap();
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()
}

#[test]
fn every_route_of_every_role_is_documented_with_its_methods() {
    let mut cluster = Cluster::start(1, 1, 1);
    let store = cluster.add_store();
    cluster.wait_until_ready();
    let routes = routes();
    assert!(
        routes.contains("/propose") && routes.contains("/accept"),
        "{routes:?}"
    );
    let mut seen = BTreeSet::new();
    for node in [
        (Role::Proposer, 1),
        (Role::Acceptor, 1),
        (Role::Learner, 1),
        store,
    ] {
        let document = document(&cluster, node);
        let paths = document["paths"].as_object().unwrap();
        let mut documented: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (path, item) in paths {
            let methods = item.as_object().unwrap().keys().cloned().collect();
            documented.insert(path, methods);
        }
        for route in &routes {
            let path = route.replace("{*", "{");
            let example = path.replace("{id}", "1");
            assert!(!example.contains('{'), "an example for {route}");
            let allowed = allowed(&cluster, node, &example);
            assert_eq!(
                documented.remove(path.as_str()),
                allowed,
                "what {} documents and allows at {path}",
                node.0
            );
            if allowed.is_some() {
                seen.insert(route.clone());
            }
        }
        assert!(
            documented.is_empty(),
            "{}: no such routes: {documented:?}",
            node.0
        );
    }
    assert_eq!(seen, routes, "each route is some role's");
}

#[test]
fn the_documents_have_the_right_version_and_no_loose_ends() {
    let mut cluster = Cluster::start(1, 1, 1);
    let store = cluster.add_store();
    cluster.wait_until_ready();
    for node in [
        (Role::Proposer, 1),
        (Role::Acceptor, 1),
        (Role::Learner, 1),
        store,
    ] {
        let document = document(&cluster, node);
        let status = cluster.node(node).status().unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], status["version"]);
        assert_eq!(
            document["info"]["title"],
            format!("Cluster Sync {}", node.0)
        );
        let mut loose = Vec::new();
        visit(&document, &mut |json| {
            if let Some(target) = json["$ref"].as_str() {
                let pointer = target.trim_start_matches('#');
                if document.pointer(pointer).is_none() {
                    loose.push(format!("{target} leads nowhere"));
                }
            }
            if json["in"] == "query" {
                let schema = &json["schema"];
                let integer = schema["type"].to_string().contains("integer");
                if integer && (schema["minimum"].is_null() || schema["maximum"].is_null()) {
                    loose.push(format!("{} has no range", json["name"]));
                }
            }
            if json["responses"].is_object() && json["summary"].is_null() {
                loose.push(format!("{} has no summary", json["operationId"]));
            }
        });
        assert_eq!(loose, [""; 0], "{}", node.0);
    }
}

fn visit(json: &Json, see: &mut impl FnMut(&Json)) {
    see(json);
    match json {
        Json::Object(fields) => fields.values().for_each(|json| visit(json, see)),
        Json::Array(items) => items.iter().for_each(|json| visit(json, see)),
        _ => {}
    }
}
