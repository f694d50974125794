//! Resources by name, in memory, of which a copy costs next to nothing.
//!
//! They lie in groups, in the order of their names. A copy shares the groups, and a change to a shared
//! one copies that one alone: a learner writes snapshots of its state while it keeps running.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::digest::Digest;
use super::ids::Slot;
use super::outcome::{Current, Resource, resource_bytes};
use super::resources::Resources;

/// A group that has grown to this many is split.
const MOST_IN_GROUP: usize = 128;
/// Data of this many bytes is shared with its readers. Copying less costs no more than sharing.
const SHARED_FROM: usize = 1 << 10;

/// Resources by name.
#[derive(Clone, Debug, Default)]
pub struct InMemory {
    /// By a name that none in the group precedes, and that all in the groups before do.
    groups: BTreeMap<Arc<str>, Arc<Group>>,
    count: usize,
    /// The client of the last write: a few clients write most resources, and each has its name in
    /// memory once, more or less.
    last_client: Option<Arc<str>>,
    /// The sum of their digests.
    digest: u128,
}

/// In the order of their names.
type Group = Vec<Arc<Named>>;

/// A resource and its name, in little memory: there may be millions.
#[derive(Debug)]
struct Named {
    /// The name, then the data.
    text: Box<[u8]>,
    name_length: usize,
    version: u64,
    slot: Slot,
    timestamp: u64,
    client_id: Arc<str>,
}

impl Named {
    fn new(name: &str, resource: Resource) -> Arc<Named> {
        let Resource {
            data,
            version,
            slot,
            timestamp,
            client_id,
        } = resource;
        Arc::new(Named {
            text: [name.as_bytes(), &data].concat().into(),
            name_length: name.len(),
            version,
            slot,
            timestamp,
            client_id,
        })
    }

    fn name(&self) -> &str {
        std::str::from_utf8(self.name_bytes()).expect("names are text")
    }

    fn name_bytes(&self) -> &[u8] {
        &self.text[..self.name_length]
    }

    fn data(&self) -> &[u8] {
        &self.text[self.name_length..]
    }

    fn resource(self: &Arc<Named>) -> Resource {
        let data = match self.data().len() {
            0..SHARED_FROM => Bytes::copy_from_slice(self.data()),
            _ => Bytes::from_owner(Text(self.clone())).slice(self.name_length..),
        };
        Resource {
            data,
            version: self.version,
            slot: self.slot,
            timestamp: self.timestamp,
            client_id: self.client_id.clone(),
        }
    }

    fn current(&self) -> Current {
        let lengths = (self.name_length, self.data().len());
        Current {
            version: self.version,
            slot: self.slot,
            bytes: resource_bytes(lengths.0, lengths.1, self.client_id.len()),
        }
    }

    fn digest(&self) -> u128 {
        let mut digest = Digest::new(4);
        digest.number(self.version);
        digest.number(self.slot.0);
        digest.number(self.timestamp);
        digest.add(self.name_bytes());
        digest.add(self.client_id.as_bytes());
        digest.add_checksum(self.data());
        digest.finish()
    }
}

/// A resource's bytes, which live as long as anybody reads them.
struct Text(Arc<Named>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0.text
    }
}

impl InMemory {
    /// None.
    pub fn new() -> InMemory {
        InMemory::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Of what they are, not of how they came about.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The one of that name.
    pub fn find(&self, name: &str) -> Option<Resource> {
        self.row(name).map(|row| row.resource())
    }

    fn row(&self, name: &str) -> Option<&Arc<Named>> {
        let (_, group) = self.groups.range::<str, _>(up_to(name)).next_back()?;
        let place = place(group, name).ok()?;
        Some(&group[place])
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Resource)> {
        self.from(Bound::Unbounded)
    }

    /// All from a name on, in the order of their names.
    pub fn from(&self, start: Bound<&str>) -> impl Iterator<Item = (&str, Resource)> {
        // The start lies in the last group that begins before it.
        let first = match start {
            Bound::Included(name) | Bound::Excluded(name) => self
                .groups
                .range::<str, _>(up_to(name))
                .next_back()
                .map_or(Bound::Unbounded, |(key, _)| Bound::Included(&**key)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let groups = self.groups.range::<str, _>((first, Bound::Unbounded));
        let rows = groups.flat_map(|(_, group)| group.iter());
        let is_before = move |row: &&Arc<Named>| match start {
            Bound::Included(name) => row.name() < name,
            Bound::Excluded(name) => row.name() <= name,
            Bound::Unbounded => false,
        };
        rows.skip_while(is_before)
            .map(|row| (row.name(), row.resource()))
    }

    /// The group that a name belongs to, and its key.
    fn group_of(&mut self, name: &str) -> Option<(&Arc<str>, &mut Arc<Group>)> {
        self.groups.range_mut::<str, _>(up_to(name)).next_back()
    }
}

fn up_to(name: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Unbounded, Bound::Included(name))
}

fn place(group: &Group, name: &str) -> Result<usize, usize> {
    group.binary_search_by(|row| row.name_bytes().cmp(name.as_bytes()))
}

impl Resources for InMemory {
    type Error = Infallible;

    fn current(&self, name: &str) -> Result<Option<Current>, Infallible> {
        Ok(self.row(name).map(|row| row.current()))
    }

    fn get(&self, name: &str) -> Result<Option<Resource>, Infallible> {
        Ok(self.find(name))
    }

    fn put(&mut self, name: &str, mut resource: Resource) -> Result<(), Infallible> {
        match &self.last_client {
            Some(known) if *known == resource.client_id => resource.client_id = known.clone(),
            _ => self.last_client = Some(resource.client_id.clone()),
        }
        let row = Named::new(name, resource);
        self.digest = self.digest.wrapping_add(row.digest());
        let Some((_, group)) = self.group_of(name) else {
            // It precedes all others. From now on nothing precedes the first group's key.
            self.groups.insert("".into(), Arc::new(vec![row]));
            self.count += 1;
            return Ok(());
        };
        let group = Arc::make_mut(group);
        match place(group, name) {
            Ok(place) => {
                let gone = std::mem::replace(&mut group[place], row);
                self.digest = self.digest.wrapping_sub(gone.digest());
            }
            Err(place) => {
                group.insert(place, row);
                if group.len() >= MOST_IN_GROUP {
                    let upper = group.split_off(group.len() / 2);
                    group.shrink_to_fit();
                    self.groups.insert(upper[0].name().into(), Arc::new(upper));
                }
                self.count += 1;
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), Infallible> {
        let Some((key, group)) = self.group_of(name) else {
            return Ok(());
        };
        let Ok(place) = place(group, name) else {
            return Ok(());
        };
        let key = key.clone();
        let group = Arc::make_mut(group);
        let gone = group.remove(place).digest();
        if group.is_empty() {
            self.groups.remove(&key);
        }
        self.digest = self.digest.wrapping_sub(gone);
        self.count -= 1;
        Ok(())
    }
}

impl PartialEq for InMemory {
    fn eq(&self, other: &InMemory) -> bool {
        self.count == other.count && self.iter().eq(other.iter())
    }
}

impl Eq for InMemory {}

impl Hash for InMemory {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.count.hash(state);
        self.iter().for_each(|row| row.hash(state));
    }
}

#[cfg(test)]
mod tests;
