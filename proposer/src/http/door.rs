//! Who may knock. A web page that a user of the network happens to look at can send requests to any
//! address that the user's browser reaches, and with its own name that it points to a node
//! ("DNS rebinding") read the answers, too. Two rules keep it out, and programs notice neither:
//!
//! - A request's `Host` is a name by which the node is meant: an IP address, `localhost`, a name
//!   without dots, a name from the lists of addresses or made like those, or one of `ALLOWED_HOSTS`.
//! - What a browser says about where a request comes from (`Origin`, `Sec-Fetch-Site`) is the node
//!   itself, or one of `ALLOWED_ORIGINS`.
//!
//! Messages of the cluster's nodes are not turned away for their `Host`: they name the cluster and
//! the node themselves, no browser sends them without saying so, and an address that somebody forgot
//! to list must not cost a quorum.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use api::env::{Access, Role, host};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::addresses::Addresses;
use crate::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// The domain of a Kubernetes cluster unless it was given another one: then `ALLOWED_HOSTS` says it.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The rules of one node.
#[derive(Clone, Debug)]
pub struct Door {
    hosts: BTreeSet<String>,
    origins: Vec<HeaderValue>,
    addresses: Addresses,
}

/// Who sent a request that is let in.
pub(super) enum Caller {
    /// A node of the cluster, no browser: its answer needs no word to one.
    Node,
    /// Anybody else but the following.
    Client,
    /// A web page that may use this node, by its origin; the answer must say so.
    Page(HeaderValue),
}

impl Door {
    /// With what the configuration allows beside the node's own names.
    pub fn new(access: &Access, addresses: &Addresses) -> Door {
        let mut hosts: BTreeSet<String> = access.hosts.iter().cloned().collect();
        let here = rustix::system::uname();
        hosts.extend(here.nodename().to_str().ok().and_then(host));
        let origins = access.origins.iter();
        Door {
            hosts,
            origins: origins.filter_map(|origin| origin.parse().ok()).collect(),
            addresses: addresses.clone(),
        }
    }

