//! Paths and queries of the Kubernetes API.

use std::collections::BTreeMap;

/// What a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) group: String,
    pub(super) plural: String,
    /// `None`: all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
    pub(super) query: BTreeMap<String, String>,
}

impl Route {
    /// `None` for a path that is not of this API.
    pub(super) fn parse(uri: &::http::Uri) -> Option<Route> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let _version = parts.next()?;
        let mut rest: Vec<String> = parts.map(str::to_owned).collect();
        let namespace = (rest.first()? == "namespaces" && rest.len() > 2).then(|| {
            rest.remove(0);
            rest.remove(0)
        });
        let mut rest = rest.into_iter();
        let query = uri.query().unwrap_or_default();
        Some(Route {
            group,
            namespace,
            plural: rest.next()?,
            name: rest.next(),
            subresource: rest.next(),
            query: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        })
    }

    /// The resource as RBAC names it.
    pub(super) fn resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.plural),
            None => self.plural.clone(),
        }
    }

    /// The value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// A label selector of equalities, `a=b,c=d`.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector(Vec<(String, String)>);

impl Selector {
    pub(super) fn parse(text: Option<&str>) -> Selector {
        let terms = text
            .unwrap_or_default()
            .split(',')
            .filter(|term| !term.is_empty());
        let pair = |term: &str| {
            let (key, value) = term
                .split_once('=')
                .expect("only equalities are selected on");
            (key.to_owned(), value.trim_start_matches('=').to_owned())
        };
        Selector(terms.map(pair).collect())
    }

    pub(super) fn matches(&self, object: &serde_json::Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0
            .iter()
            .all(|(key, value)| labels[key].as_str() == Some(value))
    }

    /// The same of fields, given by their paths.
    pub(super) fn matches_fields(&self, object: &serde_json::Value) -> bool {
        self.0.iter().all(|(path, value)| {
            assert!(
                path.starts_with("involvedObject."),
                "no field to select by: {path}"
            );
            let pointer = format!("/{}", path.replace('.', "/"));
            object.pointer(&pointer).and_then(|it| it.as_str()) == Some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_every_shape_are_read() {
        let route = |path: &str| Route::parse(&path.parse().unwrap()).unwrap();
        let list = route("/apis/apps/v1/statefulsets?labelSelector=a%3Db%2Cc%3Dd&watch=true");
        assert_eq!(
            (list.group.as_str(), list.plural.as_str()),
            ("apps", "statefulsets")
        );
        assert_eq!(list.namespace, None);
        assert_eq!(list.parameter("labelSelector"), Some("a=b,c=d"));
        let status = route("/apis/x.io/v1/namespaces/shop/things/one/status");
        assert_eq!(status.namespace.as_deref(), Some("shop"));
        assert_eq!(status.name.as_deref(), Some("one"));
        assert_eq!(status.resource(), "things/status");
        assert_eq!(route("/api/v1/namespaces/shop").plural, "namespaces");
        assert_eq!(Route::parse(&"/healthz".parse().unwrap()), None);
    }
}
