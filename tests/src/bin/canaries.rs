//! The test of the tests: builds the core with one deliberate bug at a time (`tests/canaries.txt`)
//! and demands that the simulator or the model notices. `canaries [WORD [FROM..TO]]` runs those
//! whose description has that word, on those seeds instead of 0..1000.
//!
//! The copy lies in `target/canaries` and holds no more than the core, the log, the simulator and
//! the model, so that a build takes seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

/// Parts of the proposer and of the tests that the copy has.
const PROPOSER: [&str; 8] = [
    "bounds/descriptors",
    "media",
    "newest",
    "pace",
    "paxos",
    "reach",
    "snapshots",
    "wal",
];
const TESTS: [&str; 5] = ["check", "model", "sim", "bin/model", "bin/sim"];
const TESTS_OF_SIM: [&str; 2] = ["check", "sim"];

/// The exit code of a process whose main thread has panicked.
const PANIC: i32 = 101;

struct Canary {
    what: String,
    file: String,
    old: Vec<String>,
    new: Vec<String>,
}

fn main() -> ExitCode {
    let word = env::args().nth(1).unwrap_or_default();
    let seeds = env::args().nth(2).unwrap_or_else(|| "0..1000".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let copy = root.join("target/canaries");
    let list =
        fs::read_to_string(root.join("tests/canaries.txt")).expect("tests/canaries.txt is there");
    let canaries: Vec<Canary> = parse(&list)
        .into_iter()
        .filter(|canary| canary.what.contains(&word))
        .collect();
    copy_tree(&root, &copy).expect("the copy can be written");
    for canary in &canaries {
        mutate(&read(&copy, canary), canary);
    }
    // The model takes longer, so it sees only what the simulator has not noticed.
    let simulator = || simulate(&copy, &seeds);
    let left = pass(&copy, &TESTS_OF_SIM, canaries.iter().collect(), &simulator);
    let survivors = pass(&copy, &TESTS, left, &|| model(&copy));
    println!(
        "{} of {} caught",
        canaries.len() - survivors.len(),
        canaries.len()
    );
    for canary in &survivors {
        println!(" SURVIVES  {}", canary.what);
    }
    if survivors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Those of the canaries that `verdict` does not notice, though the unchanged code passes.
fn pass<'a>(
    copy: &Path,
    tests: &[&str],
    mut canaries: Vec<&'a Canary>,
    verdict: &dyn Fn() -> Option<String>,
) -> Vec<&'a Canary> {
    if canaries.is_empty() {
        return canaries;
    }
    fs::write(copy.join("tests/src/lib.rs"), modules(tests)).expect("the copy can be written");
    assert_eq!(verdict(), None, "the unchanged code passes");
    canaries.retain(|canary| {
        let (path, good) = (copy.join(&canary.file), read(copy, canary));
        fs::write(&path, mutate(&good, canary)).expect("the copy can be written");
        let caught = verdict();
        fs::write(&path, good).expect("the copy can be written");
        println!("{:>9}  {}", caught.as_deref().unwrap_or("-"), canary.what);
        caught.is_none()
    });
    canaries
}

fn read(copy: &Path, canary: &Canary) -> String {
    fs::read_to_string(copy.join(&canary.file)).expect("a canary names a file of the copy")
}

/// `seed N`, or the name of a world, if the simulator notices.
fn simulate(copy: &Path, seeds: &str) -> Option<String> {
    build(copy, "sim");
    let sim = Command::new(copy.join("target/debug/sim"))
        .args(["--seeds", seeds, "--events", "5000", "--first"])
        .output()
        .expect("the simulator runs");
    if sim.status.success() {
        return worlds(copy);
    }
    let text = String::from_utf8_lossy(&sim.stdout);
    let mut words = text.split_whitespace().skip_while(|word| *word != "seed");
    Some(format!("seed {}", words.nth(1).unwrap_or("?")))
}

/// The name of the world that fails, if one does.
fn worlds(copy: &Path) -> Option<String> {
    let sim = Command::new(copy.join("target/debug/sim"))
        .arg("--worlds")
        .output()
        .expect("the simulator runs");
    let text = String::from_utf8_lossy(&sim.stdout);
    (!sim.status.success()).then(|| text.lines().last().unwrap_or_default().to_owned())
}

/// `model` if the model notices.
fn model(copy: &Path) -> Option<String> {
    build(copy, "model");
    let model = Command::new(copy.join("target/debug/model"))
        .args(["quick", "elected-again"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the model runs");
    // A broken rule is a panic; another count of states alone proves nothing.
    (model.code() == Some(PANIC)).then(|| "model".into())
}

fn build(copy: &Path, bin: &str) {
    let build = cargo(copy, &["build", "--quiet", "-p", "tests", "--bin", bin])
        .output()
        .expect("cargo runs");
    assert!(
        build.status.success(),
        "a canary compiles: {}",
        String::from_utf8_lossy(&build.stderr)
    );
}

fn cargo(copy: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(arguments)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("RUSTFLAGS", "-Awarnings");
    cargo
}

fn copy_tree(root: &Path, copy: &Path) -> io::Result<()> {
    for part in ["proposer/src", "tests/src"] {
        match fs::remove_dir_all(copy.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(copy.join(part))?,
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = r#"members = ["proposer", "operator", "tests"]"#;
    assert!(
        manifest.contains(members),
        "the workspace has these members"
    );
    fs::write(
        copy.join("Cargo.toml"),
        manifest
            .replace(members, r#"members = ["proposer", "tests"]"#)
            // Most bugs are caught at once, so building takes longer than running.
            .replace("proposer.opt-level = 2", "proposer.opt-level = 1")
            .replace("tests.opt-level = 2", "tests.opt-level = 1"),
    )?;
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
    let head = |name| {
        format!(
            "[package]\nname = \"{name}\"\nedition.workspace = true\n\n[dependencies]\nbytes.workspace = true\n"
        )
    };
    let own = "crc32c.workspace = true\nhashbrown.workspace = true\nrustix.workspace = true\nsiphasher.workspace = true\nthiserror.workspace = true\ntracing.workspace = true\n";
    fs::write(copy.join("proposer/Cargo.toml"), head("proposer") + own)?;
    let own = "proposer = { path = \"../proposer\" }\nstateright.workspace = true\n";
    fs::write(copy.join("tests/Cargo.toml"), head("tests") + own)?;
    fs::write(copy.join("tests/sim-seeds.txt"), "")?;
    // Of the bounds the media need no more than this.
    let bounds = "pub mod bounds {\n    pub mod descriptors;\n}\n";
    let lib = bounds.to_owned() + &modules(&PROPOSER);
    fs::write(copy.join("proposer/src/lib.rs"), lib)?;
    for (part, names) in [("proposer/src", &PROPOSER[..]), ("tests/src", &TESTS[..])] {
        for name in names {
            let (from, to) = (root.join(part).join(name), copy.join(part).join(name));
            copy_all(&from.with_extension("rs"), &to.with_extension("rs"))?;
            copy_all(&from, &to)?;
        }
    }
    Ok(())
}

fn modules(names: &[&str]) -> String {
    names
        .iter()
        .filter(|name| !name.contains('/'))
        .map(|name| format!("pub mod {name};\n"))
        .collect()
}

/// A file, or a folder with all in it; nothing if there is neither.
fn copy_all(from: &PathBuf, to: &PathBuf) -> io::Result<()> {
    if from.is_dir() {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.is_file() {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::copy(from, to)?;
    }
    Ok(())
}

fn parse(list: &str) -> Vec<Canary> {
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

fn mutate(good: &str, canary: &Canary) -> String {
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
