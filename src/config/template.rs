//! Templates in a configuration.

use dissent_models::template::PromptTemplate;

/// Parses the template of a section.
///
/// # Errors
/// If the template is invalid; the error names the key.
pub(super) fn parse(section: &str, text: &str) -> Result<PromptTemplate, String> {
    text.parse().map_err(|error| format!("{section}.template: {error}"))
}

/// Checks that the template of a reward model contains the completion.
///
/// # Errors
/// If `{completion}` is missing.
pub(crate) fn check_reward_template(template: &PromptTemplate) -> Result<(), String> {
    if template.names_completion() {
        Ok(())
    } else {
        Err("the template of a reward model lacks {completion}: add it, because the completion is scored"
            .to_owned())
    }
}
