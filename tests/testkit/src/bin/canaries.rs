//! The test of the tests: builds the core with one deliberate bug at a time (`tests/testkit/canaries.txt`)
//! and demands that the simulator or the model notices. `canaries [WORD [FROM..TO]]` runs those
//! whose description has that word, on those seeds instead of 0..1000.
//!
//! The copy lies in `target/canaries` and holds no more than the core, the log, the simulator and
//! the model, so that a build takes seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use testkit::canaries::{Canary, mutate, parse};
use testkit::files;
use testkit::tools::root;

/// Parts of the proposer and of the tests that the copy has, beside all of the protocol.
const PROPOSER: [&str; 4] = ["bounds/descriptors", "media", "snapshots", "wal"];
const TESTS: [&str; 5] = ["check", "model", "sim", "bin/model", "bin/sim"];
const TESTS_OF_SIM: [&str; 2] = ["check", "sim"];

/// The exit code of a process whose main thread has panicked.
const PANIC: i32 = 101;

fn main() -> ExitCode {
    let word = env::args().nth(1).unwrap_or_default();
    let seeds = env::args().nth(2).unwrap_or_else(|| "0..1000".into());
    let root = root();
    let copy = root.join("target/canaries");
    let list = fs::read_to_string(root.join("tests/testkit/canaries.txt"))
        .expect("tests/testkit/canaries.txt is there");
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
    fs::write(copy.join("tests/testkit/src/lib.rs"), modules(tests))
        .expect("the copy can be written");
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
    let build = cargo(copy, &["build", "--quiet", "-p", "testkit", "--bin", bin])
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
    for part in [
        "proposer/paxos",
        "proposer/roles",
        "proposer/src",
        "tests/testkit/src",
    ] {
        match fs::remove_dir_all(copy.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(copy.join(part))?,
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = r#"members = ["proposer", "proposer/api", "proposer/paxos", "proposer/roles", "operator", "tests", "tests/bench", "tests/testkit"]"#;
    assert!(
        manifest.contains(members),
        "the workspace has these members"
    );
    fs::write(
        copy.join("Cargo.toml"),
        manifest
            .replace(
                members,
                r#"members = ["proposer", "proposer/paxos", "proposer/roles", "tests/testkit"]"#,
            )
            // Most bugs are caught at once, so building takes longer than running.
            .replace("proposer.opt-level = 2", "proposer.opt-level = 1")
            .replace("paxos.opt-level = 2", "paxos.opt-level = 1")
            .replace("roles.opt-level = 2", "roles.opt-level = 1")
            .replace("testkit.opt-level = 2", "testkit.opt-level = 1"),
    )?;
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
    let head = |name| {
        format!(
            "[package]\nname = \"{name}\"\nedition.workspace = true\n\n[dependencies]\nbytes.workspace = true\n"
        )
    };
    let own = "crc32c.workspace = true\npaxos.workspace = true\nrustix.workspace = true\nthiserror.workspace = true\ntracing.workspace = true\n";
    fs::write(
        copy.join("proposer/Cargo.toml"),
        head("proposer") + own + "\n[lib]\nname = \"node\"\n",
    )?;
    let own = "paxos.workspace = true\nproposer = { path = \"../../proposer\" }\nroles.workspace = true\nstateright.workspace = true\n";
    fs::write(copy.join("tests/testkit/Cargo.toml"), head("testkit") + own)?;
    fs::write(copy.join("tests/testkit/sim-seeds.txt"), "")?;
    // Of the bounds the media need no more than this.
    let bounds = "pub mod bounds {\n    pub mod descriptors;\n}\n";
    let lib = bounds.to_owned() + &modules(&PROPOSER);
    fs::write(copy.join("proposer/src/lib.rs"), lib)?;
    for whole in ["proposer/paxos", "proposer/roles"].map(PathBuf::from) {
        files::copy(&root.join(&whole), &copy.join(&whole));
    }
    for (part, names) in [
        ("proposer/src", &PROPOSER[..]),
        ("tests/testkit/src", &TESTS[..]),
    ] {
        for name in names {
            let (from, to) = (root.join(part).join(name), copy.join(part).join(name));
            // A module is a file, or a folder, or both.
            for (from, to) in [
                (from.with_extension("rs"), to.with_extension("rs")),
                (from, to),
            ] {
                if from.exists() {
                    files::copy(&from, &to);
                }
            }
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
