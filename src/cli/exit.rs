//! Exit codes, so that scripts can tell what to do next.

use std::process::ExitCode;

use dissent_domain::log::LogError;
use dissent_domain::replay::ReplayError;
use dissent_models::ModelError;

use crate::jsonl::InputError;

/// Shown at the end of `dissent --help`.
pub(crate) const HELP: &str = "\
Examples:
  dissent doctor                            is everything here that a run needs?
  dissent run experiment.toml               find the conflicts, and write a report
  dissent detect --input scored.jsonl       the same on your own answers and scores, without any model

Exit codes:
  0    done
  1    failed: the message says why
  2    bad usage, configuration or input: nothing was changed
  3    the event log is damaged, or a replay differs from what was recorded
  130  interrupted: `run`, `study` and `train` keep what was done and go on from there the next time; others leave
       no file behind";

/// The user asked to stop, and the state is safe.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub(crate) struct Interrupted(pub(crate) &'static str);

/// Something the user gave cannot be used: an option, a configuration key, a file's content.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// What was computed again is not what was recorded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Differs(pub(crate) String);

/// The exit code for an error, by the first cause in its chain that has one.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let code = error.chain().find_map(|cause| {
        let is_unusable =
            matches!(cause.downcast_ref(), Some(ModelError::File { .. } | ModelError::Invalid(_)));
        if cause.is::<InputError>() || cause.is::<BadInput>() || is_unusable {
            Some(2)
        } else if cause.is::<ReplayError>()
            || cause.is::<Differs>()
            || matches!(cause.downcast_ref(), Some(LogError::Corrupt(_)))
        {
            Some(3)
        } else if cause.is::<Interrupted>() {
            Some(130)
        } else {
            None
        }
    });
    ExitCode::from(code.unwrap_or(1))
}
