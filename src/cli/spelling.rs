//! Hidden spellings of options, so that the spelling of one command also works in the others.
//!
//! A command with one model calls its options `--layers` and `--adapter`. A command with several names the
//! model first: `--reward-layers`. The hidden spellings accept the other form where it has one meaning.

use clap::Command;

/// A command, by the names of its subcommands, with an option and its hidden spellings.
type Spelling = (&'static [&'static str], &'static str, &'static [&'static str]);

const SPELLINGS: &[Spelling] = &[
    (&["generate"], "adapter", &["policy-adapter"]),
    (&["generate"], "template", &["policy-template"]),
    (&["generate"], "weights", &["policy-weights"]),
    (&["generate"], "input", &["prompts"]),
    (&["score"], "adapter", &["policy-adapter"]),
    (&["score"], "template", &["policy-template"]),
    (&["score"], "reward_layers", &["layers"]),
    (&["eval", "policy"], "adapter", &["policy-adapter"]),
    (&["eval", "policy"], "template", &["policy-template"]),
    (&["eval", "policy"], "reward_layers", &["layers"]),
    (&["eval", "policy"], "prompts", &["input"]),
    (&["eval", "reward"], "data", &["input"]),
    (&["train", "reward"], "base", &["reward"]),
    (&["train", "reward"], "layers", &["reward-layers"]),
    (&["train", "reward"], "adapter", &["reward-adapter"]),
    (&["train", "reward"], "template", &["reward-template"]),
    (&["train", "cost"], "base", &["reward"]),
    (&["train", "cost"], "layers", &["reward-layers"]),
    (&["train", "cost"], "adapter", &["reward-adapter"]),
    (&["train", "cost"], "template", &["reward-template"]),
    (&["train", "sft"], "base", &["policy"]),
    (&["train", "sft"], "adapter", &["policy-adapter"]),
    (&["train", "sft"], "template", &["policy-template"]),
    (&["train", "dpo"], "base", &["policy"]),
    (&["train", "dpo"], "adapter", &["policy-adapter"]),
    (&["train", "dpo"], "template", &["policy-template"]),
    (&["train", "ppo"], "base", &["policy"]),
    (&["train", "ppo"], "adapter", &["policy-adapter"]),
    (&["train", "ppo"], "template", &["policy-template"]),
    (&["train", "grpo"], "base", &["policy"]),
    (&["train", "grpo"], "adapter", &["policy-adapter"]),
    (&["train", "grpo"], "template", &["policy-template"]),
    (&["train", "rloo"], "base", &["policy"]),
    (&["train", "rloo"], "adapter", &["policy-adapter"]),
    (&["train", "rloo"], "template", &["policy-template"]),
    (&["model", "merge"], "base", &["policy", "reward"]),
    (&["model", "merge"], "layers", &["reward-layers"]),
    (&["model", "merge"], "adapter", &["policy-adapter", "reward-adapter"]),
];

/// Adds the hidden spellings to the program's command.
pub(super) fn with_hidden(command: Command) -> Command {
    SPELLINGS.iter().fold(command, |command, (path, option, hidden)| add(command, path, option, hidden))
}

fn add(
    command: Command,
    path: &'static [&'static str],
    option: &'static str,
    hidden: &'static [&'static str],
) -> Command {
    match path.split_first() {
        Some((name, path)) => command.mut_subcommand(*name, |inner| add(inner, path, option, hidden)),
        None => command.mut_arg(option, |argument| argument.aliases(hidden.iter().copied())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use clap::CommandFactory as _;

    use super::*;
    use crate::config::schema;

    /// Visits every command that has no subcommands.
    fn each(command: &Command, visit: &mut impl FnMut(&str, &Command)) {
        fn walk(path: &str, command: &Command, visit: &mut impl FnMut(&str, &Command)) {
            visit(path, command);
            for inner in command.get_subcommands() {
                walk(&format!("{path} {}", inner.get_name()), inner, visit);
            }
        }
        walk("dissent", command, visit);
    }

    fn complete() -> Command {
        let mut command = with_hidden(crate::cli::Cli::command());
        command.build();
        command
    }

    #[test]
    fn no_spelling_has_two_meanings_in_a_command() {
        complete().debug_assert();
    }

    #[test]
    fn options_of_several_commands_have_one_short_form_and_take_a_value_everywhere_or_nowhere() {
        let mut seen: BTreeMap<String, BTreeSet<(Option<char>, bool)>> = BTreeMap::new();
        each(&complete(), &mut |_, command| {
            for option in command.get_arguments() {
                let Some(long) = option.get_long() else { continue };
                let form = (option.get_short(), option.get_action().takes_values());
                seen.entry(long.to_owned()).or_default().insert(form);
            }
        });
        assert!(seen.contains_key("reward-layers"), "the walk reaches the options");
        // A training recomputes activations, and a replay the results of a configuration.
        let several = seen.iter().filter(|(name, forms)| forms.len() > 1 && *name != "recompute");
        let several: Vec<_> = several.collect();
        assert!(several.is_empty(), "options with several forms: {several:?}");
    }

    /// Options of `train` that set the same as a key of `[refinement]` or `[tuning]` have its name.
    #[test]
    fn options_of_a_training_are_spelled_as_the_keys_of_a_configuration() {
        let keys = schema::keys();
        let names: BTreeSet<String> = keys
            .iter()
            .filter_map(|key| key.strip_prefix("refinement."))
            .map(|key| key.replace(['.', '_'], "-"))
            .collect();
        let mut options = BTreeSet::new();
        each(&complete(), &mut |path, command| {
            if path == "dissent train reward" {
                options.extend(
                    command.get_arguments().filter_map(|option| option.get_long().map(str::to_owned)),
                );
            }
        });
        // Those of AdamW have no option, and `lora` is a section.
        let without = ["adam-betas", "adam-epsilon", "lora"];
        for name in names.iter().filter(|name| !without.contains(&name.as_str())) {
            assert!(options.contains(name), "train reward has no --{name}: {options:?}");
        }
    }

    #[test]
    fn every_option_that_takes_a_path_resolves_the_cache_folder() {
        let mut checked = 0;
        each(&complete(), &mut |path, command| {
            for option in command.get_arguments() {
                let names = option.get_value_names().unwrap_or_default();
                let is_path =
                    names.iter().any(|name| matches!(name.as_str(), "PATH" | "DIR" | "FILE" | "CONFIG.toml"));
                if !is_path {
                    continue;
                }
                let parser = format!("{:?}", option.get_value_parser());
                checked += 1;
                assert!(!parser.contains("path_buf"), "{path} {}: {parser}", option.get_id());
            }
        });
        assert!(checked > 50, "{checked} options");
    }
}
