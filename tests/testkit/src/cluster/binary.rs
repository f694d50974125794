//! The node's binary, built once for all tests of a process.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `proposer`: what the variable `PROPOSER` says, else built now, up to date and of the
/// same profile as this program. Cargo gives a package the paths of its own binaries alone, so this
/// one is built here, into the same target folder.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = env::var_os("PROPOSER") {
            return path.into();
        }
        let this = env::current_exe().expect("a program knows its path");
        let folder = this
            .ancestors()
            .skip(1)
            .find(|folder| !folder.ends_with("deps"))
            .expect("programs lie in TARGET/PROFILE or in deps below it");
        let profile = match folder.file_name() {
            Some(name) if name == "debug" => "dev".into(),
            Some(name) => name.to_os_string(),
            None => "dev".into(),
        };
        let target = folder.parent().unwrap_or(folder);
        let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
        let built = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--package", "proposer", "--profile"])
            .arg(profile)
            .arg("--target-dir")
            .arg(target)
            .status()
            .expect("cargo is there");
        assert!(built.success(), "the node does not build: {built}");
        folder.join("proposer")
    })
}
