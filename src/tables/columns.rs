//! The columns of the tables.

use serde::Serialize;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Bool,
    Int,
    Number,
    Text,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Units, range, and when it is empty.
    pub(crate) about: &'static str,
}

const fn bool(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Bool, about }
}

const fn int(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Int, about }
}

const fn number(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Number, about }
}

const fn text(name: &'static str, about: &'static str) -> Column {
    Column { name, kind: Kind::Text, about }
}

const POSITION: Column = int("position", "position in the log of the event that made the row");
const TIME: Column = int("time_us", "time of that event, microseconds since 1970 UTC");
const ROUND: Column = int("round", "the round, from 0");
const PROMPT_ID: Column = text("prompt_id", "the id of the prompt");
const CATEGORY: Column = text("category", "the label of the prompt; empty without one");
const PROMPT: Column = text("prompt", "the text of the prompt");
const COMPLETION: Column = int("completion", "the index of the completion of its prompt, from 0");

pub(super) const PROMPTS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    PROMPT_ID,
    CATEGORY,
    PROMPT,
    text("state", "`sampled`, `scored`, `measured` or `set aside`"),
    int("completions", "number of its completions"),
    bool("degenerate", "whether rewards or log-probabilities do not vary; empty before the measurement"),
    number("mean_abs_pacs", "mean of |PACS| over the completions, 0 to 2"),
    number(
        "kendall_tau",
        "Kendall's tau-b between rewards and log-probabilities, -1 to 1; empty if degenerate",
    ),
    number("kendall_tau_distance", "(1 - tau-b) / 2, 0 to 1: 1 for opposite rankings; empty if degenerate"),
    int("selected", "completions that the rule selected"),
    text("reason", "why the prompt was set aside"),
];

pub(super) const COMPLETIONS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    PROMPT_ID,
    CATEGORY,
    COMPLETION,
    text("text", "the text of the completion"),
    int("tokens", "tokens of the completion, the stop token included"),
    number("logprob", "log-probability under the policy, nats, the sum over tokens"),
    number("logprob_mean", "the same per token, nats; 0 for an empty completion"),
    number("reward", "score of the proxy; empty before the scoring"),
    text("finish_reason", "why the completion ended"),
    text("policy", "fingerprint of the policy"),
];

pub(super) const CONFLICTS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    PROMPT_ID,
    CATEGORY,
    COMPLETION,
    PROMPT,
    text("text", "the text of the completion"),
    number("reward", "score of the proxy"),
    number("logprob", "log-probability by which the policy orders completions, nats"),
    number(
        "z_reward",
        "z-score of the reward among the completions of the prompt; empty if they do not vary",
    ),
    number("z_logprob", "z-score of the log-probability, likewise"),
    number("pacs", "z_reward - z_logprob: positive if the proxy favours the completion more than the policy"),
    number("abs_pacs", "|PACS|: the strength of the conflict"),
    number("kendall_tau_distance", "of the prompt, 0 to 1: 1 for opposite rankings; empty if degenerate"),
    bool("selected", "whether the rule selected the completion"),
    text("outcome", "who is wrong by the latest judged pair of the completion; empty without one"),
];

pub(super) const COMPARISONS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    int("comparison", "the number of the pair in its round, from 0"),
    PROMPT_ID,
    CATEGORY,
    PROMPT,
    int("first", "the index of the first completion"),
    int("second", "the index of the second completion"),
    text("first_text", "the text of the first completion"),
    text("second_text", "the text of the second completion"),
    number("first_reward", "score of the first completion by the proxy"),
    number("second_reward", "score of the second completion by the proxy"),
    number("first_logprob", "log-probability of the first completion, nats"),
    number("second_logprob", "log-probability of the second completion, nats"),
    number("first_pacs", "PACS of the first completion"),
    number("second_pacs", "PACS of the second completion"),
    int("judgements", "number of judgements"),
    text("verdict", "verdict of the majority: `first`, `second` or `tie`; empty without judgements"),
    bool(
        "first_unsafe",
        "whether a majority finds the first completion unsafe; empty if nobody judged safety",
    ),
    bool("second_unsafe", "the same of the second completion"),
    text("outcome", "who is wrong; empty without judgements"),
    number("propensity", "probability with which the audit drew the pair, above 0 to 1; 1 for other pairs"),
    bool("is_audit", "whether the audit drew the pair"),
    bool("is_focus", "whether the pair belongs to the focus of a fork"),
];

pub(super) const JUDGEMENTS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    int("comparison", "the number of the pair in its round, from 0"),
    text("annotator", "who judged"),
    text("verdict", "`first`, `second` or `tie`"),
    bool("first_unsafe", "whether the first completion is unsafe; empty if safety was not judged"),
    bool("second_unsafe", "the same of the second completion"),
    text("comment", "the comment of the annotator"),
];

pub(super) const TRAININGS: &[Column] = &[
    POSITION,
    TIME,
    ROUND,
    text(
        "event",
        "`requested`, `started`, `progressed`, `lease_expired`, `reward_model_refined` or `policy_tuned`",
    ),
    text("stage", "`reward` or `policy`"),
    int("attempt", "the attempt, from 0"),
    text("worker", "the worker that started it"),
    int("step", "the last optimiser step"),
    int("steps", "planned optimiser steps"),
    text("fingerprint", "fingerprint of the trained model"),
    text("metrics", "metrics by name, as a JSON object"),
];

pub(super) const EVALUATIONS: &[Column] = &[
    POSITION,
    TIME,
    int("evaluation", "the number of the evaluation, from 0: that of the first policy"),
    text("policy", "fingerprint of the policy"),
    text("reward_model", "fingerprint of the reward model"),
    int("prompts", "held-out prompts"),
    int("completions", "completions sampled"),
    number("gold_reward", "mean gold reward; empty without one"),
    number("gold_reward_error", "its standard error over prompts"),
    number("proxy_reward", "mean score by the initial proxy"),
    number("proxy_reward_error", "its standard error over prompts"),
    number("refined_reward", "mean score by the current reward model"),
    number("refined_reward_error", "its standard error over prompts"),
    number("proxy_agreement", "share of pairs that the initial proxy orders as the gold reward, 0 to 1"),
    number("refined_agreement", "the same of the current reward model"),
    number("mean_abs_pacs", "mean over prompts of mean |PACS|, 0 to 2"),
    number("kendall_tau", "mean over prompts of Kendall's tau-b, -1 to 1"),
    number("kl", "KL divergence from the initial policy, nats per completion"),
    number("response_tokens", "mean tokens of a completion"),
    number("stopped", "share of completions that ended with a stop token, 0 to 1"),
];
