//! The input of `dissent detect`: a prompt a line with its completions, or flat rows with one completion
//! each.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

use dissent_domain::conflict::LogprobKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::jsonl::{
    FieldError, FieldErrorKind, InputError, JsonLines, Object, finite, finite_if_present, typed,
};
use crate::text::similar;

/// A line as it was read.
type Row = Map<String, Value>;

/// Columns of a prompt.
const PROMPT_COLUMNS: [&str; 4] = ["prompt_id", "prompt", "category", "completions"];
/// Columns of a completion that hold numbers.
const NUMBER_COLUMNS: [&str; 4] = ["reward", "logprob", "logprob_mean", "tokens"];
/// The other columns of a completion.
const OTHER_COLUMNS: [&str; 2] = ["token_ids", "text"];

/// The name of a column in the input, `OURS=THEIRS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    ours: &'static str,
    theirs: String,
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || PROMPT_COLUMNS.into_iter().chain(NUMBER_COLUMNS).chain(OTHER_COLUMNS);
        let all = || known().collect::<Vec<_>>().join(", ");
        let (ours, theirs) = text.split_once('=').ok_or_else(|| {
            format!("`{text}` lacks `=`: write COLUMN=NAME, such as reward=score, with one of {}", all())
        })?;
        let found = known().find(|column| *column == ours);
        let ours = found.ok_or_else(|| match similar(ours, known()).as_slice() {
            [] if known().any(|column| column == theirs) => {
                format!("unknown column {ours}: write it the other way round, {theirs}={ours}")
            }
            [] => format!("unknown column {ours}: use one of {}", all()),
            found => format!("unknown column {ours}: did you mean {}?", found.join(" or ")),
        })?;
        if theirs.is_empty() {
            return Err(format!("`{text}` lacks the name in the input: write {ours}=NAME"));
        }
        Ok(Self { ours, theirs: theirs.to_owned() })
    }
}

/// A prompt with its scores, and the line or lines that it came from.
pub(super) struct ScoredPrompt {
    pub(super) prompt_id: String,
    /// The fields of the prompt as they were read, completions included.
    pub(super) rest: Row,
    pub(super) rewards: Vec<f64>,
    pub(super) logprobs: Vec<f64>,
    /// Its first line.
    pub(super) line: u64,
}

/// One line with all completions of a prompt.
#[derive(Deserialize)]
struct NestedRow {
    prompt_id: Option<Id>,
    prompt: Option<Value>,
    completions: Vec<Object<ScoredCompletion>>,
}

/// The identity of the prompt of a flat row.
#[derive(Deserialize)]
struct FlatRow {
    prompt_id: Option<Id>,
    prompt: Option<Value>,
}

/// The id of a prompt, which tables may hold as a number.
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if let Value::Number(number) = &value {
            return Ok(Self(number.to_string()));
        }
        String::deserialize(value).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
struct ScoredCompletion {
    #[serde(default, deserialize_with = "finite_if_present")]
    logprob: Option<f64>,
    #[serde(default, deserialize_with = "finite_if_present")]
    logprob_mean: Option<f64>,
    tokens: Option<TokenCount>,
    token_ids: Option<TokenCount>,
    #[serde(deserialize_with = "finite")]
    reward: f64,
}

/// A number of tokens, given as a count or as a list of tokens.
#[derive(Clone, Copy)]
struct TokenCount(u64);

impl<'de> Deserialize<'de> for TokenCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = TokenCount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of tokens or a list of tokens")
            }

            fn visit_u64<E>(self, count: u64) -> Result<TokenCount, E> {
                Ok(TokenCount(count))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut tokens: A) -> Result<TokenCount, A::Error> {
                let mut count = 0;
                while tokens.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(TokenCount(count))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl ScoredCompletion {
    /// Returns the log-probability of this kind, in nats.
    ///
    /// # Errors
    /// The invalid field and the problem.
    fn logprob(&self, kind: LogprobKind) -> Result<f64, FieldError> {
        let missing = |field, reason: &str| FieldError::new(field, FieldErrorKind::Missing, reason);
        let sum = self.logprob.ok_or_else(|| missing("logprob", "missing"));
        match kind {
            LogprobKind::Sum => sum,
            LogprobKind::Mean => {
                if let Some(mean) = self.logprob_mean {
                    return Ok(mean);
                }
                match self.tokens.or(self.token_ids) {
                    Some(TokenCount(0)) => Err(FieldError::new(
                        "tokens",
                        FieldErrorKind::OutOfRange,
                        "must be at least 1 for a mean",
                    )),
                    Some(TokenCount(tokens)) => sum.map(|sum| sum / tokens as f64),
                    None => Err(missing("logprob_mean", "missing: --logprob mean needs it or `tokens`")),
                }
            }
        }
    }
}

/// Whether a row has all completions of its prompt, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Nested,
    Flat,
}

