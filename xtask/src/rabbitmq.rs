//! RabbitMQ for the tests: they start private nodes, which need its programs.

use std::path::Path;
use std::process::Command;

use crate::process::{complete, output_of, succeeds};

/// What the tests look for.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Installs it where we may, and says what is missing where we may not: the tests that need it then fail and say so, too.
pub(crate) fn ensure() {
    if Path::new(PROGRAM).exists() {
        return;
    }
    let missing = |why: &str| {
        println!(
            "the tests of RabbitMQ will fail: {PROGRAM} is missing, and {why}; apt-get install rabbitmq-server"
        );
    };
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return missing("there is no apt-get to install it with");
    }
    if output_of(Command::new("id").arg("-u")).ok().as_deref().map(str::trim) != Some("0") {
        return missing("only root may install it");
    }
    println!("installing rabbitmq-server");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    // What is known of the packages may be good enough, and there may be no way to renew it.
    let _as_it_is = complete(apt().args(["update", "--quiet"]));
    let mut install = apt();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends", "rabbitmq-server"]);
    if let Err(error) = complete(&mut install) {
        missing(&format!("installing it failed ({error:#})"));
    }
}
