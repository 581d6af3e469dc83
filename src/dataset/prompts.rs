//! Reading prompts: rows of `{"prompt_id"?, "prompt", "category"?}`. A prompt is a text or a list of turns.

use std::collections::HashMap;
use std::path::Path;

use dissent_domain::id::PromptId;
use dissent_domain::prompt::Prompt;
use dissent_domain::round::PROMPTS_MAX;
use serde::Deserialize;

use super::text_or_turns::{TextOrTurns, dialogue};
use crate::jsonl::FieldErrorKind::{Count, Duplicate, Invalid, OutOfRange};
use crate::jsonl::{FieldError, InputError, JsonLines};

/// Longest prompt, in bytes; far beyond any model's context.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// One line. Other fields are ignored, because prompt files often have more.
#[derive(Debug, Deserialize)]
struct Line {
    prompt_id: Option<String>,
    prompt: TextOrTurns,
    category: Option<String>,
}

/// Reads all prompts of a file, or of standard input for `-`. The default id of a prompt is `p` and its line
/// number.
///
/// # Errors
/// The first unusable line, with file, line and field.
pub fn read(path: &Path) -> Result<Vec<Prompt>, InputError> {
    let mut lines = JsonLines::<Line>::open(path)?;
    let mut prompts = Vec::new();
    let mut seen: HashMap<PromptId, u64> = HashMap::new();
    while let Some(line) = lines.next() {
        let (number, line) = line?;
        let prompt = admit(line, number).map_err(|error| lines.invalid(number, error))?;
        if let Some(first) = seen.insert(prompt.prompt_id.clone(), number) {
            let reason = format!("{} is already used in line {first}: use distinct ids", prompt.prompt_id);
            return Err(lines.invalid(number, FieldError::new("prompt_id", Duplicate, reason)));
        }
        if prompts.len() >= PROMPTS_MAX as usize {
            let reason = format!("more than {PROMPTS_MAX} prompts: split the file");
            return Err(lines.invalid(number, FieldError::new("prompt", Count, reason)));
        }
        prompts.push(prompt);
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
    let prompt = Prompt::new(prompt_id, dialogue(line.prompt)?);
    if prompt.text.len() > PROMPT_BYTES_MAX {
        let reason = format!("longer than {PROMPT_BYTES_MAX} bytes: shorten it");
        return Err(FieldError::new("prompt", OutOfRange, reason));
    }
    Ok(Prompt { category: line.category, ..prompt })
}
