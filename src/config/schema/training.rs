//! Schemas of the sections about learning.

use dissent_domain::feedback::Opponent;
use serde_json::{Map, Value, json};

use super::values::{
    about, at_least, exclusive, flag, has, integer, list, number, number_above_0, number_from_0, one_of,
    path, reward_template, section, stop, text, whole, with,
};
use crate::dataset::Format;

pub(super) fn feedback() -> Value {
    let keys = json!({
        "source": about(one_of(&["oracle", "people"]), "oracle: the gold reward judges. people: annotators judge."),
        "opponent": about(
            one_of(&Opponent::ALL.map(Opponent::name)),
            "The completion that a selected one is compared with.",
        ),
        "overlap": about(at_least(1), "Judgements per comparison."),
        "budget": about(at_least(1), "Maximum number of judgements in a round; no limit if omitted."),
        "audit": about(
            json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
            "The share of the comparisons that is drawn uniformly from all pairs; 0.15 if omitted.",
        ),
        "degenerate": about(
            one_of(&["skip", "ask"]),
            "Whether loops, empty completions and those cut off by the token limit are compared; skip if omitted.",
        ),
    });
    let of_oracle = json!({
        "if": has("source", &["oracle"]),
        "then": { "properties": { "overlap": { "maximum": 1 } } },
    });
    with(
        section(
            "The source of judgements and the choice of comparisons. It turns learning on.",
            &["source"],
            keys,
        ),
        vec![of_oracle],
    )
}

pub(super) fn gold() -> Value {
    let keys = json!({
        "kind": about(one_of(&["sentiment", "answers", "model"]), "The kind of gold reward."),
        "path": about(path(), "answers: JSON Lines of {\"prompt_id\", \"answer\"}. model: a folder or a GGUF file."),
        "layers": about(whole(), "model: number of first layers to keep."),
        "adapter": about(path(), "model: a PEFT LoRA folder with a score head."),
        "template": about(reward_template(), "model: chat, raw, or a text with {prompt} and {completion}."),
        "score": about(one_of(&["reward", "cost"]), "model: whether a larger score is better or worse."),
        "label": about(whole(), "model: the output that is the score, from 0."),
        "weights": about(list(json!({ "type": "number" })), "model: the weight of each output in the score."),
    });
    let only = |kind: &str, keys: &[&str], required: &[&str]| {
        let allowed: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), json!(true))).collect();
        json!({
            "if": has("kind", &[kind]),
            "then": { "additionalProperties": false, "properties": allowed, "required": required },
        })
    };
    with(
        section("The gold reward: it evaluates, and is the oracle.", &["kind"], keys),
        vec![
            only("sentiment", &["kind"], &[]),
            only("answers", &["kind", "path"], &["path"]),
            json!({ "if": has("kind", &["model"]), "then": { "required": ["path"] } }),
            exclusive("label", "weights"),
        ],
    )
}

pub(super) fn refinement() -> Value {
    let formats = Format::ALL.map(Format::name);
    let own = json!({
        "data": about(path(), "The preferences that the reward model was first trained on."),
        "format": about(one_of(&formats), "The format of that file; recognised if omitted."),
        "preferred": about(one_of(&["better", "safer"]), "The preferred response of PKU-SafeRLHF rows."),
    });
    let mut conditions = training_conditions();
    conditions.push(json!({ "dependencies": { "format": ["data"], "preferred": ["data"] } }));
    with(section("The training of the reward model on feedback.", &[], training_keys(own)), conditions)
}

pub(super) fn tuning() -> Value {
    let own = json!({
        "method": about(one_of(&["dpo", "rso", "ppo", "grpo", "rloo"]), "The method of the tuning."),
        "beta": about(number_above_0(), "dpo, rso: strength of the tie to the reference policy."),
        "loss": about(one_of(&["sigmoid", "ipo", "hinge"]), "dpo, rso: the loss."),
        "ppo": ppo(),
    });
    let sampling = has("method", &["ppo", "grpo", "rloo"]);
    let of_groups = json!({ "required": ["ppo"], "properties": { "ppo": {
        "required": ["samples"], "properties": { "samples": { "minimum": 2 } },
    } } });
    let mut conditions = training_conditions();
    conditions.extend([
        json!({
            "if": sampling,
            "then": { "not": { "required": ["beta"] }, "properties": { "loss": { "const": "sigmoid" } } },
            "else": { "properties": { "ppo": { "maxProperties": 0 } } },
        }),
        json!({ "if": has("method", &["grpo", "rloo"]), "then": of_groups }),
    ]);
    with(
        section("The training of the policy against the refined reward model.", &[], training_keys(own)),
        conditions,
    )
}

