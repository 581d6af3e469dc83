//! Reference answers, and how near an answer comes to them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use dissent_domain::id::PromptId;
use dissent_domain::prompt::Prompt;
use serde::Deserialize;

use crate::jsonl::{InputError, JsonLines};

/// One line. Several lines of one prompt are several answers, each as good as the others.
#[derive(Debug, Deserialize)]
struct Line {
    prompt_id: String,
    answer: String,
}

/// The reference answers of a file, by prompt.
///
/// Answers are compared as SQuAD compares them: in lower case, without punctuation and without the words *a*,
/// *an* and *the*. An answer in which a reference stands word for word gets 1; any other the token F1 of the
/// reference that it comes nearest to, which lies in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceAnswers {
    name: String,
    fingerprint: String,
    /// The words of each reference.
    answers: HashMap<PromptId, Vec<Vec<String>>>,
}

impl ReferenceAnswers {
    /// Reads a file of JSON lines `{"prompt_id", "answer"}`.
    ///
    /// # Errors
    /// The first bad line: file, line and field.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let mut lines = JsonLines::<Line>::open(path)?;
        let mut answers: HashMap<PromptId, Vec<Vec<String>>> = HashMap::new();
        let mut hasher = blake3::Hasher::new();
        while let Some(line) = lines.next() {
            let (number, Line { prompt_id, answer }) = line?;
            let prompt_id = PromptId::new(prompt_id)
                .map_err(|error| lines.error(number, "prompt_id", error.to_string()))?;
            let words = words(&answer);
            if words.is_empty() {
                return Err(lines.error(number, "answer", "must have a word to compare with"));
            }
            for text in [prompt_id.as_str(), &answer] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            answers.entry(prompt_id).or_default().push(words);
        }
        if answers.is_empty() {
            return Err(lines.error(1, "answer", "there is no answer in the file"));
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, fingerprint: hasher.finalize().to_hex().to_string(), answers })
    }

    /// For people: the name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// BLAKE3 (hex) of all prompts and answers, in the order of the file.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether every prompt has an answer, and every id means one prompt.
    ///
    /// # Errors
    /// The first prompt that has none, or that shares its id with another one.
    pub fn check(&self, prompts: &[Prompt], held_out: &[Prompt]) -> Result<(), String> {
        let mut texts: BTreeMap<&PromptId, &str> = BTreeMap::new();
        for prompt in prompts.iter().chain(held_out) {
            if !self.answers.contains_key(&prompt.prompt_id) {
                return Err(format!("{} has no answer for the prompt {}", self.name, prompt.prompt_id));
            }
            let other = texts.insert(&prompt.prompt_id, &prompt.text);
            if other.is_some_and(|other| other != prompt.text) {
                return Err(format!(
                    "{} is the prompt_id of two prompts, of prompts.path and of evaluation.prompts: its answer cannot \
                     be told",
                    prompt.prompt_id
                ));
            }
        }
        Ok(())
    }

    /// How near an answer comes to the references of a prompt, in [0, 1]; none for a prompt without any.
    #[must_use]
    pub fn score(&self, prompt: &PromptId, answer: &str) -> Option<f64> {
        let given = words(answer);
        let scores = self.answers.get(prompt)?.iter().map(|reference| likeness(reference, &given));
        scores.reduce(f64::max)
    }
}

/// The words of a text as SQuAD compares them.
fn words(text: &str) -> Vec<String> {
    let bare: String =
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || c.is_whitespace()).collect();
    bare.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

fn likeness(reference: &[String], given: &[String]) -> f64 {
    if given.windows(reference.len()).any(|run| run == reference) {
        return 1.0;
    }
    let mut left: HashMap<&str, u32> = HashMap::new();
    for word in reference {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0_u32;
    for word in given {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    // F1 = 2·shared / (|reference| + |given|); the reference has words.
    2.0 * f64::from(shared) / (reference.len() + given.len()) as f64
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
        Prompt { prompt_id: PromptId::new(id).unwrap(), text: text.to_owned(), category: None }
    }

    #[test]
    fn an_answer_that_says_the_reference_is_right_however_it_is_wrapped() {
        let gold = answers("{\"prompt_id\": \"p\", \"answer\": \"The Eiffel Tower\"}\n").unwrap();
        let id = PromptId::new("p").unwrap();
        let score = |text| gold.score(&id, text).unwrap();
        assert_eq!(score("It is the EIFFEL tower, of course.").to_bits(), 1.0_f64.to_bits());
        // Shared: tower; 2·1 / (2 + 3).
        assert!((score("a tall tower there") - 0.4).abs() < 1e-12);
        // Both words, but not in a row: 2·2 / (2 + 4).
        assert!((score("tower that Eiffel built") - 4.0 / 6.0).abs() < 1e-12);
        // A word counts as often as the reference has it.
        assert!((score("tower tower") - 0.5).abs() < 1e-12);
        assert_eq!(score("").to_bits(), 0.0_f64.to_bits());
        assert_eq!(gold.score(&PromptId::new("other").unwrap(), "x"), None);
    }

    #[test]
    fn the_nearest_of_several_references_counts() {
        let gold = answers(
            "{\"prompt_id\": \"p\", \"answer\": \"four\"}\n{\"prompt_id\": \"p\", \"answer\": \"4\"}\n",
        );
        assert_eq!(gold.unwrap().score(&PromptId::new("p").unwrap(), "2 + 2 = 4."), Some(1.0));
    }

    #[test]
    fn a_prompt_without_an_answer_and_an_ambiguous_id_are_refused() {
        let gold = answers("{\"prompt_id\": \"p1\", \"answer\": \"x\"}\n").unwrap();
        assert_eq!(gold.check(&[prompt("p1", "?")], &[]), Ok(()));
        assert!(gold.check(&[prompt("p1", "?")], &[prompt("p2", "?")]).unwrap_err().contains("prompt p2"));
        assert!(gold.check(&[prompt("p1", "?")], &[prompt("p1", "!")]).unwrap_err().contains("two prompts"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = answers("{\"prompt_id\": \"p\", \"answer\": \"the.\"}\n").unwrap_err().to_string();
        assert!(error.ends_with("answers.jsonl:1: answer: must have a word to compare with"), "{error}");
        assert!(answers("").unwrap_err().to_string().contains("no answer in the file"));
    }
}
