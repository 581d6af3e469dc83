//! Programs, models and data that a test needs and a machine may lack. The tests of every crate include this
//! file.
//!
//! A missing requirement fails its test, so a test that passes has run. `DISSENT_TESTS_MAY_SKIP=1` skips such
//! tests instead. The harness hides the output of passing tests, so a skipped test prints `skipped: reason`
//! directly to stderr. It also appends the reason to the file named by `DISSENT_TESTS_SKIPPED`, where
//! `cargo xtask test` counts them.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::panic, reason = "a missing requirement fails its test")]

use std::env;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Environment variable: at `1`, tests that lack a requirement are skipped.
const MAY_SKIP: &str = "DISSENT_TESTS_MAY_SKIP";
/// Environment variable: the file that collects the reasons of skipped tests, one per line.
const SKIPPED: &str = "DISSENT_TESTS_SKIPPED";

/// Returns something that `cargo xtask test` provides: ONNX Runtime, a model, a program of the system.
///
/// # Panics
/// If it is missing and tests may not skip.
#[track_caller]
pub(crate) fn required<T, E: Display>(found: Result<T, E>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if env::var_os(MAY_SKIP).is_some_and(|value| value == "1") => skip(&reason),
        Err(reason) => panic!("{reason}; set {MAY_SKIP}=1 to skip tests that lack a requirement"),
    }
}

/// Returns something that a developer may be unable to provide: data that this project may not distribute, or
/// a certain machine. The test skips without it.
pub(crate) fn optional<T, E: Display>(found: Result<T, E>) -> Option<T> {
    found.map_or_else(|reason| skip(&reason), Some)
}

/// Returns the path if it is a file, else an error that names it.
pub(crate) fn file(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_file() { Ok(path) } else { Err(format!("{} is missing", path.display())) }
}

fn skip<T>(reason: &dyn Display) -> Option<T> {
    // The harness captures the print macros, but not standard error itself.
    let _closed = writeln!(io::stderr(), "skipped: {reason}");
    if let Some(path) = env::var_os(SKIPPED) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file for reasons");
        // One write, because other tests append at the same time.
        file.write_all(format!("{reason}\n").as_bytes()).expect("room for a reason");
    }
    None
}
