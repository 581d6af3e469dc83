//! Installs the Debian packages for building and testing, or prints the command if the user is not root.

use std::path::Path;
use std::process::Command;

use crate::process::{complete, output_of, succeeds};

/// Installs make, which builds the C code of some dependencies.
pub(crate) fn ensure_make() {
    let is_here = succeeds(Command::new("make").arg("--version"));
    install("building", &[("make", is_here)]);
}

/// Installs RabbitMQ, whose private nodes the tests start, and libfaketime, which makes clocks jump. Without
/// RabbitMQ its tests fail; without libfaketime clocks do not jump.
pub(crate) fn ensure_rabbitmq() {
    install("testing with RabbitMQ", &[("rabbitmq-server", has_rabbitmq()), ("faketime", has_faketime())]);
}

/// Installs Node.js, in which a test runs the script of the judging page.
pub(crate) fn ensure_node() {
    install("testing the judging page", &[("nodejs", succeeds(Command::new("node").arg("--version")))]);
}

fn has_rabbitmq() -> bool {
    Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()
}

fn has_faketime() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join("faketime/libfaketimeMT.so.1").is_file())
}

/// Installs the missing packages, by Debian's names, or prints the reason of a failure.
fn install(needed_for: &str, packages: &[(&str, bool)]) {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, is_here)| !is_here).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return;
    }
    let missing = missing.join(" ");
    let report = |why: &str| {
        println!("{needed_for} needs missing packages ({why}): run apt-get install {missing}");
    };
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return report("apt-get is not available");
    }
    if output_of(Command::new("id").arg("-u")).ok().as_deref().map(str::trim) != Some("0") {
        return report("only root can install packages");
    }
    println!("installing {missing}");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    // Without an update, the present list of packages may still be recent enough.
    let _update = complete(apt().args(["update", "--quiet"]));
    let mut install = apt();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing.split(' '));
    if let Err(error) = complete(&mut install) {
        report(&format!("the installation failed ({error:#})"));
    }
}
