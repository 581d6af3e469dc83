//! The JSON Schema of a configuration, for editors. It refuses what `Config::load` refuses without reading
//! other files.
//!
//! The schema is written by hand: ranges and conditions between keys are in the checks of the configuration,
//! not in its types. Tests compare both.

mod training;
mod values;

use dissent_domain::conflict::{LogprobKind, Rule};
use dissent_domain::id::ID_BYTES_MAX;
use serde_json::{Map, Value, json};

use super::limits::{BATCH_PROMPTS_MAX, ROUNDS_MAX, THREADS_MAX};
use values::{
    about, exclusive, has, integer, list, number, number_from_0, one_of, path, policy_template,
    reward_template, section, stop, text, whole, with,
};

/// Returns the schema of an experiment's configuration.
pub(crate) fn schema() -> Value {
    let sections = json!({
        "experiment": experiment(),
        "prompts": prompts(),
        "policy": policy(),
        "reward": reward(),
        "generation": generation(),
        "conflict": conflict(),
        "feedback": training::feedback(),
        "gold": training::gold(),
        "refinement": training::refinement(),
        "tuning": training::tuning(),
        "evaluation": training::evaluation(),
        "guards": training::guards(),
        "runtime": runtime(),
        "broker": broker(),
        "artifacts": artifacts(),
    });
    let mut root = Map::new();
    root.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
    root.insert("title".to_owned(), "Configuration of a Dissent experiment".into());
    let whole = section(
        "A configuration for `dissent run CONFIG.toml`.",
        &["experiment", "prompts", "policy", "reward"],
        sections,
    );
    if let Value::Object(whole) = with(whole, training::between_sections()) {
        root.extend(whole);
    }
    root.into()
}

/// Returns every key with its dots, such as `tuning.ppo.clip`, and every section.
pub(crate) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    collect_keys("", &schema(), &mut keys);
    keys
}

fn collect_keys(prefix: &str, schema: &Value, keys: &mut Vec<String>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        collect_keys(&key, property, keys);
        keys.push(key);
    }
}

fn experiment() -> Value {
    let name =
        json!({ "type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", "maxLength": ID_BYTES_MAX });
    let keys = json!({
        "name": about(name, "The name. A second run with the same name continues the experiment."),
        "seed": about(whole(), "The seed of every random choice."),
        "rounds": about(integer(1, ROUNDS_MAX.into()), "Number of rounds."),
        "data_dir": about(path(), "The folder of the event log and the artifacts."),
    });
    section("The experiment.", &["name"], keys)
}

fn prompts() -> Value {
    let keys = json!({
        "path": about(path(), "JSON Lines, JSON, CSV or Parquet of {\"prompt_id\"?, \"prompt\", \"system\"?, \"category\"?}."),
        "ignore": about(list(text()), "Further fields of the rows, which are not read."),
    });
    section("The prompts.", &["path"], keys)
}

fn policy() -> Value {
    let keys = json!({
        "path": about(path(), "A Hugging Face folder or a GGUF file."),
        "adapter": about(path(), "A PEFT LoRA folder."),
        "template": about(policy_template(), "chat, raw, or a text with {prompt}."),
        "weights": about(one_of(&["f32", "as-stored", "int8"]), "The weights that sample."),
    });
    section("The policy.", &["path"], keys)
}

fn reward() -> Value {
    let keys = json!({
        "path": about(path(), "A Hugging Face folder or a GGUF file."),
        "layers": about(whole(), "Number of first layers to keep; all if omitted."),
        "adapter": about(path(), "A PEFT LoRA folder with a score head."),
        "template": about(reward_template(), "chat, raw, or a text with {prompt} and {completion}."),
        "kind": about(one_of(&["reward", "cost"]), "Whether a larger score is better or worse."),
        "label": about(whole(), "The output that is the score, from 0, of a model with several."),
        "weights": about(list(json!({ "type": "number" })), "The weight of each output in the score."),
    });
    with(section("The proxy reward model.", &["path"], keys), vec![exclusive("label", "weights")])
}

