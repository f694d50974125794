//! Deliberate bugs, of which each must be noticed: `canaries.txt`.

/// One deliberate bug.
pub struct Canary {
    /// What is wrong.
    pub what: String,
    /// Where, from the repository's folder.
    pub file: String,
    /// The lines that are right.
    pub old: Vec<String>,
    /// Those in their place.
    pub new: Vec<String>,
}

/// Reads `canaries.txt`.
pub fn parse(list: &str) -> Vec<Canary> {
    let mut canaries: Vec<Canary> = Vec::new();
    for line in list
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        if let Some(what) = line.strip_prefix("= ") {
            let (what, file, old, new) = (what.into(), String::new(), Vec::new(), Vec::new());
            canaries.push(Canary {
                what,
                file,
                old,
                new,
            });
            continue;
        }
        let canary = canaries
            .last_mut()
            .expect("a canary starts with what is wrong");
        match line.split_at_checked(2) {
            Some(("- ", old)) => canary.old.push(old.trim().into()),
            Some(("+ ", new)) => canary.new.push(new.trim().into()),
            _ => canary.file = line.trim().into(),
        }
    }
    canaries
}

/// The file with the bug in it. Panics when the lines are not there, or not there alone.
pub fn mutate(good: &str, canary: &Canary) -> String {
    let lines: Vec<&str> = good.lines().collect();
    let is_here = |window: &[&str]| {
        window
            .iter()
            .zip(&canary.old)
            .all(|(line, old)| line.trim() == old)
    };
    let places: Vec<usize> = lines
        .windows(canary.old.len())
        .enumerate()
        .filter(|(_, window)| is_here(window))
        .map(|(at, _)| at)
        .collect();
    let [at] = places[..] else {
        panic!(
            "{:?} occurs once in {}: {places:?}",
            canary.old, canary.file
        )
    };
    let (before, after) = (&lines[..at], &lines[at + canary.old.len()..]);
    let new = canary.new.iter().map(String::as_str);
    before
        .iter()
        .copied()
        .chain(new)
        .chain(after.iter().copied())
        .collect::<Vec<_>>()
        .join("\n")
}