    /// Lets a request in, and tells whose it is, or says why not.
    ///
    /// # Errors
    /// The answer, in place of what the request asks for.
    pub(super) fn admit(&self, request: &Request) -> Result<Caller, Box<Response>> {
        let refuse = |problem: Problem| Err(Box::new(problem.into_response()));
        let headers = request.headers();
        let host = match named(request) {
            Ok(host) => host,
            Err(problem) => return refuse(problem),
        };
        let origin = headers.get(ORIGIN);
        let site = headers.get(SEC_FETCH_SITE);
        let of_a_node = request.uri().path().starts_with("/paxos/");
        let from_browser = origin.is_some() || site.is_some();
        if of_a_node && !from_browser {
            return Ok(Caller::Node);
        }
        if !self.is_ours(host) {
            let detail = format!(
                "this node is not called {host:?}: use its address or a name of its Services, or \
                 add the name to ALLOWED_HOSTS (spec.hosts of a PaxosCluster)"
            );
            return refuse(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if !from_browser {
            return Ok(Caller::Client);
        }
        let listed = origin.filter(|origin| self.lists(origin));
        if let Some(page) = listed {
            return match request.method() {
                &Method::OPTIONS => Err(Box::new(preflight(page.clone()))),
                _ => Ok(Caller::Page(page.clone())),
            };
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let foreign_site = site.is_some_and(|site| {
            let site = site.as_bytes();
            site != b"same-origin" && site != b"none"
        });
        let foreign_origin = origin.is_some_and(|origin| !is_here(origin, host));
        if foreign_origin || (foreign_site && !reads) {
            let detail = "a web page of another site must not use this node: add its origin to \
                          ALLOWED_ORIGINS if it may";
            return refuse(Problem::forbidden(detail));
        }
        Ok(Caller::Client)
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        let same = |listed: &&HeaderValue| {
            let (listed, origin) = (listed.as_bytes(), origin.as_bytes());
            listed.eq_ignore_ascii_case(origin)
        };
        self.origins.iter().any(|listed| same(&listed))
    }

    /// Whether a `Host` means this node. Not which port: there may be another one in front of it.
    fn is_ours(&self, host_and_port: &str) -> bool {
        let Some(name) = without_port(host_and_port) else {
            return false;
        };
        if let Some(address) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok();
        }
        // A single label, which covers localhost. Its own dot at the end changes nothing.
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return false;
        }
        if !name.contains('.') {
            return host(name).is_some();
        }
        if name.as_bytes()[0].is_ascii_digit() && name.parse::<IpAddr>().is_ok() {
            return true;
        }
        let Some(name) = host(name) else {
            return false;
        };
        self.hosts.contains(&name) || self.is_listed(&name)
    }

    /// A name from the lists of addresses, or one that the Services of such a cluster have.
    fn is_listed(&self, name: &str) -> bool {
        let lists = self.addresses.now();
        let addresses = Role::ALL.into_iter().flat_map(|role| lists.of_role(role));
        let mut hosts = addresses.filter_map(|address| host(without_port(address)?));
        hosts.any(|listed| listed == name || is_sibling(name, &listed))
    }
}

/// Whether a name is one of a Service or a pod of the PaxosCluster that the listed node is of:
/// `c-acceptor-1.c-acceptor.NAMESPACE.svc` makes `c`, `c-reader`, `c-store-reader`, `c-ROLE` and
/// `c-ROLE-k.c-ROLE` own names, each in any of the forms that Kubernetes resolves.
fn is_sibling(name: &str, listed: &str) -> bool {
    let Some((cluster, namespace, own_domain)) = cluster_of(listed) else {
        return false;
    };
    let domain = name
        .strip_suffix(own_domain)
        .or_else(|| name.strip_suffix(CLUSTER_DOMAIN));
    let name = domain
        .and_then(|name| name.strip_suffix('.'))
        .unwrap_or(name);
    let name = match (domain, name.strip_suffix(".svc")) {
        (_, Some(name)) => name,
        (None, None) => name,
        // Of that domain, and no Service.
        (Some(_), None) => return false,
    };
    let Some(name) = name
        .strip_suffix(namespace)
        .and_then(|n| n.strip_suffix('.'))
    else {
        return false;
    };
    let Some(rest) = name.strip_prefix(cluster) else {
        return false;
    };
    let is_role = |rest: &str| {
        Role::ALL
            .iter()
            .any(|role| rest.strip_prefix('-') == Some(role.name()))
    };
    match rest.split_once('.') {
        None => ["", "-reader", "-store-reader"].contains(&rest) || is_role(rest),
        Some((pod, service)) => {
            let role = service.strip_prefix(cluster).unwrap_or_default();
            let number = pod.strip_prefix(role).and_then(|pod| pod.strip_prefix('-'));
            let number = number.and_then(|number| number.parse::<u8>().ok());
            is_role(role) && number.is_some()
        }
    }
}

/// The cluster's name, its namespace, and the domain of the Kubernetes cluster, of a node's name as the
/// operator writes it: with the domain, or without where it is not told.
fn cluster_of(listed: &str) -> Option<(&str, &str, &str)> {
    let (name, domain) = match listed.split_once(".svc.") {
        Some(absolute) => absolute,
        None => (listed.strip_suffix(".svc")?, CLUSTER_DOMAIN),
    };
    let mut labels = name.splitn(3, '.');
    let (pod, service, namespace) = (labels.next()?, labels.next()?, labels.next()?);
    let (cluster, role) = service.rsplit_once('-')?;
    let number = pod.strip_prefix(service)?.strip_prefix('-')?;
    number.parse::<u8>().ok()?;
    Role::parse(role)?;
    Some((cluster, namespace, domain))
}

/// Whom the request names: the one `Host` that it has. With a whole URL in its first line, as for a
/// proxy, that counts (RFC 9112, 3.2.2).
fn named(request: &Request) -> Result<&str, Problem> {
    let bad = |detail: &str| Problem::bad_request("Host", detail);
    let mut hosts = request.headers().get_all(HOST).iter();
    let held = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if request.version() == Version::HTTP_10 => return Ok("localhost"),
        (None, _) => return Err(bad("the request has none, and must have one")),
        (Some(_), Some(_)) => return Err(bad("the request has more than one")),
    };
    let held = held.to_str().ok().filter(|held| !held.is_empty());
    let held = held.ok_or_else(|| bad("is no host"))?;
    match request.uri().authority() {
        Some(whole) => Ok(whole.as_str()),
        None => Ok(held),
    }
}

/// The part of `host[:port]` before the port; `None` when the port is not valid.
fn without_port(text: &str) -> Option<&str> {
    let end_of_ip = text.find(']').map_or(0, |end| end + 1);
    match text[end_of_ip..].find(':') {
        None => Some(text),
        Some(colon) => {
            let (host, port) = text.split_at(end_of_ip + colon);
            let digits = port[1..].bytes().all(|byte| byte.is_ascii_digit());
            digits.then_some(host)
        }
    }
}