fn generation() -> Value {
    let top_p = json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0 });
    let keys = json!({
        "samples": about(integer(1, 1024), "Completions per prompt."),
        "temperature": about(number(0.0, 100.0), "Sampling temperature; 0 is greedy."),
        "top_p": about(top_p, "Probability mass of nucleus sampling."),
        "top_k": about(whole(), "Number of most likely tokens to sample from; 0 keeps all."),
        "max_new_tokens": about(integer(1, 65_536), "Maximum number of new tokens in a completion."),
        "stop": about(stop(), "Texts that end a completion."),
        "batch_prompts": about(integer(1, BATCH_PROMPTS_MAX as u64), "Prompts per batch: speed, not results."),
    });
    section("The sampling of completions.", &[], keys)
}

fn conflict() -> Value {
    let with_budget: Vec<&str> =
        Rule::ALL.into_iter().filter(|rule| rule.needs_budget()).map(Rule::name).collect();
    let keys = json!({
        "logprob": about(one_of(&LogprobKind::ALL.map(LogprobKind::name)), "The log-probability of a completion."),
        "rule": about(one_of(&Rule::ALL.map(Rule::name)), "The selection rule."),
        "delta": about(number_from_0(), "Threshold on |PACS|, or on mean|PACS|."),
        "tau": about(number(0.0, 1.0), "Threshold on the Kendall-tau distance."),
        "budget": about(whole(), "Maximum number of completions or pairs to select."),
        "quantile": about(number(0.0, 1.0), "Quantile of |PACS| above which completions are selected."),
    });
    let needs_budget = json!({ "if": has("rule", &with_budget), "then": { "required": ["budget"] } });
    with(section("The measurement of conflict and the selection.", &[], keys), vec![needs_budget])
}

fn runtime() -> Value {
    let keys = json!({
        "provider": about(one_of(&["auto", "cpu", "cuda"]), "The processor of the models."),
        "device": about(whole(), "Index of the GPU, from 0."),
        "dtype": about(one_of(&["auto", "f32", "bf16", "f16"]), "The numbers that models compute with."),
        "threads": about(integer(0, THREADS_MAX as u64), "Threads of one model run; 0 is one per physical core."),
        "onnxruntime": about(path(), "The ONNX Runtime library; found if omitted."),
    });
    section("The processor, its threads and ONNX Runtime.", &[], keys)
}

fn broker() -> Value {
    let prefix = json!({ "type": "string", "pattern": "^[a-z0-9_-]{1,32}$" });
    let keys = json!({
        "kind": about(one_of(&["embedded", "rabbitmq"]), "embedded: one process. rabbitmq: several."),
        "url_file": about(path(), "The file with the address amqp://user:password@host:5672/vhost."),
        "prefix": about(prefix, "The prefix of the names of exchanges and queues."),
        "lease_seconds": about(integer(2, 3600), "Seconds without a heartbeat until a training's lease expires."),
        "connect_seconds": about(integer(1, 86_400), "Seconds of waiting for RabbitMQ at the start."),
        "heartbeat_seconds": about(integer(1, 600), "Seconds without traffic until a connection is lost."),
        "message_mib_max": about(integer(1, 128), "Largest message, in MiB."),
        "redeliveries_max": about(integer(1, 1 << 30), "Redeliveries before a message is a dead letter."),
    });
    let alone = json!({ "if": has("kind", &["embedded"]), "then": { "maxProperties": 1 } });
    with(section("The message broker between processes.", &["kind"], keys), vec![alone])
}

fn artifacts() -> Value {
    let gib = json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 1e6 });
    let keys = json!({
        "url": about(text(), "The shared store: file:///folder or s3://bucket/prefix."),
        "cache_gib": about(gib, "Limit of its cache in the data folder, in GiB."),
    });
    let needs_url = json!({ "dependencies": { "cache_gib": ["url"] } });
    with(section("The artifact store that processes share.", &[], keys), vec![needs_url])
}

#[cfg(test)]
mod tests;
