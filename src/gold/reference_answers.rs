//! A gold reward by similarity to reference answers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dissent_domain::id::PromptId;
use dissent_domain::prompt::Prompt;
use serde::Deserialize;

use crate::jsonl::{InputError, JsonLines};

/// One line of the file. Several lines of a prompt are alternative answers.
#[derive(Debug, Deserialize)]
struct Line {
    prompt_id: String,
    answer: String,
}

/// The reference answers of a file, by prompt.
///
/// Texts are compared as in SQuAD: in lower case, without punctuation and without the words *a*, *an* and
/// *the*. A completion that contains a reference word for word scores 1. Any other completion scores its best
/// token F1 with a reference, in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceAnswers {
    name: String,
    fingerprint: String,
    /// The normalised words of each reference, by prompt.
    answers: HashMap<PromptId, Vec<Vec<String>>>,
}

/// Prompts that the reference answers do not suit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsuitableAnswers {
    /// A prompt has no answer.
    #[error("{file} has no answer for the prompt {prompt}: add a line")]
    Missing {
        /// The name of the file of answers.
        file: String,
        /// The prompt.
        prompt: PromptId,
    },
    /// Two different prompts have the same id.
    #[error(
        "prompt_id {0} belongs to two different prompts in prompts.path and evaluation.prompts: rename one"
    )]
    AmbiguousId(PromptId),
}

impl ReferenceAnswers {
    /// Reads a file of JSON Lines `{"prompt_id", "answer"}`.
    ///
    /// # Errors
    /// If a line is invalid: file, line and field.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let mut lines = JsonLines::<Line>::open(path)?;
        let mut answers: HashMap<PromptId, Vec<Vec<String>>> = HashMap::new();
        let mut hasher = blake3::Hasher::new();
        while let Some(line) = lines.next() {
            let (number, Line { prompt_id, answer }) = line?;
            let prompt_id = PromptId::new(prompt_id)
                .map_err(|error| lines.error(number, "prompt_id", error.to_string()))?;
            let words = normalised_words(&answer);
            if words.is_empty() {
                return Err(lines.error(number, "answer", "has no word: add one that is not a, an or the"));
            }
            for text in [prompt_id.as_str(), &answer] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            answers.entry(prompt_id).or_default().push(words);
        }
        if answers.is_empty() {
            return Err(lines.error(
                1,
                "answer",
                "the file is empty: add a line {\"prompt_id\", \"answer\"}",
            ));
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, fingerprint: hasher.finalize().to_hex().to_string(), answers })
    }

    /// Returns the name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the BLAKE3 hash (hex) of all prompt ids and answers, in the order of the file.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Checks that every prompt has an answer and that every id belongs to one prompt.
    ///
    /// # Errors
    /// If a prompt has no answer, or shares its id with a different prompt.
    pub fn check(&self, prompts: &[Prompt], held_out: &[Prompt]) -> Result<(), UnsuitableAnswers> {
        let mut texts: BTreeMap<&PromptId, &str> = BTreeMap::new();
        for prompt in prompts.iter().chain(held_out) {
            if !self.answers.contains_key(&prompt.prompt_id) {
                let (file, prompt) = (self.name.clone(), prompt.prompt_id.clone());
                return Err(UnsuitableAnswers::Missing { file, prompt });
            }
            let other = texts.insert(&prompt.prompt_id, &prompt.text);
            if other.is_some_and(|other| other != prompt.text) {
                return Err(UnsuitableAnswers::AmbiguousId(prompt.prompt_id.clone()));
            }
        }
        Ok(())
    }

    /// Returns the likeness of a completion to the references of a prompt, in [0, 1]; `None` without a
    /// reference.
    #[must_use]
    pub fn score(&self, prompt: &PromptId, completion: &str) -> Option<f64> {
        let words = normalised_words(completion);
        let scores = self.answers.get(prompt)?.iter().map(|reference| likeness(reference, &words));
        scores.reduce(f64::max)
    }
}

/// Returns the words of a text, normalised as in SQuAD.
fn normalised_words(text: &str) -> Vec<String> {
    let bare: String =
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || c.is_whitespace()).collect();
    bare.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

fn likeness(reference: &[String], words: &[String]) -> f64 {
    if words.windows(reference.len()).any(|run| run == reference) {
        return 1.0;
    }
    let mut unmatched: HashMap<&str, u32> = HashMap::new();
    for word in reference {
        *unmatched.entry(word).or_default() += 1;
    }
    let mut shared = 0_u32;
    for word in words {
        if let Some(count) = unmatched.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    // F1 = 2·shared / (|reference| + |words|); the reference is never empty.
    2.0 * f64::from(shared) / (reference.len() + words.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(lines: &str) -> Result<ReferenceAnswers, InputError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::fs::write(&path, lines).unwrap();
        ReferenceAnswers::open(&path)
    }

    fn prompt(id: &str, text: &str) -> Prompt {
        Prompt {
            prompt_id: PromptId::new(id).unwrap(),
            text: text.to_owned(),
            category: None,
            messages: Vec::new(),
        }
    }

    #[test]
    fn a_completion_scores_1_if_it_contains_the_reference_and_else_its_token_f1() {
        let gold = answers("{\"prompt_id\": \"p\", \"answer\": \"The Eiffel Tower\"}\n").unwrap();
        let id = PromptId::new("p").unwrap();
        let score = |text| gold.score(&id, text).unwrap();
        assert_eq!(score("It is the EIFFEL tower, of course.").to_bits(), 1.0_f64.to_bits());
        // Shared: tower; 2·1 / (2 + 3).
        assert!((score("a tall tower there") - 0.4).abs() < 1e-12);
        // Both words, but not adjacent: 2·2 / (2 + 4).
        assert!((score("tower that Eiffel built") - 4.0 / 6.0).abs() < 1e-12);
        // A word counts as often as the reference has it.
        assert!((score("tower tower") - 0.5).abs() < 1e-12);
        assert_eq!(score("").to_bits(), 0.0_f64.to_bits());
        assert_eq!(gold.score(&PromptId::new("other").unwrap(), "x"), None);
    }

    #[test]
    fn the_best_of_several_references_counts() {
        let gold = answers(
            "{\"prompt_id\": \"p\", \"answer\": \"four\"}\n{\"prompt_id\": \"p\", \"answer\": \"4\"}\n",
        );
        assert_eq!(gold.unwrap().score(&PromptId::new("p").unwrap(), "2 + 2 = 4."), Some(1.0));
    }

    #[test]
    fn check_refuses_a_prompt_without_an_answer_and_an_ambiguous_id() {
        let gold = answers("{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n").unwrap();
        assert_eq!(gold.check(&[prompt("p1", "?")], &[]), Ok(()));
        let missing = gold.check(&[prompt("p1", "?")], &[prompt("p2", "?")]).unwrap_err();
        assert_eq!(missing.to_string(), "answers.jsonl has no answer for the prompt p2: add a line");
        let ambiguous = gold.check(&[prompt("p1", "?")], &[prompt("p1", "!")]).unwrap_err();
        assert_eq!(ambiguous, UnsuitableAnswers::AmbiguousId(PromptId::new("p1").unwrap()));
    }

    #[test]
    fn an_error_names_the_invalid_line() {
        let error = answers("{\"prompt_id\": \"p\", \"answer\": \"the.\"}\n").unwrap_err().to_string();
        assert!(error.contains("answers.jsonl:1: answer: has no word"), "{error}");
        assert!(answers("").unwrap_err().to_string().contains("the file is empty"));
    }
}
