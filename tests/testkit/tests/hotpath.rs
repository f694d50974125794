//! What a write costs in instructions, from a client's JSON to the answer's, is said in the changelog, and
//! does not grow by a tenth without a line there.

use std::process::Command;

use testkit::tools::{root, run, said, tool};

/// Batches of a short and of a long run: the difference is what writes cost, without what is done once.
const BATCHES: [u32; 2] = [20, 220];
/// Requests in a batch: `BATCH` of the program.
const BATCH: u32 = 16;
/// How the changelog says it. The newest such line counts, which is the first.
const LINE: &str = " instructions a write";

fn instructions(batches: u32) -> u64 {
    // Where it really is: it finds its parts beside it, and is not always installed but unpacked.
    let valgrind = std::fs::canonicalize(tool("valgrind")).expect("it is there");
    let mut command = Command::new(&valgrind);
    if let Some(beside) = valgrind.parent().and_then(|bin| bin.parent()) {
        let libraries = beside.join("libexec/valgrind");
        if libraries.is_dir() {
            command.env("VALGRIND_LIB", libraries);
        }
    }
    let output = run(command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env!("CARGO_BIN_EXE_hotpath"))
        .arg(batches.to_string()));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let mut lines = text.lines();
    let collected = lines.find_map(|line| line.split_once("Collected : "));
    let collected = collected.and_then(|(_, count)| count.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("no count in {text}"))
}

/// The number in the changelog's first line of that kind.
fn claimed(changelog: &str) -> Option<u64> {
    let line = changelog.lines().find(|line| line.contains(LINE))?;
    let number = line.split(LINE).next()?.rsplit(' ').next()?;
    number.replace(',', "").parse().ok()
}

#[test]
fn a_write_costs_what_the_changelog_says() {
    let [short, long] = BATCHES.map(instructions);
    let writes = u64::from((BATCHES[1] - BATCHES[0]) * BATCH);
    let cost = (long - short) / writes;
    println!("{cost} instructions a write");
    let changelog = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("a changelog");
    let claimed = claimed(&changelog).expect("a line of the changelog says what a write costs");
    assert!(
        cost * 10 <= claimed * 11,
        "a write takes {cost} instructions, and {claimed} by the changelog: make it cheaper, or say there \
         why it costs {cost}{LINE}"
    );
    assert!(
        cost * 10 >= claimed * 7,
        "a write takes {cost} instructions only, and {claimed} by the changelog: say so there"
    );
}

#[test]
fn the_first_line_counts() {
    let text = "- Now 1,234 instructions a write, for fun.\n- Before: 9 instructions a write.\n";
    assert_eq!(claimed(text), Some(1234));
    assert_eq!(claimed("nothing"), None);
}
