//! What happens when: a schedule that follows from its seed alone.

use std::fmt;
use std::iter;
use std::time::Duration;

use testkit::cluster::{Name, Place};
use testkit::sim::Rng;

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// kill -9, of all victims at once; started again.
    Kill,
    /// SIGTERM; started again.
    Terminate,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// Nothing passes between the victims and the others.
    Split,
    /// Some pairs cannot reach each other, although others reach both.
    Partial,
    /// What the victims send arrives nowhere; they hear everything.
    Mute,
    /// The victims hear nothing, and everybody hears them.
    Deaf,
    /// The victims get only part of the packets.
    Lossy,
    /// What the victims send leaves slowly.
    SlowLink,
    /// The victims' wall clocks jump.
    Clock,
    /// There is no room on the victims' disks.
    FullDisk,
    /// Nothing that the victims write returns.
    StuckDisk,
    /// The same in short intervals.
    SlowDisk,
    /// One acceptor comes back with an empty disk, and must never vote again. Comes once, at the end.
    Wipe,
}

use Class::{
    Clock, Deaf, FullDisk, Kill, Lossy, Mute, Partial, Pause, SlowDisk, SlowLink, Split, StuckDisk,
    Terminate, Wipe,
};

impl Class {
    /// Each with its name and how often it comes in one deck.
    const ALL: [(Class, &str, usize); 14] = [
        (Kill, "kill", 6),
        (Terminate, "terminate", 2),
        (Pause, "pause", 3),
        (Split, "split", 3),
        (Partial, "partial", 3),
        (Mute, "mute", 1),
        (Deaf, "deaf", 1),
        (Lossy, "lossy", 1),
        (SlowLink, "slow-link", 1),
        (Clock, "clock", 2),
        (FullDisk, "full-disk", 2),
        (StuckDisk, "stuck-disk", 1),
        (SlowDisk, "slow-disk", 1),
        (Wipe, "wipe", 0),
    ];

    /// `all`, or names with commas between them.
    pub(crate) fn parse(list: &str) -> Result<Vec<Class>, String> {
        if list == "all" {
            return Ok(Class::ALL.map(|(class, ..)| class).to_vec());
        }
        let parse = |word: &str| {
            let known = Class::ALL.iter().find(|(_, name, _)| *name == word);
            known.map(|(class, ..)| *class).ok_or_else(|| {
                let names = Class::ALL.map(|(_, name, _)| name).join(", ");
                format!("--faults takes all, or some of {names}; not {word:?}")
            })
        };
        list.split(',').map(parse).collect()
    }

    /// Whether nodes in such a place can have it.
    pub(crate) fn is_possible(self, place: &Place) -> bool {
        match self {
            Kill | Terminate | Pause | Wipe => true,
            Split | Partial | Mute | Deaf | Lossy | SlowLink => place.network,
            Clock => place.clock.is_some(),
            FullDisk | StuckDisk | SlowDisk => place.volume.is_some(),
        }
    }

    /// Whether both may happen at once. A process that is asked to end must be able to.
    fn goes_with(self, other: Class) -> bool {
        let stops = |class| matches!(class, Kill | Pause | FullDisk | StuckDisk | SlowDisk);
        let ends = |class| class == Terminate;
        self != other && !(ends(self) && stops(other)) && !(ends(other) && stops(self))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name, _) = Class::ALL[*self as usize];
        f.pad(name)
    }
}

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    /// The leader at that time.
    Leader,
    /// This one.
    Node(Name),
}

/// One fault. `V` is [`Victim`] in the schedule, and [`Name`] when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault<V> {
    pub(crate) class: Class,
    pub(crate) victims: Vec<V>,
    /// With [`Class::Partial`] those that cannot reach each other.
    pub(crate) pairs: Vec<(V, V)>,
    /// Percent lost, kilobits a second, seconds of the first clock's jump, bytes left, or
    /// milliseconds that a slow disk takes.
    pub(crate) amount: i64,
}

impl Fault<Victim> {
    /// With the leader's name.
    pub(crate) fn resolve(&self, leader: Name) -> Fault<Name> {
        let name = |victim: &Victim| match victim {
            Victim::Leader => leader,
            Victim::Node(name) => *name,
        };
        let mut victims: Vec<Name> = self.victims.iter().map(name).collect();
        victims.sort_unstable();
        victims.dedup();
        let pairs = self.pairs.iter().map(|(a, b)| (name(a), name(b)));
        Fault {
            class: self.class,
            victims,
            pairs: pairs.filter(|(a, b)| a != b).collect(),
            amount: self.amount,
        }
    }
}

