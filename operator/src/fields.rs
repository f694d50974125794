//! Single fields of a spec: what each may hold, or [`Invalid`]. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use api::env::{self, DEFAULT_RETRY_WINDOW, MIN_STATE_QUOTA, Target};
use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use paxos::stamp::RETRY_WINDOW_MS;
use serde_json::Value;

use crate::crd::{DisruptionBudget, Resources, ServicesSpec};
use crate::invalid::Invalid;
use crate::{names, quantity, strict};

/// As many as a learner takes.
const CLIENTS_MAX: usize = 255;
/// As many as a node takes.
const HOSTS_MAX: usize = 255;

/// How many pods of a role may be evicted at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Budget {
    /// As many as the role can do without.
    Spare,
    /// At most this many.
    AtMost(IntOrString),
}

/// Refuses keys that are the operator's: those of `ours`, and all of its group.
pub(crate) fn leaves_ours(
    field: &str,
    given: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    let group = format!("{}/", names::GROUP);
    let taken = |key: &&String| ours.contains_key(*key) || key.starts_with(&group);
    match given.keys().find(taken) {
        Some(key) => Err(Invalid::new(
            field,
            format!("sets {key}, which is the operator's: leave it out"),
        )),
        None => Ok(()),
    }
}

/// What the user wants beside what the operator writes under `ours`.
pub(crate) fn extra(
    field: &str,
    given: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Invalid> {
    leaves_ours(field, given, ours)?;
    match given.keys().find(|key| !is_qualified(key)) {
        Some(key) => Err(Invalid::new(
            field,
            format!("has {key:?}, must have names such as team or example.com/team"),
        )),
        None => Ok(given.clone()),
    }
}

/// The same of labels, whose values are names as well.
pub(crate) fn extra_labels(
    field: &str,
    given: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Invalid> {
    let bad = given
        .iter()
        .find(|(_, value)| !value.is_empty() && !is_name(value));
    match bad {
        Some((key, value)) => Err(Invalid::new(
            format!("{field}.{key}"),
            format!(
                "is {value:?}, must be at most 63 letters, digits, dashes, dots and underscores, and begin \
                 and end with a letter or digit"
            ),
        )),
        None => extra(field, given, ours),
    }
}

/// A name as Kubernetes has it in keys, with or without a domain before it.
fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            !domain.is_empty() && domain.len() <= 253 && domain.chars().all(plain) && is_name(name)
        }
        None => is_name(key),
    }
}

fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let (first, last) = (text.chars().next(), text.chars().last());
    text.len() <= 63 && ends(first) && ends(last) && text.chars().all(plain)
}

/// The security contexts of pods and of their nodes' containers.
pub(crate) fn check_contexts(
    of: &str,
    pod: Option<&Value>,
    container: Option<&Value>,
) -> Result<(Option<PodSecurityContext>, Option<SecurityContext>), Invalid> {
    let pod = pod.map(|given| {
        strict::parse(
            &format!("{of}.podSecurityContext"),
            given,
            "a pod's security context",
        )
    });
    let container = container.map(|given| {
        strict::parse(
            &format!("{of}.securityContext"),
            given,
            "a container's security context",
        )
    });
    Ok((pod.transpose()?, container.transpose()?))
}

pub(crate) fn parse_domain(given: Option<&str>) -> Result<Option<String>, Invalid> {
    let Some(given) = given else {
        return Ok(None);
    };
    let domain = given.strip_suffix('.').unwrap_or(given);
    match env::host(domain) {
        Some(domain) if domain.split('.').all(|label| !label.is_empty()) => Ok(Some(domain)),
        _ => Err(Invalid::new(
            "spec.clusterDomain",
            format!("is {given:?}, must be a domain such as cluster.local"),
        )),
    }
}

pub(crate) fn parse_services(given: &ServicesSpec) -> Result<ServicesSpec, Invalid> {
    let annotations = &given.annotations;
    extra("spec.services.annotations", annotations, &BTreeMap::new())?;
    if given.ip_families.len() == 2 && given.ip_families[0] == given.ip_families[1] {
        return Err(Invalid::new(
            "spec.services.ipFamilies",
            "names one family twice",
        ));
    }
    if given.ip_families.len() == 2 && given.ip_family_policy.as_deref() == Some("SingleStack") {
        return Err(Invalid::new(
            "spec.services.ipFamilies",
            "has two families, and ipFamilyPolicy is SingleStack: name one, or set PreferDualStack",
        ));
    }
    Ok(given.clone())
}

pub(crate) fn parse_budget(
    field: &str,
    given: Option<&DisruptionBudget>,
) -> Result<Option<Budget>, Invalid> {
    let given = given.cloned().unwrap_or_default();
    if given.enabled == Some(false) {
        return Ok(None);
    }
    let refuse = |text: &str| {
        Err(Invalid::new(
            format!("{field}.maxUnavailable"),
            format!("is {text}, must be a number from 1 or a share such as 25%"),
        ))
    };
    match given.max_unavailable {
        None => Ok(Some(Budget::Spare)),
        Some(IntOrString::Int(number)) if number < 1 => refuse(&number.to_string()),
        Some(IntOrString::String(text)) => {
            let share = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<u8>().ok());
            match share {
                Some(1..=100) => Ok(Some(Budget::AtMost(IntOrString::String(text)))),
                _ => refuse(&text),
            }
        }
        Some(number) => Ok(Some(Budget::AtMost(number))),
    }
}