/// Reads all prompts of a file, in the order of their first lines.
///
/// # Errors
/// The first unusable line, with file, line and field.
pub(super) fn read(
    input: &Path,
    mappings: &[Mapping],
    kind: LogprobKind,
) -> Result<Vec<ScoredPrompt>, InputError> {
    let mut lines = JsonLines::<Row>::open(input)?;
    let mut reader = Reader { mappings, kind, shape: None, seen: HashMap::new(), prompts: Vec::new() };
    while let Some(read) = lines.next() {
        let (line, row) = read?;
        reader.add(line, row).map_err(|error| lines.invalid(line, error))?;
    }
    if reader.prompts.is_empty() {
        // The usual cause is a failed command before this one in a pipe.
        return Err(lines.error(1, "prompt_id", "missing: the input is empty"));
    }
    Ok(reader.prompts)
}

struct Reader<'a> {
    mappings: &'a [Mapping],
    kind: LogprobKind,
    /// The shape of the first row, with its line.
    shape: Option<(Shape, u64)>,
    /// The index of each prompt, by its id or, if it has none, by its text.
    seen: HashMap<String, usize>,
    prompts: Vec<ScoredPrompt>,
}

impl Reader<'_> {
    fn add(&mut self, line: u64, row: Row) -> Result<(), FieldError> {
        let ours = self.mapped(row.clone())?;
        let shape = if ours.contains_key("completions") || !ours.contains_key("reward") {
            Shape::Nested
        } else {
            Shape::Flat
        };
        let (first, first_line) = *self.shape.get_or_insert((shape, line));
        if shape != first && (shape == Shape::Flat || ours.contains_key("completions")) {
            let reason = format!(
                "one completion a line and a list of them in one file: line {first_line} has the other form"
            );
            return Err(FieldError::new("completions", FieldErrorKind::Format, reason));
        }
        match first {
            Shape::Nested => self.add_prompt(line, row, ours),
            Shape::Flat => self.add_completion(line, row, ours),
        }
    }

    /// Returns a row under our names. A mapped column of numbers may hold them as texts, as tables do.
    fn mapped(&self, mut row: Row) -> Result<Row, FieldError> {
        let is_nested = self.mappings.iter().any(|mapping| mapping.ours == "completions")
            || row.contains_key("completions");
        for mapping in
            self.mappings.iter().filter(|mapping| !is_nested || PROMPT_COLUMNS.contains(&mapping.ours))
        {
            rename(&mut row, mapping)?;
        }
        if let Some(Value::Array(completions)) = row.get_mut("completions") {
            for (index, completion) in completions.iter_mut().enumerate() {
                let Value::Object(completion) = completion else { continue };
                for mapping in self.mappings.iter().filter(|mapping| !PROMPT_COLUMNS.contains(&mapping.ours))
                {
                    rename(completion, mapping).map_err(|error| within(error, index))?;
                }
            }
        }
        Ok(row)
    }

    /// Names the columns of the input in an error.
    fn named(&self, mut error: FieldError) -> FieldError {
        for Mapping { ours, theirs } in self.mappings {
            let (head, last) =
                error.field.rsplit_once('.').map_or(("", error.field.as_str()), |(head, last)| (head, last));
            if last == *ours {
                error.field = if head.is_empty() { theirs.clone() } else { format!("{head}.{theirs}") };
            }
        }
        error
    }

    fn parsed<T: DeserializeOwned>(&self, row: Row) -> Result<T, FieldError> {
        typed(Value::Object(row)).map_err(|error| self.named(error))
    }

    fn add_prompt(&mut self, line: u64, mut row: Row, ours: Row) -> Result<(), FieldError> {
        let NestedRow { prompt_id, prompt, completions } = self.parsed(ours)?;
        let (mut rewards, mut logprobs) =
            (Vec::with_capacity(completions.len()), Vec::with_capacity(completions.len()));
        let prompt_id = match prompt_id {
            Some(Id(id)) => id,
            None if prompt.is_some_and(|prompt| !prompt.is_null()) => format!("p{line}"),
            None => return Err(FieldError::new("prompt_id", FieldErrorKind::Missing, "missing")),
        };
        if prompt_id.is_empty() {
            return Err(FieldError::new("prompt_id", FieldErrorKind::Empty, "must not be empty"));
        }
        if let Some(&first) = self.seen.get(&prompt_id) {
            let first = self.prompts[first].line;
            let reason = format!("{prompt_id:?} is already on line {first}: use distinct ids");
            return Err(FieldError::new("prompt_id", FieldErrorKind::Duplicate, reason));
        }
        for (index, Object(completion)) in completions.iter().enumerate() {
            logprobs.push(completion.logprob(self.kind).map_err(|error| self.named(within(error, index)))?);
            rewards.push(completion.reward);
        }
        row.shift_remove("prompt_id");
        self.seen.insert(prompt_id.clone(), self.prompts.len());
        self.prompts.push(ScoredPrompt { prompt_id, rest: row, rewards, logprobs, line });
        Ok(())
    }

    fn add_completion(&mut self, line: u64, row: Row, ours: Row) -> Result<(), FieldError> {
        let completion: ScoredCompletion = self.parsed(ours.clone())?;
        let FlatRow { prompt_id, prompt } = self.parsed(ours)?;
        let prompt = prompt.filter(|prompt| !prompt.is_null());
        let logprob = completion.logprob(self.kind).map_err(|error| self.named(error))?;
        let key = match (&prompt_id, &prompt) {
            (Some(Id(id)), _) if !id.is_empty() => format!("id {id}"),
            (_, Some(prompt)) => format!("text {prompt}"),
            (Some(_), None) => {
                return Err(FieldError::new("prompt_id", FieldErrorKind::Empty, "must not be empty"));
            }
            (None, None) => {
                let reason =
                    "missing: rows of one completion need prompt_id or prompt, by which they are grouped";
                return Err(self.named(FieldError::new("prompt_id", FieldErrorKind::Missing, reason)));
            }
        };
        let index = match self.seen.get(&key) {
            Some(&index) => index,
            None => {
                let prompt_id = prompt_id
                    .map(|Id(id)| id)
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(|| format!("p{line}"));
                self.seen.insert(key, self.prompts.len());
                let rest = self.of_prompt(&row);
                self.prompts.push(ScoredPrompt {
                    prompt_id,
                    rest,
                    rewards: Vec::new(),
                    logprobs: Vec::new(),
                    line,
                });
                self.prompts.len() - 1
            }
        };
        let shared = self.of_prompt(&row);
        let group = &mut self.prompts[index];
        let first = group.line;
        for (name, value) in &shared {
            if group.rest.get(name).is_some_and(|there| there != value) {
                let reason =
                    format!("differs from line {first}, which has the same prompt: use distinct ids");
                return Err(FieldError::new(name, FieldErrorKind::Invalid, reason));
            }
        }
        let prompt_names = self.prompt_names();
        let own: Row = row.into_iter().filter(|(name, _)| !prompt_names.contains(name)).collect();
        let group = &mut self.prompts[index];
        if let Value::Array(completions) =
            group.rest.entry("completions").or_insert_with(|| Value::Array(Vec::new()))
        {
            completions.push(Value::Object(own));
        }
        group.rewards.push(completion.reward);
        group.logprobs.push(logprob);
        Ok(())
    }

    /// Returns the names of the columns of a prompt in the input.
    fn prompt_names(&self) -> Vec<String> {
        let theirs = |ours: &str| {
            self.mappings.iter().find(|mapping| mapping.ours == ours).map(|mapping| mapping.theirs.clone())
        };
        ["prompt_id", "prompt", "category"]
            .map(|ours| theirs(ours).unwrap_or_else(|| ours.to_owned()))
            .to_vec()
    }

    /// Returns the columns of the prompt in a flat row, without its id.
    fn of_prompt(&self, row: &Row) -> Row {
        let names = self.prompt_names();
        let shared = names.iter().skip(1).filter_map(|name| Some((name.clone(), row.get(name)?.clone())));
        shared.collect()
    }
}