impl fmt::Display for Fault<Name> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        match self.class {
            Lossy => write!(f, " {} %", self.amount)?,
            SlowLink => write!(f, " {} kbit/s", self.amount)?,
            Clock => write!(f, " {:+} s", self.amount)?,
            FullDisk => write!(f, " {} B left", self.amount)?,
            SlowDisk => write!(f, " {} ms", self.amount)?,
            _ => {}
        }
        for (role, id) in &self.victims {
            write!(f, " {role}-{id}")?;
        }
        for ((role, id), (other, of)) in &self.pairs {
            write!(f, " {role}-{id}/{other}-{of}")?;
        }
        Ok(())
    }
}

/// One cycle: these at once, for so long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) faults: Vec<Fault<Victim>>,
    pub(crate) lasts: Duration,
    /// Until the next one.
    pub(crate) rest: Duration,
}

/// The schedule, without end and without [`Class::Wipe`]. Every class comes about as often as it
/// should in any 30 steps.
pub(crate) fn plan(
    seed: u64,
    classes: &[Class],
    names: &[Name],
) -> impl Iterator<Item = Step> + use<> {
    let mut rng = Rng::new(seed);
    let classes: Vec<Class> = classes.iter().copied().filter(|c| *c != Wipe).collect();
    let names = names.to_vec();
    let mut deck = Vec::new();
    let count = if classes.is_empty() { 0 } else { usize::MAX };
    let step = move || {
        if deck.is_empty() {
            let all = Class::ALL
                .iter()
                .filter(|(class, ..)| classes.contains(class));
            deck.extend(all.flat_map(|(class, _, times)| vec![*class; *times]));
        }
        let first = deck.swap_remove(rng.below(deck.len() as u64) as usize);
        let mut faults = vec![fault(first, &names, &mut rng)];
        if first == FullDisk && classes.contains(&Kill) && rng.chance(400) {
            // Else proposers hardly ever write.
            let victims = vec![Victim::Leader];
            faults.push(Fault {
                class: Kill,
                victims,
                pairs: Vec::new(),
                amount: 0,
            });
        } else if let Some(second) = rng.pick(&classes)
            && rng.chance(350)
            && first.goes_with(second)
        {
            faults.push(fault(second, &names, &mut rng));
        }
        Step {
            faults,
            // Now and then long enough for everything to give up.
            lasts: Duration::from_millis(match rng.chance(150) {
                true => rng.between(3000, 7000),
                false => rng.between(100, 2500),
            }),
            rest: Duration::from_millis(rng.between(0, 300)),
        }
    };
    iter::repeat_with(step).take(count)
}

fn fault(class: Class, names: &[Name], rng: &mut Rng) -> Fault<Victim> {
    let most = match class {
        Terminate => 1,
        // Now and then everything at once.
        Kill | Pause | FullDisk | StuckDisk if rng.chance(80) => names.len() as u64,
        Split | Clock => 6,
        Kill | FullDisk if rng.chance(300) => 6,
        _ if rng.chance(300) => 4,
        _ => 1,
    };
    let count = match most == names.len() as u64 {
        true => most,
        false => rng.between(1, most),
    };
    let (victims, pairs) = match class {
        Partial => (Vec::new(), pairs(names, rng)),
        _ => (victims(count as usize, names, rng), Vec::new()),
    };
    let amount = match class {
        Lossy => rng.between(3, 40) as i64,
        SlowLink => rng.between(300, 4000) as i64,
        Clock => {
            let seconds = *[2, 60, 3600, 86_400, 100_000_000]
                .get(rng.below(5) as usize)
                .unwrap_or(&1);
            if rng.chance(500) { seconds } else { -seconds }
        }
        FullDisk => rng.below(40_000) as i64,
        SlowDisk => rng.between(20, 200) as i64,
        _ => 0,
    };
    Fault {
        class,
        victims,
        pairs,
        amount,
    }
}

/// `count` of them, without the order. Leaders get more than their share: they have the most to lose.
fn victims(count: usize, names: &[Name], rng: &mut Rng) -> Vec<Victim> {
    let mut left: Vec<Victim> = names.iter().map(|name| Victim::Node(*name)).collect();
    while left.len() > count {
        left.swap_remove(rng.below(left.len() as u64) as usize);
    }
    if rng.chance(250) && count < names.len() {
        left[0] = Victim::Leader;
    }
    left.sort_unstable();
    left
}

