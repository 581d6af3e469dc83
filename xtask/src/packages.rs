//! What building and testing need besides Rust: installed where we may, asked for where we may not.

use std::path::Path;
use std::process::Command;

use crate::process::{complete, output_of, succeeds};

/// What builds the C code of some dependencies.
pub(crate) fn ensure_make() {
    let is_here = succeeds(Command::new("make").arg("--version"));
    install("building", &[("make", is_here)]);
}

/// RabbitMQ for the tests, which start private nodes, and what makes clocks jump. Where they are missing, the tests of RabbitMQ fail
/// and say so, and clocks do not jump.
pub(crate) fn ensure_rabbitmq() {
    install("tests of RabbitMQ", &[("rabbitmq-server", has_rabbitmq()), ("faketime", has_faketime())]);
}

/// Node.js, in which a test runs the script of the judging page.
pub(crate) fn ensure_node() {
    install("a test of the judging page", &[("nodejs", succeeds(Command::new("node").arg("--version")))]);
}

fn has_rabbitmq() -> bool {
    Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()
}

fn has_faketime() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join("faketime/libfaketimeMT.so.1").is_file())
}

/// Installs the packages that are not here, by Debian's names, or says why not.
fn install(needed_for: &str, packages: &[(&str, bool)]) {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, is_here)| !is_here).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return;
    }
    let missing = missing.join(" ");
    let said = |why: &str| {
        println!("what {needed_for} takes is missing, and {why}; apt-get install {missing}");
    };
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return said("there is no apt-get to install it with");
    }
    if output_of(Command::new("id").arg("-u")).ok().as_deref().map(str::trim) != Some("0") {
        return said("only root may install it");
    }
    println!("installing {missing}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    // What is known of the packages may be good enough, and there may be no way to renew it.
    let _as_it_is = complete(apt().args(["update", "--quiet"]));
    let mut install = apt();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing.split(' '));
    if let Err(error) = complete(&mut install) {
        said(&format!("installing it failed ({error:#})"));
    }
}
