//! Programs that tests run: helm, kubectl, prometheus and promtool.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program by name: what the variable of that name in capitals (`HELM`) says, else the one in
/// `.tools/`, else the first on PATH. Panics with what to do when there is none.
pub fn tool(name: &str) -> PathBuf {
    let named = std::env::var_os(name.to_uppercase()).map(PathBuf::from);
    let ours = Some(root().join(".tools").join(name)).filter(|path| path.is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|program| program.is_file())
    };
    named.or(ours).or_else(on_path).unwrap_or_else(|| {
        panic!(
            "no {name}: run `make setup`, or set {}",
            name.to_uppercase()
        )
    })
}

/// How a program ended, in one text for messages.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Runs a command from the repository's folder. Panics when it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()))
}
