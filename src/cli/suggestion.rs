//! Commands that the program suggests to people.

use std::path::Path;

use super::paths;
use crate::error::BadInput;
use crate::experiment::plan_check::PlanDiffers;
use crate::history::suggested_fork::SuggestedFork;
use crate::text::shell_command;

/// Returns the command line of this process for a shell, with further words at its end.
pub(crate) fn this_command(more: &[&str]) -> String {
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    let words = std::iter::once("dissent").chain(arguments.iter().map(String::as_str));
    shell_command(words.chain(more.iter().copied()))
}

/// Returns the command that makes a fork, with its data folder.
pub(crate) fn fork_command(fork: &SuggestedFork, data_dir: &Path) -> String {
    format!("{}{}", fork.command(), paths::data_option(data_dir))
}

/// Adds to the error about a changed plan the commands that fork the experiment and run the fork. `run`
/// returns the latter for the setting of the fork's name.
pub(crate) fn with_fork(
    error: anyhow::Error,
    data_dir: &Path,
    run: impl FnOnce(&str) -> String,
) -> anyhow::Error {
    let found = error.downcast_ref::<SuggestedFork>().zip(error.downcast_ref::<PlanDiffers>());
    let Some((fork, differs)) = found else { return error };
    let (make, run) = (fork_command(fork, data_dir), run(&format!("experiment.name={}", fork.name)));
    BadInput(format!("{differs}, or fork it, which keeps what is recorded:\n  {make}\n  {run}")).into()
}