fn ppo() -> Value {
    let count = || integer(1, 65_536);
    let keys = json!({
        "prompts": about(count(), "Prompts sampled for one iteration."),
        "samples": about(integer(1, 1024), "Completions per prompt: 1 for ppo, 2 or more for grpo and rloo."),
        "iterations": about(count(), "Number of iterations. Each samples, scores and learns."),
        "epochs": about(count(), "Passes over the completions of an iteration."),
        "max_new_tokens": about(count(), "Maximum number of new tokens in a completion."),
        "temperature": about(number_above_0(), "Sampling temperature."),
        "clip": about(
            json!({ "type": "number", "exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0 }),
            "Clip range of the probability ratio.",
        ),
        "value_clip": about(number_above_0(), "ppo: clip range of a value."),
        "value_coefficient": about(number_from_0(), "ppo: weight of the value loss."),
        "kl_coefficient": about(number_from_0(), "Weight of the KL divergence from the reference."),
        "kl_estimator": about(one_of(&["k1", "k2", "k3"]), "Estimator of that divergence."),
        "kl_target": about(number_above_0(), "Target of the KL divergence, in nats per completion."),
        "kl_horizon": about(number_above_0(), "Horizon of the adaptive coefficient, in completions."),
        "gamma": about(number(0.0, 1.0), "Discount of the advantage estimation."),
        "lambda": about(number(0.0, 1.0), "Lambda of the advantage estimation."),
        "missing_eos_penalty": about(number_from_0(), "Penalty on a completion without a stop token or stop text."),
        "whiten_advantages": about(flag(), "ppo: whether advantages are whitened."),
        "stop": about(stop(), "Texts that end a completion."),
    });
    section("ppo, grpo and rloo: the sampling and its loss.", &[], keys)
}

pub(super) fn evaluation() -> Value {
    let keys = json!({
        "prompts": about(path(), "The file of held-out prompts."),
        "samples": about(integer(1, 1024), "Completions per prompt; generation.samples if omitted."),
    });
    section("The measurement of policies on held-out prompts.", &["prompts"], keys)
}

pub(super) fn guards() -> Value {
    let keys = json!({
        "kl_max": about(number_above_0(), "The run ends above this KL divergence, in nats per completion."),
        "gold_patience": about(at_least(1), "The run ends after this number of rounds without a new best gold reward."),
        "stop_on_reward_hacking": about(flag(), "Whether a sign of reward hacking ends the run."),
        "agreement_drop": about(number(0.0, 1.0), "Largest fall of agreement that is no sign of reward hacking."),
    });
    section("Conditions for warnings and for an end before the last round.", &[], keys)
}

/// Adds the keys that trainings share.
fn training_keys(mut own: Value) -> Value {
    let lora = json!({
        "r": about(integer(1, 65_536), "The rank of the adapter."),
        "alpha": about(json!({ "type": "number", "not": { "const": 0 } }), "The adapter is scaled by alpha / r."),
        "targets": about(list(text()), "Names of the adapted projections."),
    });
    let beta = json!({ "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 });
    let shared = json!({
        "learning_rate": about(number_above_0(), "The peak learning rate."),
        "schedule": about(one_of(&["linear", "cosine", "constant"]), "The schedule of the learning rate."),
        "warmup_steps": about(whole(), "Steps in which the learning rate rises from 0."),
        "warmup_ratio": about(number(0.0, 1.0), "Warm-up as a share of all steps, instead of warmup_steps."),
        "epochs": about(number_above_0(), "Passes over the data."),
        "steps": about(at_least(1), "Optimiser steps, instead of epochs."),
        "batch_size": about(integer(1, 4096), "Examples in a micro-batch."),
        "gradient_accumulation": about(integer(1, 65_536), "Micro-batches per optimiser step."),
        "max_length": about(integer(2, 32_768), "Longest example, in tokens."),
        "weight_decay": about(number_from_0(), "AdamW's weight decay."),
        "max_grad_norm": about(number_from_0(), "Largest global norm of the gradients; 0 disables clipping."),
        "adam_betas": about(
            json!({ "type": "array", "items": beta, "minItems": 2, "maxItems": 2 }),
            "AdamW's decay rates.",
        ),
        "adam_epsilon": about(number_above_0(), "AdamW's epsilon."),
        "lora": section("The LoRA adapter; omitted keys come from the model's adapter.", &[], lora),
        "full": about(flag(), "Trains all weights instead of a LoRA adapter."),
        "recompute": about(flag(), "Recomputes activations: less memory, more time."),
        "seed": about(whole(), "The seed of the training; the experiment's seed if omitted."),
    });
    if let (Some(own), Value::Object(shared)) = (own.as_object_mut(), shared) {
        own.extend(shared);
    }
    own
}

fn training_conditions() -> Vec<Value> {
    let all_weights = json!({ "required": ["full"], "properties": { "full": { "const": true } } });
    vec![
        exclusive("warmup_steps", "warmup_ratio"),
        exclusive("steps", "epochs"),
        json!({ "if": all_weights, "then": { "not": { "required": ["lora"] } } }),
    ]
}

/// Conditions between `[feedback]` and the sections that need it.
pub(super) fn between_sections() -> Vec<Value> {
    let with_feedback = json!({
        "required": ["tuning", "evaluation"],
        "properties": { "generation": { "properties": { "samples": { "minimum": 2 } } } },
    });
    let without_feedback = json!({
        "properties": {
            "experiment": { "properties": { "rounds": { "maximum": 1 } } },
            "refinement": { "maxProperties": 0 },
            "guards": { "maxProperties": 0 },
            "gold": false,
            "tuning": false,
            "evaluation": false,
        },
    });
    let of_oracle =
        json!({ "required": ["feedback"], "properties": { "feedback": has("source", &["oracle"]) } });
    let needs_gold = json!({ "required": ["guards"], "properties": { "guards": { "anyOf": [
        { "required": ["gold_patience"] },
        {
            "required": ["stop_on_reward_hacking"],
            "properties": { "stop_on_reward_hacking": { "const": true } },
        },
    ] } } });
    vec![
        json!({ "if": { "required": ["feedback"] }, "then": with_feedback, "else": without_feedback }),
        json!({ "if": of_oracle, "then": { "required": ["gold"] } }),
        json!({ "if": needs_gold, "then": { "required": ["gold"] } }),
    ]
}
