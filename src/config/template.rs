//! Templates in a configuration.

use dissent_models::template::PromptTemplate;

use super::{ConfigError, KeyErrorKind};

/// The error of a reward model's template that lacks `{completion}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the template of a reward model lacks {{completion}}: add it, because the completion is scored")]
pub(crate) struct MissingCompletion;

/// Parses the template at a key.
///
/// # Errors
/// If the template is invalid; the error names the key.
pub(super) fn parse(key: &str, text: &str) -> Result<PromptTemplate, ConfigError> {
    text.parse().map_err(|error| invalid(key, error))
}

/// Parses the template of a reward model.
///
/// # Errors
/// If the template is invalid or lacks `{completion}`; the error names the key.
pub(super) fn parse_reward(key: &str, text: &str) -> Result<PromptTemplate, ConfigError> {
    let template = parse(key, text)?;
    check_reward_template(&template).map_err(|error| invalid(key, error))?;
    Ok(template)
}

fn invalid(key: &str, error: impl std::error::Error + Send + Sync + 'static) -> ConfigError {
    ConfigError::key_because(key, KeyErrorKind::Template, format!("invalid {key}"), error)
}

/// Checks that the template of a reward model contains the completion.
///
/// # Errors
/// If `{completion}` is missing.
pub(crate) fn check_reward_template(template: &PromptTemplate) -> Result<(), MissingCompletion> {
    if template.names_completion() { Ok(()) } else { Err(MissingCompletion) }
}
