//! Errors that have an exit code of their own, so that a script can choose its next step.

use std::process::ExitCode;

use dissent_actors::CommandError;
use dissent_domain::conflict::SelectionError;
use dissent_domain::fork::ForkError;
use dissent_domain::generation::SamplingParamError;
use dissent_domain::log::LogError;
use dissent_domain::replay::ReplayError;
use dissent_domain::reward::UnsuitableOutput;
use dissent_domain::training::SettingError;
use dissent_models::ModelError;
use dissent_storage::StorageError;

use crate::config::{ConfigError, MissingCompletion};
use crate::experiment::bundle::BundleError;
use crate::experiment::learning_plan::LearningPlanError;
use crate::experiment::plan_check::PlanDiffers;
use crate::jsonl::InputError;

/// The user stopped the command, and its state is saved.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub(crate) struct Interrupted(pub(crate) &'static str);

/// An option, a configuration key or the content of a file is unusable.
///
/// As a context, it marks its cause as bad input and keeps it in the chain: `.context(BadInput(…))`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// A recomputed result differs from the recorded one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Differs(pub(crate) String);

/// Kinds of failure, one for each exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Any other failure.
    Failed,
    /// Usage, configuration or input is unusable; nothing was changed.
    BadInput,
    /// The event log is damaged, or a replay differs from it.
    Differs,
    /// The user stopped the command.
    Interrupted,
}

impl FailureKind {
    /// Returns the kind of the first cause in the chain that has one. If there is none, a [`BadInput`] given
    /// as context decides.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        // A context is not an item of the chain, but anyhow finds it by its type.
        let context = error.is::<BadInput>().then_some(Self::BadInput);
        error.chain().find_map(Self::of_cause).or(context).unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if is_bad_input(cause) {
            Some(Self::BadInput)
        } else if cause.is::<ReplayError>()
            || cause.is::<Differs>()
            || matches!(cause.downcast_ref(), Some(LogError::Corrupt { .. }))
        {
            Some(Self::Differs)
        } else if cause.is::<Interrupted>() {
            Some(Self::Interrupted)
        } else {
            None
        }
    }

    /// Returns the exit code, as `dissent --help` documents it.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Differs => 3,
            Self::Interrupted => 130,
        })
    }
}

/// Whether another option, configuration or input avoids the failure.
fn is_bad_input(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<BadInput>()
        || cause.is::<InputError>()
        || cause.is::<ConfigError>()
        || cause.is::<MissingCompletion>()
        || cause.is::<PlanDiffers>()
        || cause.is::<LearningPlanError>()
        || matches!(
            cause.downcast_ref(),
            Some(BundleError::OtherExperiment { .. } | BundleError::FileName { .. })
        )
        || cause.is::<SamplingParamError>()
        || cause.is::<SelectionError>()
        || cause.is::<UnsuitableOutput>()
        || cause.is::<SettingError>()
        || matches!(cause.downcast_ref(), Some(LogError::Exists(_)))
        || matches!(cause.downcast_ref(), Some(StorageError::Import { .. }))
        || matches!(cause.downcast_ref(), Some(ModelError::File { .. } | ModelError::Invalid { .. }))
        || matches!(cause.downcast_ref(), Some(ForkError::WithinDecision { .. } | ForkError::Rejected(_)))
        || matches!(cause.downcast_ref(), Some(CommandError::Unknown(_) | CommandError::Rejected { .. }))
}

#[cfg(test)]
mod tests {
    use dissent_domain::generation::SamplingParams;
    use dissent_domain::log::LogPart;
    use dissent_domain::rejection::Rejection;

    use super::*;

    #[test]
    fn the_first_cause_with_a_kind_decides() {
        let bad = anyhow::Error::from(BadInput("x".to_owned())).context("while reading");
        assert_eq!(FailureKind::of(&bad), FailureKind::BadInput);
        let damaged = anyhow::Error::from(LogError::corrupt(LogPart::Events, "x"));
        assert_eq!(FailureKind::of(&damaged), FailureKind::Differs);
        assert_eq!(FailureKind::of(&Interrupted("x").into()), FailureKind::Interrupted);
        assert_eq!(FailureKind::of(&anyhow::anyhow!("x")), FailureKind::Failed);
    }

    #[test]
    fn bad_input_as_context_keeps_its_source_and_its_kind() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::new(source).context(BadInput("x".to_owned())).context("while reading");
        assert_eq!(FailureKind::of(&error), FailureKind::BadInput);
        assert!(error.root_cause().is::<std::io::Error>());
        let damaged = anyhow::Error::from(LogError::corrupt(LogPart::Events, "x"));
        assert_eq!(FailureKind::of(&damaged.context(BadInput("x".to_owned()))), FailureKind::Differs);
    }

    #[test]
    fn an_existing_backup_and_a_setting_out_of_range_are_bad_input() {
        assert_eq!(FailureKind::of(&LogError::Exists("x".to_owned()).into()), FailureKind::BadInput);
        let setting =
            dissent_domain::training::Hyperparameters { batch_size: 0, ..Default::default() }.validate();
        assert_eq!(FailureKind::of(&setting.unwrap_err().into()), FailureKind::BadInput);
    }

    #[test]
    fn a_rejection_is_bad_input_and_an_unsound_past_is_damage() {
        let inside = ForkError::WithinDecision { position: 7, left: 2 };
        assert_eq!(FailureKind::of(&inside.into()), FailureKind::BadInput);
        let rejected = ForkError::Rejected(Rejection::NotStarted);
        assert_eq!(FailureKind::of(&rejected.into()), FailureKind::BadInput);
        let unsound = ReplayError::Gap { position: 7, previous: 1, found: 3 };
        assert_eq!(FailureKind::of(&ForkError::Past(unsound).into()), FailureKind::Differs);
        assert_eq!(FailureKind::of(&ForkError::Cause { position: 7 }.into()), FailureKind::Failed);
        assert_eq!(FailureKind::of(&CommandError::Gone.into()), FailureKind::Failed);
        let sampling = SamplingParams { samples: 0, ..SamplingParams::default() }.validate();
        assert_eq!(FailureKind::of(&sampling.unwrap_err().into()), FailureKind::BadInput);
    }
}