/// A Service's name is a DNS label that begins with a letter, so the cluster's must be one too.
pub(crate) fn parse_name(name: &str) -> Result<String, Invalid> {
    let good = name.len() <= names::CLUSTER_NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if good {
        return Ok(name.to_owned());
    }
    Err(Invalid::new(
        "metadata.name",
        format!(
            "is {name:?}, must be at most {} lower-case letters, digits and dashes, and begin with \
             a letter, since pods and Services are named after it",
            names::CLUSTER_NAME_MAX
        ),
    ))
}

pub(crate) fn parse_clients(clients: &[String]) -> Result<Vec<Target>, Invalid> {
    if clients.len() > CLIENTS_MAX {
        let problem = format!(
            "has {} clients, must have at most {CLIENTS_MAX}",
            clients.len()
        );
        return Err(Invalid::new("spec.notifyClients", problem));
    }
    let parse = |(i, client): (usize, &String)| {
        Target::parse(client).ok_or_else(|| {
            Invalid::new(
                format!("spec.notifyClients[{i}]"),
                format!(
                    "is {client:?}, must be a plain host or host:port, such as orders.shop:8080"
                ),
            )
        })
    };
    clients.iter().enumerate().map(parse).collect()
}

pub(crate) fn parse_hosts(hosts: &[String]) -> Result<Vec<String>, Invalid> {
    if hosts.len() > HOSTS_MAX {
        let problem = format!("has {} names, must have at most {HOSTS_MAX}", hosts.len());
        return Err(Invalid::new("spec.hosts", problem));
    }
    let parse = |(i, name): (usize, &String)| {
        env::host(name).ok_or_else(|| {
            let problem =
                format!("is {name:?}, must be a name without a port, such as paxos.example.com");
            Invalid::new(format!("spec.hosts[{i}]"), problem)
        })
    };
    hosts.iter().enumerate().map(parse).collect()
}

pub(crate) fn parse_window(given: Option<&str>) -> Result<Duration, Invalid> {
    let Some(given) = given else {
        return Ok(DEFAULT_RETRY_WINDOW);
    };
    let digits = given.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = given.split_at(digits.unwrap_or(given.len()));
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok();
    match number.and_then(|number| number.checked_mul(unit_ms)) {
        Some(ms) if RETRY_WINDOW_MS.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(Invalid::new(
            "spec.retryWindow",
            format!("is {given:?}, must be a time from 1s to 1h such as 60s"),
        )),
    }
}

/// As given, or what fits the learners' memory where a proposer cannot tell it from its own.
pub(crate) fn parse_quota(
    given: Option<&IntOrString>,
    own: Option<&Quantity>,
    learners: Option<&Quantity>,
) -> Result<Option<u64>, Invalid> {
    let bytes = |quantity: &Quantity| {
        let nanos = quantity::nanos(&quantity.0)?;
        u64::try_from(nanos / 1_000_000_000).ok()
    };
    let Some(given) = given else {
        let (own, learners) = (own.and_then(bytes), learners.and_then(bytes));
        return Ok(learners.filter(|_| own != learners).map(env::quota_for));
    };
    let quantity = positive("spec.quota", given)?;
    match bytes(&quantity) {
        Some(bytes) if bytes >= MIN_STATE_QUOTA => Ok(Some(bytes)),
        _ => Err(Invalid::new(
            "spec.quota",
            format!("is {:?}, must be 64Ki or more, such as 256Mi", quantity.0),
        )),
    }
}

pub(crate) fn millis(
    field: &str,
    given: Option<i32>,
    default: Duration,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, Invalid> {
    let Some(given) = given else {
        return Ok(default);
    };
    match u64::try_from(given) {
        Ok(ms) if range.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(Invalid::new(
            field,
            format!(
                "is {given}, must be from {} to {} milliseconds",
                range.start(),
                range.end()
            ),
        )),
    }
}

pub(crate) type Quantities = BTreeMap<String, Quantity>;

pub(crate) fn quantities(
    field: &str,
    given: BTreeMap<String, IntOrString>,
    defaults: &[(&str, &str)],
) -> Result<Quantities, Invalid> {
    let mut quantities: Quantities = defaults
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect();
    for (name, amount) in given {
        let amount = positive(&format!("{field}.{name}"), &amount)?;
        quantities.insert(name, amount);
    }
    Ok(quantities)
}

pub(crate) fn positive(field: &str, amount: &IntOrString) -> Result<Quantity, Invalid> {
    let text = match amount {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    match quantity::nanos(&text) {
        Some(nanos) if nanos > 0 => Ok(Quantity(text)),
        _ => Err(Invalid::new(
            field,
            format!("is {text:?}, must be a quantity above 0 such as 100m or 2Gi"),
        )),
    }
}

/// A request above its limit is refused by Kubernetes. A default gives way to what was written; two
/// written amounts that contradict each other are the user's to correct.
pub(crate) fn reconcile_defaults(
    field: &str,
    written: Option<&Resources>,
    mut requests: Quantities,
    mut limits: Quantities,
) -> Result<(Quantities, Quantities), Invalid> {
    let Some(written) = written else {
        return Ok((requests, limits));
    };
    let names: Vec<String> = limits.keys().cloned().collect();
    for name in names {
        let Some(request) = requests.get(&name).cloned() else {
            continue;
        };
        let limit = limits[&name].clone();
        if quantity::nanos(&request.0) <= quantity::nanos(&limit.0) {
            continue;
        }
        match (
            written.requests.contains_key(&name),
            written.limits.contains_key(&name),
        ) {
            (true, true) => {
                return Err(Invalid::new(
                    format!("{field}.requests.{name}"),
                    format!("is {}, above the limit of {}", request.0, limit.0),
                ));
            }
            (true, false) => drop(limits.insert(name, request)),
            _ => drop(requests.insert(name, limit)),
        }
    }
    Ok((requests, limits))
}
