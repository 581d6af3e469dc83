//! Schemas of single values.

use serde_json::{Value, json};

/// Adds the text that editors show.
pub(super) fn about(mut schema: Value, text: &str) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".to_owned(), text.into());
    }
    schema
}

/// A section: its keys, of which it has no others, and those that it must have.
pub(super) fn section(text: &str, required: &[&str], keys: Value) -> Value {
    json!({
        "type": "object",
        "description": text,
        "additionalProperties": false,
        "required": required,
        "properties": keys,
    })
}

/// Adds conditions between the keys of a section.
pub(super) fn with(mut section: Value, conditions: Vec<Value>) -> Value {
    if let Some(members) = section.as_object_mut() {
        members.insert("allOf".to_owned(), conditions.into());
    }
    section
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn path() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// A whole number of at least 0.
pub(super) fn whole() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn integer(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

pub(super) fn at_least(least: u64) -> Value {
    json!({ "type": "integer", "minimum": least })
}

pub(super) fn number(least: f64, most: f64) -> Value {
    json!({ "type": "number", "minimum": least, "maximum": most })
}

pub(super) fn number_from_0() -> Value {
    json!({ "type": "number", "minimum": 0.0 })
}

pub(super) fn number_above_0() -> Value {
    json!({ "type": "number", "exclusiveMinimum": 0.0 })
}

pub(super) fn one_of(names: &[&str]) -> Value {
    json!({ "enum": names })
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Texts that end a completion.
pub(super) fn stop() -> Value {
    json!({ "type": "array", "maxItems": 16, "items": { "type": "string", "minLength": 1, "maxLength": 256 } })
}

/// The template of a policy.
pub(super) fn policy_template() -> Value {
    template("\\{prompt\\}")
}

/// The template of a reward model, which places the completion.
pub(super) fn reward_template() -> Value {
    template("\\{prompt\\}[\\s\\S]*\\{completion\\}")
}

fn template(text: &str) -> Value {
    json!({
        "type": "string",
        "anyOf": [
            { "enum": ["chat", "raw"] },
            { "pattern": "^chat@[0-9]{4}-[0-9]{2}-[0-9]{2}$" },
            { "pattern": text },
        ],
        "not": { "pattern": "\\{completion\\}[\\s\\S]*\\{(prompt|completion)\\}" },
    })
}

/// Two keys that exclude each other.
pub(super) fn exclusive(one: &str, other: &str) -> Value {
    json!({ "not": { "required": [one, other] } })
}

/// A condition on a key that is present and has one of these values.
pub(super) fn has(key: &str, values: &[&str]) -> Value {
    json!({ "required": [key], "properties": { key: { "enum": values } } })
}
