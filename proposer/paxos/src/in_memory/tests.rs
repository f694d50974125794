use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ids::Slot;

fn resource(version: u64) -> Resource {
    Resource {
        data: Bytes::from(version.to_string()),
        version,
        slot: Slot(version),
        timestamp: 1,
        client_id: "alice".into(),
    }
}

fn put(resources: &mut InMemory, name: &str, version: u64) {
    let Ok(()) = resources.put(name, resource(version));
}

fn remove(resources: &mut InMemory, name: &str) {
    let Ok(()) = resources.remove(name);
}

/// What a plain map has after the same changes.
type Plain = BTreeMap<String, Resource>;

fn assert_same(resources: &InMemory, plain: &Plain) {
    let plain_rows = plain
        .iter()
        .map(|(name, resource)| (&**name, resource.clone()));
    assert!(resources.iter().eq(plain_rows));
    assert_eq!(resources.len(), plain.len());
    let mut anew = InMemory::new();
    for (name, resource) in plain.iter().rev() {
        let Ok(()) = anew.put(name, resource.clone());
    }
    assert_eq!((resources, resources.digest()), (&anew, anew.digest()));
}

#[test]
fn groups_split_and_vanish() {
    let (mut resources, mut plain) = (InMemory::new(), Plain::new());
    for i in 0..5000_u64 {
        let name = (i * 7919 % 5000).to_string();
        put(&mut resources, &name, i);
        plain.insert(name, resource(i));
    }
    assert!(resources.groups.len() > 5000 / MOST_IN_GROUP);
    assert_same(&resources, &plain);
    for i in 0..5000_u64 {
        let name = (i * 4999 % 5000).to_string();
        remove(&mut resources, &name);
        plain.remove(&name);
        if i % 500 == 0 {
            assert_same(&resources, &plain);
        }
    }
    assert_same(&resources, &plain);
    assert!(resources.groups.is_empty());
}

#[test]
fn a_copy_shares_what_is_not_changed() {
    let mut resources = InMemory::new();
    for i in 0..5000 {
        put(&mut resources, &format!("{i:04}"), 1);
    }
    let copy = resources.clone();
    put(&mut resources, "2500", 2);
    let shared = |(one, other): (&Arc<Group>, &Arc<Group>)| Arc::ptr_eq(one, other);
    let pairs = resources.groups.values().zip(copy.groups.values());
    assert_eq!(pairs.filter(|pair| !shared(*pair)).count(), 1);
    let version = |resources: &InMemory| resources.find("2500").unwrap().version;
    assert_eq!((version(&resources), version(&copy)), (2, 1));
}

proptest! {
    /// Against a plain map, with copies taken at any time that must not change any more.
    #[test]
    fn they_do_what_a_plain_map_does(changes in vec((0..400_u64, 0..8_u8), 0..2000)) {
        let (mut resources, mut plain) = (InMemory::new(), Plain::new());
        let mut copies = Vec::new();
        for (version, (number, what)) in changes.into_iter().enumerate() {
            let name = number.to_string();
            if what < 3 {
                remove(&mut resources, &name);
                plain.remove(&name);
            } else {
                put(&mut resources, &name, version as u64);
                plain.insert(name.clone(), resource(version as u64));
            }
            prop_assert_eq!(resources.find(&name), plain.get(&name).cloned());
            if version % 300 == 7 {
                copies.push((resources.clone(), plain.clone()));
                let bounds = [Bound::Included(&*name), Bound::Excluded(&*name)];
                for start in bounds {
                    let expected = plain.range::<str, _>((start, Bound::Unbounded));
                    let expected = expected.map(|(name, resource)| (&**name, resource.clone()));
                    prop_assert!(resources.from(start).eq(expected));
                }
            }
        }
        copies.push((resources, plain));
        for (resources, plain) in &copies {
            assert_same(resources, plain);
        }
    }
}
