//! Templates in a configuration.

use dissent_models::template::PromptTemplate;

/// Parses the template of a section.
///
/// # Errors
/// The key, and what is wrong with the template.
pub(super) fn parse(section: &str, text: &str) -> Result<PromptTemplate, String> {
    text.parse().map_err(|error| format!("{section}.template: {error}"))
}

/// Refuses a template of a reward model that leaves out the answer.
///
/// # Errors
/// What it must name, and why.
pub(crate) fn check_reward_template(template: &PromptTemplate) -> Result<(), String> {
    if template.names_completion() {
        Ok(())
    } else {
        Err("the template of a reward model must name {completion}: what it scores is the answer".to_owned())
    }
}