/// The three shapes in which everybody is reached by somebody, and not by everybody.
fn pairs(names: &[Name], rng: &mut Rng) -> Vec<(Victim, Victim)> {
    let node = Victim::Node;
    match rng.below(3) {
        // The leader, or another one, and a majority of all others: the rest reaches both.
        0 => {
            let one = victims(1, names, rng)[0];
            let others = victims(names.len() / 2 + 1, names, rng);
            others.into_iter().map(|other| (one, other)).collect()
        }
        // Two halves with one node that is part of both.
        1 => {
            let half = victims(names.len() / 2, names, rng);
            let bridge = names[rng.below(names.len() as u64) as usize];
            let others = names
                .iter()
                .filter(|name| **name != bridge && !half.contains(&node(**name)));
            let others: Vec<Victim> = others.map(|name| node(*name)).collect();
            let half = half.iter().filter(|one| **one != node(bridge));
            half.flat_map(|one| others.iter().map(|other| (*one, *other)))
                .collect()
        }
        // Any.
        _ => {
            let per_mille = rng.between(100, 600) as u32;
            let all = names.iter().enumerate();
            let all = all.flat_map(|(i, a)| names[..i].iter().map(|b| (node(*a), node(*b))));
            all.filter(|_| rng.chance(per_mille)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api::env::Role;

    use super::*;

    fn names() -> Vec<Name> {
        let of = |role, count| (1..=count).map(move |id| (role, id));
        let names = of(Role::Proposer, 5).chain(of(Role::Acceptor, 5));
        let readers = of(Role::Learner, 2).chain(of(Role::Store, 3));
        names.chain(readers).collect()
    }

    fn all(seed: u64) -> Vec<Step> {
        steps(seed, &Class::parse("all").unwrap())
    }

    fn steps(seed: u64, classes: &[Class]) -> Vec<Step> {
        plan(seed, classes, &names()).take(60).collect()
    }

    #[test]
    fn a_schedule_follows_from_its_seed() {
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }

    #[test]
    fn every_class_comes_and_none_that_was_not_asked_for() {
        let classes = |steps: Vec<Step>| {
            let faults = steps.into_iter().flat_map(|step| step.faults);
            faults.map(|fault| fault.class).collect::<BTreeSet<_>>()
        };
        for seed in 0..20 {
            assert_eq!(
                classes(all(seed)).len(),
                Class::ALL.len() - 1,
                "seed {seed}"
            );
        }
        let some = Class::parse("mute,kill,wipe").unwrap();
        assert_eq!(classes(steps(1, &some)), BTreeSet::from([Kill, Mute]));
        assert_eq!(steps(1, &[Wipe]), []);
        assert!(Class::parse("kill,bang").unwrap_err().contains("\"bang\""));
    }

    #[test]
    fn every_node_is_hit_by_kills_and_by_partitions() {
        let steps = steps(1, &Class::parse("kill,split,partial,mute,deaf").unwrap());
        let faults: Vec<_> = steps.into_iter().flat_map(|step| step.faults).collect();
        for name in names() {
            let victim = Victim::Node(name);
            let hit = |kill| {
                let of_kind = |fault: &&Fault<Victim>| (fault.class == Kill) == kill;
                faults.iter().filter(of_kind).any(|fault| {
                    let pairs = fault.pairs.iter();
                    let paired = pairs.flat_map(|(a, b)| [a, b]);
                    fault.victims.iter().chain(paired).any(|v| *v == victim)
                })
            };
            assert!(hit(true) && hit(false), "{name:?}");
        }
    }

    #[test]
    fn classes_stand_in_the_list_in_their_order() {
        for (i, (class, ..)) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, i);
        }
    }

    #[test]
    fn the_leader_is_named_once() {
        let leader = (Role::Proposer, 3);
        let fault = Fault {
            class: Kill,
            victims: vec![Victim::Leader, Victim::Node(leader)],
            pairs: vec![(Victim::Leader, Victim::Node(leader))],
            amount: 0,
        };
        let resolved = fault.resolve(leader);
        assert_eq!(resolved.victims, [leader]);
        assert_eq!(resolved.pairs, []);
    }
}
