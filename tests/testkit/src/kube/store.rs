//! The objects, their versions, their history and who watches them.

use std::collections::BTreeMap;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::fields;
use super::route::{Route, Selector};
use super::{schema, workloads};

/// Plural, namespace, name.
type Key = (String, String, String);

/// A change of whatever is written.
pub(super) type Rewrite = Box<dyn Fn(&mut Value) + Send>;

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    uids: u64,
    objects: BTreeMap<Key, Value>,
    /// What each manager applied last, for the object or for its status.
    applied: BTreeMap<(Key, String, bool), Value>,
    history: Vec<Change>,
    /// Versions up to here are forgotten.
    compacted: u64,
    watches: Vec<Watch>,
    /// What admission makes of StatefulSets.
    pub(super) rewrite: Option<Rewrite>,
}

#[derive(Clone)]
struct Change {
    version: u64,
    plural: String,
    namespace: String,
    before: Option<Value>,
    after: Option<Value>,
}

struct Watch {
    filter: Filter,
    events: UnboundedSender<Value>,
}

struct Filter {
    plural: String,
    namespace: Option<String>,
    selector: Selector,
    fields: Selector,
}

/// Why a call was refused: an HTTP status, a reason and a message.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) type Answer<T> = Result<T, Refusal>;

pub(super) fn refuse<T>(code: u16, reason: &'static str, message: impl Into<String>) -> Answer<T> {
    Err(Refusal {
        code,
        reason,
        message: message.into(),
    })
}

/// What a patch of another object than the one that is there is answered.
pub(super) const UID_IS_IMMUTABLE: &str = "metadata.uid: Invalid value: field is immutable";

/// How server-side apply is called.
pub(super) struct Apply<'a> {
    pub(super) manager: &'a str,
    pub(super) force: bool,
    pub(super) status: bool,
}