/// Gives a column of the input our name.
fn rename(row: &mut Row, Mapping { ours, theirs }: &Mapping) -> Result<(), FieldError> {
    let Some(mut value) = row.shift_remove(theirs) else {
        let reason = format!("missing: --map names it for {ours}");
        return Err(FieldError::new(theirs, FieldErrorKind::Missing, reason));
    };
    if let (true, Value::String(text)) = (NUMBER_COLUMNS.contains(ours), &value)
        && let Some(number) = number(text.trim())
    {
        value = Value::Number(number);
    }
    row.insert((*ours).to_owned(), value);
    Ok(())
}

fn number(text: &str) -> Option<serde_json::Number> {
    let whole = text.parse::<u64>().ok().map(serde_json::Number::from);
    whole.or_else(|| text.parse().ok().and_then(serde_json::Number::from_f64))
}

fn within(mut error: FieldError, index: usize) -> FieldError {
    error.field = format!("completions[{index}].{}", error.field);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_names_one_of_our_columns_first() {
        let mapping: Mapping = "reward=score".parse().unwrap();
        assert_eq!((mapping.ours, mapping.theirs.as_str()), ("reward", "score"));
        assert!("score=reward".parse::<Mapping>().unwrap_err().contains("reward=score"));
        assert!("rewards=x".parse::<Mapping>().unwrap_err().contains("did you mean reward"));
        assert!("reward".parse::<Mapping>().unwrap_err().contains("reward=score"));
        assert!("reward=".parse::<Mapping>().unwrap_err().contains("reward=NAME"));
    }
}