/// Whether a page comes from the very host and port that it calls. Of `null`, which stands for a page
/// that must not say where it comes from, nobody knows that.
fn is_here(origin: &HeaderValue, host: &str) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// The answer to a browser that asks whether a listed page may send a request.
fn preflight(page: HeaderValue) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let fixed = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "Content-Type, If-None-Match, Last-Event-ID",
        ),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    mark(headers, Caller::Page(page));
    response
}

/// What every answer tells browsers: that it is what its type says, and not for other sites but the
/// listed one that asked.
pub(super) fn mark(headers: &mut HeaderMap, caller: Caller) {
    let policy = match caller {
        Caller::Node => return,
        Caller::Client => "same-origin",
        Caller::Page(origin) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("ETag, Retry-After"),
            );
            headers.insert(VARY, HeaderValue::from_static("Origin"));
            "cross-origin"
        }
    };
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static(policy));
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use api::env::Config;
    use paxos::ids::NodeId;

    fn door(hosts: &str, acceptors: &[&str]) -> Door {
        let config = Config {
            acceptors: acceptors.iter().map(|a| (*a).to_owned()).collect(),
            ..Config::new(Role::Acceptor, NodeId::new(1).unwrap())
        };
        let access = Access {
            hosts: hosts.split_terminator(',').map(str::to_owned).collect(),
            origins: vec!["https://console.example".to_owned()],
            ..Access::default()
        };
        Door::new(&access, &Addresses::start(&config).unwrap())
    }

    fn status(door: &Door, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match door.admit(&request.body(Body::empty()).unwrap()) {
            Ok(_) => 200,
            Err(response) => response.status().as_u16(),
        }
    }

    #[test]
    fn a_node_answers_to_its_own_names_alone() {
        let door = door(
            "paxos.example.com",
            &["A1.corp.example:81", "10.0.0.7:80", "[::1]:5"],
        );
        for ours in [
            "127.0.0.1",
            "10.9.8.7:8080",
            "[::1]:80",
            "[fe80::1]",
            "localhost",
            "LOCALHOST:9501",
            "localhost.",
            "x",
            "my-node:1",
            "a1.corp.example",
            "A1.Corp.Example.:9",
            "paxos.example.com:30080",
        ] {
            assert_eq!(
                status(&door, "GET", "/status", &[("host", ours)]),
                200,
                "{ours}"
            );
        }
        for other in [
            "evil.example",
            "a1.corp.example.evil",
            "corp.example",
            "a2.corp.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "1.2.3",
            "[::1",
            "[evil.example]",
            "a b",
            "a:b",
            "user@localhost",
            "localhost.evil.example",
            "x.paxos.example.com",
            ".",
            ":80",
            "localhost:80:80",
        ] {
            assert_eq!(
                status(&door, "GET", "/status", &[("host", other)]),
                421,
                "{other}"
            );
        }
        for hosts in [
            &[][..],
            &[("host", "a"), ("host", "b")],
            &[("host", "a"), ("host", "a")],
            &[("host", "")],
        ] {
            assert_eq!(status(&door, "POST", "/propose", hosts), 400, "{hosts:?}");
        }
        let whole = [("host", "localhost")];
        assert_eq!(
            status(&door, "GET", "http://evil.example/status", &whole),
            421
        );
        assert_eq!(
            status(
                &door,
                "GET",
                "http://localhost:9/status",
                &[("host", "evil.example")]
            ),
            200
        );
    }

    #[test]
    fn a_cluster_of_kubernetes_answers_to_its_services_and_pods() {
        let door = door("", &["my-db-acceptor-1.my-db-acceptor.prod.svc:8080"]);
        for name in [
            "my-db",
            "my-db-reader",
            "my-db-store-reader",
            "my-db-learner",
            "my-db-store-3.my-db-store",
            "my-db-proposer-255.my-db-proposer",
        ] {
            for domain in [
                "prod",
                "prod.svc",
                "prod.svc.cluster.local",
                "prod.svc.cluster.local.",
            ] {
                let host = format!("{name}.{domain}:8080");
                assert_eq!(
                    status(&door, "GET", "/status", &[("host", &host)]),
                    200,
                    "{host}"
                );
            }
        }
        for other in [
            "my-db.other.svc",
            "my-db.prod.svc.evil.example",
            "my-dbx.prod.svc",
            "my-db-x.prod.svc",
            "other.prod",
            "my-db-store-3.my-db-learner.prod.svc",
            "my-db-store-x.my-db-store.prod.svc",
            "my-db.prod.cluster.local",
            "my-db-store-300.my-db-store.prod",
            "prod.svc",
            "my-db.prod.svc.cluster.local.evil.example",
        ] {
            assert_eq!(
                status(&door, "GET", "/status", &[("host", other)]),
                421,
                "{other}"
            );
        }
    }

    #[test]
    fn absolute_names_make_the_short_ones_own_names_as_well() {
        let door = door(
            "",
            &["db-acceptor-1.db-acceptor.prod.svc.corp.example.:8080"],
        );
        for ours in [
            "db.prod.svc",
            "db.prod",
            "db-store-reader.prod.svc.corp.example",
            "db-acceptor-2.db-acceptor.prod.svc.corp.example.",
        ] {
            let asked = [("host", ours)];
            assert_eq!(status(&door, "GET", "/status", &asked), 200, "{ours}");
        }
        for other in [
            "db.prod.svc.example",
            "x.prod.svc.corp.example",
            "db.prod.corp.example",
        ] {
            let asked = [("host", other)];
            assert_eq!(status(&door, "GET", "/status", &asked), 421, "{other}");
        }
    }

    #[test]
    fn messages_of_nodes_come_in_under_any_name_unless_a_browser_sends_them() {
        let door = door("", &["a:1"]);
        let host = ("host", "learner.elsewhere.example");
        assert_eq!(status(&door, "POST", "/paxos/acceptor/1", &[host]), 200);
        assert_eq!(status(&door, "POST", "/propose", &[host]), 421);
        for browser in [
            ("origin", "http://learner.elsewhere.example"),
            ("sec-fetch-site", "same-origin"),
        ] {
            assert_eq!(
                status(&door, "POST", "/paxos/acceptor/1", &[host, browser]),
                421
            );
        }
    }

    #[test]
    fn other_sites_neither_write_nor_read() {
        let door = door("", &["a:1"]);
        let ask = |method: &str, more: &[(&str, &str)]| {
            let headers = [&[("host", "localhost:9501")], more].concat();
            status(&door, method, "/propose", &headers)
        };
        for site in ["cross-site", "same-site", "CROSS-SITE", "new-kind"] {
            assert_eq!(ask("POST", &[("sec-fetch-site", site)]), 403, "{site}");
            assert_eq!(ask("DELETE", &[("sec-fetch-site", site)]), 403, "{site}");
            // A link to it may be followed; a script there reads nothing of it.
            assert_eq!(ask("GET", &[("sec-fetch-site", site)]), 200, "{site}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "http://localhost",
            "http://localhost:9502",
            "https://localhost:9501x",
            "x",
            "",
        ] {
            for method in ["POST", "GET", "HEAD", "OPTIONS", "PUT"] {
                assert_eq!(ask(method, &[("origin", origin)]), 403, "{method} {origin}");
            }
        }
        for own in ["http://localhost:9501", "http://LocalHost:9501"] {
            assert_eq!(
                ask(
                    "POST",
                    &[("origin", own), ("sec-fetch-site", "same-origin")]
                ),
                200
            );
        }
        assert_eq!(ask("POST", &[("sec-fetch-site", "none")]), 200);
        assert_eq!(ask("POST", &[]), 200);
        let plain = [("host", "localhost"), ("origin", "http://localhost:80")];
        assert_eq!(status(&door, "POST", "/propose", &plain), 200);
    }

    #[test]
    fn a_listed_page_is_told_that_it_may() {
        let door = door("", &["a:1"]);
        let request = |method: &str| {
            Request::builder()
                .method(method)
                .uri("/resources")
                .header("host", "localhost")
                .header("origin", "https://console.example")
                .header("sec-fetch-site", "cross-site")
                .body(Body::empty())
                .unwrap()
        };
        let preflight = door.admit(&request("OPTIONS")).err().unwrap();
        assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
        let page = door.admit(&request("POST")).ok().unwrap();
        let mut headers = HeaderMap::new();
        mark(&mut headers, page);
        for headers in [&headers, preflight.headers()] {
            assert_eq!(
                headers[ACCESS_CONTROL_ALLOW_ORIGIN],
                "https://console.example"
            );
            assert_eq!(headers[VARY], "Origin");
        }
        let mut other = HeaderMap::new();
        mark(&mut other, Caller::Client);
        assert!(!other.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(other[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(other[RESOURCE_POLICY], "same-origin");
    }
}