impl Store {
    pub(super) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(plural, namespace, name))
    }

    /// Changes with every change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Something has changed that is no object.
    pub(super) fn touch(&mut self) {
        self.version += 1;
    }

    pub(super) fn all(&self, plural: &str) -> impl Iterator<Item = &Value> {
        let first = key(plural, "", "");
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.0 == plural)
            .map(|(_, object)| object)
    }

    pub(super) fn list(&self, route: &Route) -> Value {
        let filter = Filter::of(route);
        let first = key(&route.plural, "", "");
        let items: Vec<&Value> = self
            .objects
            .range(first..)
            .take_while(|(key, _)| key.0 == route.plural)
            .filter(|(key, object)| filter.wants(&key.0, &key.1, object))
            .map(|(_, object)| object)
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        })
    }

    /// The changes since a version, and then all others as they come; a bookmark in between. As in
    /// earnest, a version that is too old is an event of the watch, not a refusal of it.
    pub(super) fn watch(&mut self, route: &Route) -> BoxStream<'static, Value> {
        let since: u64 = route
            .parameter("resourceVersion")
            .unwrap_or("0")
            .parse()
            .unwrap_or(0);
        if since < self.compacted {
            let gone = json!({ "type": "ERROR", "object": {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": 410,
                "reason": "Expired",
                "message": format!("too old resource version: {since}"),
            }});
            return stream::iter([gone]).boxed();
        }
        let filter = Filter::of(route);
        let past = self.history.iter().filter(|change| change.version > since);
        let mut past: Vec<Value> = past.filter_map(|change| filter.event(change)).collect();
        if route.parameter("allowWatchBookmarks") == Some("true") {
            past.push(json!({ "type": "BOOKMARK", "object": {
                "kind": "Bookmark",
                "apiVersion": "v1",
                "metadata": { "resourceVersion": self.version.to_string() },
            }}));
        }
        let (events, to_come) = unbounded();
        self.watches.push(Watch { filter, events });
        stream::iter(past).chain(to_come).boxed()
    }

    pub(super) fn drop_watches(&mut self) {
        self.watches.clear();
    }

    pub(super) fn drop_watches_of(&mut self, namespace: &str) {
        self.watches
            .retain(|watch| watch.filter.namespace.as_deref() != Some(namespace));
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.version;
        self.drop_watches();
    }

    pub(super) fn create(&mut self, object: Value) -> Answer<Value> {
        let plural = plural(object["kind"].as_str().unwrap_or_default());
        let key = key_of(&plural, &object);
        if self.objects.contains_key(&key) {
            return refuse(
                409,
                "AlreadyExists",
                format!("{plural} \"{}\" already exists", key.2),
            );
        }
        let mut object = object;
        object.as_object_mut().expect("an object").remove("status");
        self.put(key, object)
    }

    /// Only over the version that the caller has seen.
    pub(super) fn replace(&mut self, key: Key, object: Value) -> Answer<Value> {
        let Some(live) = self.objects.get(&key) else {
            return not_found(&key);
        };
        if object["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"] {
            return refuse(409, "Conflict", "the object has been modified");
        }
        let object = isolate(live, object, false);
        self.put(key, object)
    }

    pub(super) fn merge(&mut self, key: Key, patch: &Value, status: bool) -> Answer<Value> {
        let object = self.merged(&key, patch, status)?;
        self.put(key, object)
    }

    /// What [`Self::merge`] would answer.
    pub(super) fn try_merge(&mut self, key: Key, patch: &Value, status: bool) -> Answer<Value> {
        let object = self.merged(&key, patch, status)?;
        workloads::validate(self.objects.get(&key), &object)?;
        Ok(object)
    }

    fn merged(&self, key: &Key, patch: &Value, status: bool) -> Answer<Value> {
        let Some(live) = self.objects.get(key) else {
            return not_found(key);
        };
        let uid = &patch["metadata"]["uid"];
        if !uid.is_null() && *uid != live["metadata"]["uid"] {
            // No conflict: a field that cannot change.
            return refuse(422, "Invalid", UID_IS_IMMUTABLE);
        }
        let mut object = live.clone();
        fields::merge(&mut object, patch);
        Ok(isolate(live, object, status))
    }

    /// Returns the object and whether this made it.
    pub(super) fn apply(
        &mut self,
        key: Key,
        config: Value,
        how: &Apply<'_>,
    ) -> Answer<(Value, bool)> {
        let live = self.objects.get(&key);
        if how.status && live.is_none() {
            return not_found(&key);
        }
        for field in ["uid", "resourceVersion"] {
            let wanted = &config["metadata"][field];
            if !wanted.is_null() && live.is_none_or(|live| live["metadata"][field] != *wanted) {
                return match live {
                    Some(_) if field == "uid" => refuse(422, "Invalid", UID_IS_IMMUTABLE),
                    _ => refuse(409, "Conflict", format!("precondition failed: {field}")),
                };
            }
        }
        if !how.force && live.is_some() {
            return refuse(
                409,
                "Conflict",
                "only a manager that forces is known to own its fields",
            );
        }
        let config = part(config, how.status);
        let slot = (key.clone(), how.manager.to_owned(), how.status);
        let last = self.applied.get(&slot).cloned().unwrap_or_default();
        let created = live.is_none();
        let base = live.cloned().unwrap_or_else(|| json!({}));
        let mut object = base.clone();
        fields::apply(&mut object, &last, &config, "");
        let object = if created {
            object
        } else {
            isolate(&base, object, how.status)
        };
        let stored = self.put(key, object)?;
        self.applied.insert(slot, config);
        Ok((stored, created))
    }

    /// Deletes an object and, with it, all that it owns. One with finalizers is only marked.
    pub(super) fn delete(&mut self, key: Key, uid: Option<&str>) -> Answer<()> {
        let live = self.deletable(&key, uid)?;
        let finalizers = live["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
        if finalizers {
            let mut marked = live;
            marked["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
            return self.put(key, marked).map(drop);
        }
        self.remove(&key);
        Ok(())
    }

    /// Marks an object for the garbage collector, which then spares what it owns.
    pub(super) fn orphan(&mut self, key: Key, uid: Option<&str>) -> Answer<Value> {
        let mut marked = self.deletable(&key, uid)?;
        marked["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
        marked["metadata"]["finalizers"] = json!(["orphan"]);
        self.put(key, marked)
    }

    /// What the garbage collector does with what [`Self::orphan`] marked.
    pub(super) fn collect_garbage(&mut self) {
        let orphaning = |object: &Value| object["metadata"]["finalizers"] == json!(["orphan"]);
        let marked = self.objects.iter().filter(|(_, object)| orphaning(object));
        let marked: Vec<Key> = marked.map(|(key, _)| key.clone()).collect();
        for key in marked {
            let uid = self.objects[&key]["metadata"]["uid"].clone();
            for child in self.owned_by(&uid) {
                let mut object = self.objects[&child].clone();
                let owners = object["metadata"]["ownerReferences"].as_array_mut();
                owners
                    .expect("it has an owner")
                    .retain(|owner| owner["uid"] != uid);
                self.put(child, object).expect("an owner may go");
            }
            self.remove(&key);
        }
    }

    fn deletable(&self, key: &Key, uid: Option<&str>) -> Answer<Value> {
        let Some(live) = self.objects.get(key) else {
            return not_found(key);
        };
        if uid.is_some_and(|uid| live["metadata"]["uid"] != uid) {
            return refuse(409, "Conflict", "precondition failed: uid");
        }
        Ok(live.clone())
    }

    fn owned_by(&self, uid: &Value) -> Vec<Key> {
        let owned = self.objects.iter().filter(|(_, child)| {
            let owners = child["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|o| o.iter().any(|o| o["uid"] == *uid))
        });
        owned.map(|(key, _)| key.clone()).collect()
    }

    fn remove(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else {
            return;
        };
        self.applied.retain(|(of, _, _), _| of != key);
        self.version += 1;
        let mut last = object.clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(key, Some(object.clone()), None, last);
        for child in self.owned_by(&object["metadata"]["uid"]) {
            self.remove(&child);
        }
    }

    /// Stores what a call made of an object. What changes nothing makes no version and no event.
    fn put(&mut self, key: Key, mut object: Value) -> Answer<Value> {
        let live = self.objects.get(&key).cloned();
        schema::default(&mut object);
        workloads::default(&mut object);
        if let Some(rewrite) = &self.rewrite
            && key.0 == "statefulsets"
        {
            rewrite(&mut object);
        }
        workloads::validate(live.as_ref(), &object)?;
        if let Some(live) = &live {
            object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            object["metadata"]["uid"] = live["metadata"]["uid"].clone();
            if let Some(generation) = live["metadata"].get("generation") {
                object["metadata"]["generation"] = generation.clone();
            }
            if object == *live {
                return Ok(object);
            }
        } else {
            self.uids += 1;
            object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
            object["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
        }
        if workloads::has_generation(&key.0) {
            let generation = live.as_ref().map_or(0, |live| {
                live["metadata"]["generation"].as_i64().unwrap_or_default()
            });
            let changed = live
                .as_ref()
                .is_none_or(|live| live["spec"] != object["spec"]);
            object["metadata"]["generation"] = json!(generation + i64::from(changed));
        } else {
            object["metadata"]
                .as_object_mut()
                .expect("metadata")
                .remove("generation");
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());

        let marked = !object["metadata"]["deletionTimestamp"].is_null();
        let held = object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
        // A pod has time to end.
        let ends = object["metadata"]["deletionGracePeriodSeconds"].as_i64() > Some(0);
        if marked && !held && !ends {
            self.remove(&key);
            return Ok(object);
        }
        self.objects.insert(key.clone(), object.clone());
        self.tell(&key, live, Some(object.clone()), object.clone());
        Ok(object)
    }

    fn tell(&mut self, key: &Key, before: Option<Value>, after: Option<Value>, last: Value) {
        // A deletion shows the object with the version of the deletion.
        let before = if after.is_none() { Some(last) } else { before };
        let change = Change {
            version: self.version,
            plural: key.0.clone(),
            namespace: key.1.clone(),
            before,
            after,
        };
        self.watches
            .retain(|watch| match watch.filter.event(&change) {
                Some(event) => watch.events.unbounded_send(event).is_ok(),
                None => !watch.events.is_closed(),
            });
        self.history.push(change);
    }
}

impl Filter {
    fn of(route: &Route) -> Filter {
        Filter {
            plural: route.plural.clone(),
            namespace: route.namespace.clone(),
            selector: Selector::parse(route.parameter("labelSelector")),
            fields: Selector::parse(route.parameter("fieldSelector")),
        }
    }

    fn wants(&self, plural: &str, namespace: &str, object: &Value) -> bool {
        self.plural == plural
            && self
                .namespace
                .as_deref()
                .is_none_or(|wanted| wanted == namespace)
            && self.selector.matches(object)
            && self.fields.matches_fields(object)
    }

    /// What a watch sees of a change: an object that stops matching is deleted to it.
    fn event(&self, change: &Change) -> Option<Value> {
        let seen = |object: &Option<Value>| {
            let object = object.as_ref()?;
            self.wants(&change.plural, &change.namespace, object)
                .then(|| object.clone())
        };
        let (kind, object) = match (seen(&change.before), seen(&change.after)) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
        };
        Some(json!({ "type": kind, "object": object }))
    }
}

/// The object's key, given where it was sent to.
pub(super) fn key(plural: &str, namespace: &str, name: &str) -> Key {
    (plural.to_owned(), namespace.to_owned(), name.to_owned())
}

fn key_of(plural: &str, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    key(plural, text("namespace"), text("name"))
}

fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

fn not_found<T>((plural, _, name): &Key) -> Answer<T> {
    refuse(404, "NotFound", format!("{plural} \"{name}\" not found"))
}

/// A call to `/status` changes the status and nothing else, any other everything but the status.
fn isolate(live: &Value, mut changed: Value, status: bool) -> Value {
    if status {
        let mut object = live.clone();
        if object["kind"] == "Pod" {
            // The kubelet writes these through the status.
            object["metadata"]["annotations"] = changed["metadata"]["annotations"].take();
        }
        object["status"] = changed["status"].take();
        return object;
    }
    match live.get("status") {
        Some(status) => changed["status"] = status.clone(),
        None => drop(
            changed
                .as_object_mut()
                .and_then(|object| object.remove("status")),
        ),
    }
    changed
}

fn part(config: Value, status: bool) -> Value {
    if status {
        return json!({ "status": config["status"] });
    }
    let mut config = config;
    config.as_object_mut().expect("an object").remove("status");
    config
}
