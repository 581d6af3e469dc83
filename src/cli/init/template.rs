//! The text of a new configuration.

use super::answers::{Answers, FeedbackChoice};

/// Returns the commented text of a configuration.
pub(super) fn render(answers: &Answers) -> String {
    let Answers {
        name,
        prompts,
        policy,
        template,
        reward,
        reward_template,
        samples,
        max_new_tokens,
        budget,
        ..
    } = answers;
    let mut text = format!(
        "\
# An experiment: find the completions on which the policy and the reward model disagree.
# `dissent run --help` lists every key with its default, and `dissent schema` lets an editor check this file.
# Relative paths start at the folder of this file. `cache:` is the cache folder, and `~/` the home folder.

[experiment]
name = {name}
seed = 0          # the seed of every random choice; also: dissent run … --seed N
rounds = 1        # one pass of every prompt; more need [feedback]
# data_dir = \"data\"     # the folder of the event log and the artifacts; .dissent if left out

# Rows of {{\"prompt_id\"?, \"prompt\", \"system\"?, \"category\"?}}. A prompt is a text or a list of {{\"role\", \"content\"}}.
[prompts]
path = {prompts}

# The policy: a Hugging Face folder or a GGUF file.
[policy]
path = {policy}
{adapter}template = {template}     # \"chat\", \"raw\", or a text with {{prompt}}

# The proxy reward model: larger is better, or kind = \"cost\".
[reward]
path = {reward}
{layers}{reward_adapter}template = {reward_template}     # \"chat\", \"raw\", or a text with {{prompt}} and {{completion}}

[generation]
samples = {samples}             # completions of each prompt
temperature = 0.7
max_new_tokens = {max_new_tokens}
batch_prompts = 4       # prompts at a time: speed, not results

# The completions with the largest |PACS|. Other rules: dissent detect --help
[conflict]
rule = \"budget\"
budget = {budget}

[runtime]
provider = \"auto\"       # \"cpu\" or \"cuda\"
threads = 0             # 0: one per physical core
",
        name = quoted(name.as_str()),
        prompts = quoted(prompts),
        policy = quoted(policy),
        adapter = line("adapter", answers.adapter.as_deref().map(quoted)),
        template = quoted(template),
        reward = quoted(reward),
        layers = line("layers", answers.reward_layers.map(|layers| layers.to_string())),
        reward_adapter = line("adapter", answers.reward_adapter.as_deref().map(quoted)),
        reward_template = quoted(reward_template),
    );
    text.push_str(&feedback(answers));
    text
}

fn line(key: &str, value: Option<String>) -> String {
    value.map_or_else(String::new, |value| format!("{key} = {value}\n"))
}

/// Returns a text as TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn feedback(answers: &Answers) -> String {
    let held_out = answers.held_out.as_deref().map(quoted).unwrap_or_default();
    let source = match answers.feedback {
        FeedbackChoice::None => {
            return "
# With [feedback] a round continues: people judge, the reward model is refined, the policy is tuned and evaluated.
# [feedback]
# source = \"people\"
# [tuning]
# method = \"dpo\"
# [evaluation]
# prompts = \"held-out.jsonl\"
"
            .to_owned();
        }
        FeedbackChoice::People => {
            "
# Annotators judge on a page: dissent feedback export. The run waits for them.
[feedback]
source = \"people\"
overlap = 1             # judgements of each comparison
audit = 0.15            # share of the comparisons drawn from all pairs: it tells whether the rule beats chance
"
        }
        FeedbackChoice::Oracle => {
            "
# The gold reward judges, in place of people. The sentiment of a completion is a trial; see also kind = \"answers\" or \"model\".
[feedback]
source = \"oracle\"
audit = 0.15            # share of the comparisons drawn from all pairs: it tells whether the rule beats chance

[gold]
kind = \"sentiment\"
"
        }
    };
    format!(
        "{source}
# The reward model learns from the judgements. data = \"FILE\" adds the preferences that it was first trained on.
[refinement]
epochs = 1.0

# The policy is tuned against the refined reward model.
[tuning]
method = \"dpo\"          # or rso, ppo, grpo, rloo

# Prompts that no policy is tuned on.
[evaluation]
prompts = {held_out}
"
    )
}
