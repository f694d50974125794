//! The README's commands do what the README says, on a cluster as it says how to start one.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use api::env::Role;
use testkit::cluster::{Cluster, binary};

/// The section whose commands are run.
const SECTION: &str = "\n## Use it\n";

/// A command and what it prints, in which `…` stands for anything.
#[derive(Debug, Default)]
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The commands of the section's code blocks. A line that begins with `# ` is what the command before
/// it prints; a command continues until such a line or the end of its block.
fn steps(readme: &str) -> Vec<Step> {
    let (_, section) = readme.split_once(SECTION).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps = Vec::new();
    let mut step = Step::default();
    for block in section.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for line in block.lines() {
            match line.strip_prefix("# ") {
                Some(printed) => step.prints.push(printed.to_owned()),
                None => {
                    if !step.prints.is_empty() {
                        steps.push(std::mem::take(&mut step));
                    }
                    step.command.push_str(line);
                    step.command.push('\n');
                }
            }
        }
        steps.push(std::mem::take(&mut step));
    }
    steps
}

fn matches(expected: &str, printed: &str) -> bool {
    let mut rest = printed;
    let mut pieces = expected.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    let mut last = first;
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
        last = piece;
    }
    rest.is_empty() || (last.is_empty() && expected.contains('…'))
}

#[test]
fn the_commands_of_the_readme_print_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let steps = steps(&readme);
    let all: String = steps.iter().map(|step| step.command.as_str()).collect();
    for word in [
        "curl",
        "put",
        "get",
        "cas",
        "watch",
        "ifVersion",
        "/watch",
        "/resource/",
    ] {
        assert!(all.contains(word), "{word} is shown");
    }

    let cluster = Cluster::start(3, 3, 2);
    let path = format!(
        "{}:{}",
        binary::path().parent().unwrap().display(),
        env::var("PATH").unwrap()
    );
    // The ports of `paxos-operator local --port-base 8000` become those of this cluster.
    let address = |command: &str| {
        let mut command = command.to_owned();
        for (role, base) in [(Role::Proposer, 8000), (Role::Learner, 8200)] {
            for (port, url) in (base + 1..).zip(cluster.urls(role)) {
                let address = url.trim_start_matches("http://");
                command = command.replace(&format!("localhost:{port}"), address);
            }
        }
        command
    };
    let mut exports = String::new();
    for step in steps {
        let command = format!("{exports}{}", address(&step.command));
        let output = Command::new("bash")
            .arg("-c")
            .arg(&command)
            .env("PATH", &path)
            .output();
        let output = output.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
        let same = printed.len() == step.prints.len()
            && step
                .prints
                .iter()
                .zip(&printed)
                .all(|(expected, line)| matches(expected, line));
        assert!(
            same,
            "{command}\nprints\n{printed:#?}\n{}\nand the README says\n{:#?}",
            String::from_utf8_lossy(&output.stderr),
            step.prints
        );
        for line in address(&step.command)
            .lines()
            .filter(|line| line.starts_with("export "))
        {
            exports.push_str(line);
            exports.push('\n');
        }
    }
}

#[test]
fn an_ellipsis_stands_for_anything() {
    assert!(matches("a…c", "abc"));
    assert!(matches("a…", "abc"));
    assert!(matches("abc", "abc"));
    assert!(!matches("abc", "abcd"));
    assert!(!matches("a…c", "abd"));
    assert!(!matches("…b", "abc"));
}
