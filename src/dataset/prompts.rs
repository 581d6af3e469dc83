//! Reading prompts: rows of `{"prompt_id"?, "prompt", "system"?, "category"?}`. A prompt is a text or a list
//! of turns. No other field is dropped silently: it is kept for an output, or an error names it.

use std::collections::HashMap;
use std::path::Path;

use dissent_domain::id::PromptId;
use dissent_domain::prompt::Prompt;
use dissent_domain::round::PROMPTS_MAX;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::text_or_turns::{TextOrTurns, dialogue, with_system};
use crate::jsonl::FieldErrorKind::{Count, Duplicate, Invalid, OutOfRange};
use crate::jsonl::{FieldError, InputError, JsonLines};
use crate::text::similar;

/// Longest prompt, in bytes; far beyond any model's context.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// Fields of a row that are read.
const READ: [&str; 4] = ["prompt_id", "prompt", "system", "category"];
/// Fields that name a row or its origin. A run needs none of them.
const NAMES: [&str; 2] = ["id", "source"];
/// Fields that would change the text that a model sees.
const OF_THE_TEXT: [&str; 9] = [
    "tools",
    "chat_template_kwargs",
    "documents",
    "messages",
    "conversations",
    "history",
    "system_prompt",
    "system_message",
    "instruction",
];

/// One line.
#[derive(Debug, Deserialize)]
struct Line {
    prompt_id: Option<String>,
    prompt: TextOrTurns,
    system: Option<String>,
    category: Option<String>,
}

/// A prompt with the fields of its row that are not read.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptRow {
    /// The prompt.
    pub prompt: Prompt,
    /// The other fields, in order.
    pub rest: Map<String, Value>,
}

/// Reads all prompts of a file, or of standard input for `-`. The default id of a prompt is `p` and its line
/// number. `ignored` names the fields that may be dropped.
///
/// # Errors
/// The first unusable line, with file, line and field: also a field that is neither read nor ignored.
pub fn read(path: &Path, ignored: &[String]) -> Result<Vec<Prompt>, InputError> {
    let rows = read_checked(path, &|field| {
        let is_known = NAMES.contains(&field) || ignored.iter().any(|ignored| ignored == field);
        if is_known { Ok(()) } else { Err(unread(field)) }
    })?;
    Ok(rows.into_iter().map(|row| row.prompt).collect())
}

/// As [`read`], with all fields of a row for an output that has them, too.
///
/// # Errors
/// As [`read`], but only a field that would change the text of a prompt is refused.
pub fn read_rows(path: &Path) -> Result<Vec<PromptRow>, InputError> {
    read_checked(path, &|field| check_kept(field))
}

/// Checks a field that is kept in an output but not read.
///
/// # Errors
/// If it would change the text that a model sees.
pub fn check_kept(field: &str) -> Result<(), FieldError> {
    if OF_THE_TEXT.contains(&field) {
        let reason = "not read beside a prompt: put its content into the prompt, as turns of {role, content}";
        return Err(FieldError::new(field, Invalid, reason));
    }
    Ok(())
}

fn unread(field: &str) -> FieldError {
    if let Err(error) = check_kept(field) {
        return error;
    }
    let way_out = match similar(field, READ).first() {
        Some(read) => format!("did you mean {read}? Else add \"{field}\" to prompts.ignore"),
        None => format!("remove it, or add it to the configuration: [prompts] ignore = [\"{field}\"]"),
    };
    FieldError::new(field, Invalid, format!("not read beside a prompt: {way_out}"))
}

fn read_checked(
    path: &Path,
    check: &dyn Fn(&str) -> Result<(), FieldError>,
) -> Result<Vec<PromptRow>, InputError> {
    let mut lines = JsonLines::<Map<String, Value>>::open(path)?;
    let mut prompts = Vec::new();
    let mut seen: HashMap<PromptId, u64> = HashMap::new();
    while let Some(line) = lines.next() {
        let (number, mut rest) = line?;
        let prompt = admit(lines.reparse(number)?, number).map_err(|error| lines.invalid(number, error))?;
        rest.retain(|field, _| !READ.contains(&field.as_str()));
        // A table has every column in every row; one without a value changes nothing.
        let fields = rest.iter().filter(|(_, value)| !value.is_null()).map(|(field, _)| field);
        for field in fields {
            check(field).map_err(|error| lines.invalid(number, error))?;
        }
        if let Some(first) = seen.insert(prompt.prompt_id.clone(), number) {
            let reason = format!("{} is already used in line {first}: use distinct ids", prompt.prompt_id);
            return Err(lines.invalid(number, FieldError::new("prompt_id", Duplicate, reason)));
        }
        if prompts.len() >= PROMPTS_MAX as usize {
            let reason = format!("more than {PROMPTS_MAX} prompts: split the file");
            return Err(lines.invalid(number, FieldError::new("prompt", Count, reason)));
        }
        prompts.push(PromptRow { prompt, rest });
    }
    if prompts.is_empty() {
        return Err(lines.invalid(1, FieldError::new("prompt", Count, "the file has no prompts")));
    }
    Ok(prompts)
}

fn admit(line: Line, number: u64) -> Result<Prompt, FieldError> {
    let name = line.prompt_id.unwrap_or_else(|| format!("p{number}"));
    let prompt_id =
        PromptId::new(name).map_err(|error| FieldError::new("prompt_id", Invalid, error.to_string()))?;
    let prompt = Prompt::new(prompt_id, with_system(dialogue(line.prompt)?, line.system)?);
    if prompt.text.len() > PROMPT_BYTES_MAX {
        let reason = format!("longer than {PROMPT_BYTES_MAX} bytes: shorten it");
        return Err(FieldError::new("prompt", OutOfRange, reason));
    }
    Ok(Prompt { category: line.category, ..prompt })
}
