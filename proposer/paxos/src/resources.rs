//! Where the state machine keeps its resources, and how they are listed.

use std::ops::Bound;

use super::ids::Slot;
use super::outcome::{Current, Resource};

/// Where resources live: in memory at a learner, in a database at a store.
pub trait Resources {
    /// Why they are not available.
    type Error;
    /// How a resource stands, if there is one.
    fn current(&self, name: &str) -> Result<Option<Current>, Self::Error>;
    /// The resource of that name.
    fn get(&self, name: &str) -> Result<Option<Resource>, Self::Error>;
    /// Sets it.
    fn put(&mut self, name: &str, resource: Resource) -> Result<(), Self::Error>;
    /// Removes it, if there is one.
    fn remove(&mut self, name: &str) -> Result<(), Self::Error>;
}

/// How much a page holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Resources.
    pub count: usize,
    /// Bytes of names and data, one resource more or less.
    pub bytes: usize,
}

/// Resources one after the other, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Everything up to this slot is in it, and nothing later.
    pub applied: Slot,
    /// The resources.
    pub resources: Vec<(Box<str>, Resource)>,
    /// Whether others follow.
    pub more: bool,
}

impl Page {
    /// Takes resources while their names have the prefix and there is room.
    pub fn fill<E>(
        applied: Slot,
        prefix: &str,
        limits: PageLimits,
        rows: impl Iterator<Item = Result<(Box<str>, Resource), E>>,
    ) -> Result<Page, E> {
        let mut page = Page {
            applied,
            resources: Vec::new(),
            more: false,
        };
        let mut left = limits.bytes;
        for row in rows {
            let (name, resource) = row?;
            if !name.starts_with(prefix) {
                break;
            }
            if page.resources.len() == limits.count || left == 0 {
                page.more = true;
                break;
            }
            left = left.saturating_sub(name.len() + resource.data.len());
            page.resources.push((name, resource));
        }
        Ok(page)
    }
}

/// Where names with this prefix begin, past `after`.
pub fn page_start<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}
