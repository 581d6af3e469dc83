//! Encodes rows of data sets as the token sequences of TRL's trainers.
//!
//! Prompt and completion are rendered and encoded as one text. The completion begins where the tokens of the
//! prompt alone and of the whole text first differ (TRL's `common_prefix_length`). This is not always the end
//! of the prompt, because tokens may merge across the boundary. Chat templates get no further tokens. Other
//! texts do not mark the end of a completion, so the end-of-sequence token is appended unless it is already
//! there.

use dissent_domain::training::{Demonstration, Dialogue, Preference};

use super::PromptTemplate;
use crate::checkpoint::TextTokenizer;
use crate::error::{InvalidKind, ModelError};
use crate::training::data::TokenPair;
use crate::training::packing::TrainingSequence;

impl PromptTemplate {
    /// Returns a demonstration after its prompt (TRL's `SFTTrainer` on `prompt`, `completion`).
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`], and [`ModelError::Invalid`] if the prompt or the completion has
    /// no token.
    pub fn encode_demonstration(
        &self,
        tokenizer: &TextTokenizer,
        demonstration: &Demonstration,
    ) -> Result<TrainingSequence, ModelError> {
        let Demonstration { prompt, completion } = demonstration;
        let asked = self.encode_dialogue(tokenizer, prompt)?;
        let ids = self.encode_with_end(tokenizer, prompt, completion)?;
        sequence(shared(&asked, &ids), ids)
    }

    /// Returns the chosen and the rejected completion, each after the prompt, for comparing log-probabilities
    /// (TRL's `DPOTrainer`). Both completions begin at the same place.
    ///
    /// # Errors
    /// As [`PromptTemplate::encode_demonstration`].
    pub fn encode_preference(
        &self,
        tokenizer: &TextTokenizer,
        preference: &Preference,
    ) -> Result<TokenPair, ModelError> {
        let Preference { prompt, chosen, rejected, margin, is_unsafe } = preference;
        let asked = self.encode_dialogue(tokenizer, prompt)?;
        let chosen = self.encode_with_end(tokenizer, prompt, chosen)?;
        let rejected = self.encode_with_end(tokenizer, prompt, rejected)?;
        let start = shared(&asked, &chosen).min(shared(&asked, &rejected));
        let (chosen, rejected) = (sequence(start, chosen)?, sequence(start, rejected)?);
        Ok(TokenPair { chosen, rejected, margin: *margin, is_unsafe: *is_unsafe })
    }

    /// Returns the chosen and the rejected completion as a reward model scores them: exactly as
    /// [`PromptTemplate::encode_dialogue_with_completion`], so training and scoring see the same tokens. No
    /// token is appended; see [`PromptTemplate::with_end_of_sequence`].
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`], and [`ModelError::Invalid`] if no token is left.
    pub fn encode_comparison(
        &self,
        tokenizer: &TextTokenizer,
        preference: &Preference,
    ) -> Result<TokenPair, ModelError> {
        let Preference { prompt, chosen, rejected, margin, is_unsafe } = preference;
        let whole = |completion: &str| {
            let ids = self.encode_dialogue_with_completion(tokenizer, prompt, completion)?;
            if ids.is_empty() {
                return Err(ModelError::invalid(InvalidKind::Empty, "prompt and completion have no token"));
            }
            Ok(TrainingSequence { ids, completion_start: 0, skipped: Vec::new() })
        };
        let (chosen, rejected) = (whole(chosen)?, whole(rejected)?);
        Ok(TokenPair { chosen, rejected, margin: *margin, is_unsafe: *is_unsafe })
    }

    /// Returns the template with the end-of-sequence token written out after the completion, if it does not
    /// mark the end itself. TRL's `RewardTrainer` appends this token to plain texts. A reward model must be
    /// used with the template that it was trained with.
    #[must_use]
    pub fn with_end_of_sequence(&self, tokenizer: &TextTokenizer) -> Self {
        let Some(end) = tokenizer.eos_token() else { return self.clone() };
        match self {
            Self::Chat | Self::ChatOn(_) => self.clone(),
            Self::Raw => Self::Text(format!("{{prompt}}{{completion}}{end}")),
            Self::Text(text) if text.ends_with(end) => self.clone(),
            Self::Text(text) if self.names_completion() => Self::Text(format!("{text}{end}")),
            Self::Text(text) => Self::Text(format!("{text}{{completion}}{end}")),
        }
    }

    /// Encodes prompt and completion, with the end-of-sequence token if the template does not mark the end.
    fn encode_with_end(
        &self,
        tokenizer: &TextTokenizer,
        prompt: &Dialogue,
        completion: &str,
    ) -> Result<Vec<u32>, ModelError> {
        let whole = self.render_dialogue_with_completion(tokenizer, prompt, completion)?;
        match self {
            Self::Chat | Self::ChatOn(_) => tokenizer.encode(&whole, false),
            Self::Raw | Self::Text(_) => tokenizer.encode(&with_end(whole, tokenizer), true),
        }
    }
}

/// Returns a text to imitate from its second token on (TRL's `SFTTrainer` on `text`), for any template.
///
/// # Errors
/// [`ModelError::Invalid`] if the tokenizer fails or returns fewer than two tokens.
pub fn encode_text(tokenizer: &TextTokenizer, text: &str) -> Result<TrainingSequence, ModelError> {
    sequence(1, tokenizer.encode(&with_end(text.to_owned(), tokenizer), true)?)
}

fn with_end(mut text: String, tokenizer: &TextTokenizer) -> String {
    if let Some(end) = tokenizer.eos_token().filter(|end| !text.ends_with(end)) {
        text.push_str(end);
    }
    text
}

/// Returns the length of the common prefix, in tokens.
pub(super) fn shared(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

pub(super) fn sequence(completion_start: usize, ids: Vec<u32>) -> Result<TrainingSequence, ModelError> {
    let missing = if completion_start == 0 {
        "no prompt token precedes the completion: the prompt is empty, or its tokens merge with the completion's"
    } else if completion_start >= ids.len() {
        "the completion has no token"
    } else {
        return Ok(TrainingSequence { ids, completion_start, skipped: Vec::new() });
    };
    Err(ModelError::invalid(InvalidKind::Empty, missing.to_owned()))
}

#[cfg(test)]
mod tests {
    use dissent_domain::training::Message;
    use serde_json::Value;

    use super::*;
    use crate::checkpoint::tokenizer::tests::from_parts;

    fn dialogue(value: &Value) -> Dialogue {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        match value.as_array() {
            None => Dialogue::Text(text(value)),
            Some(turns) => Dialogue::Messages(
                turns
                    .iter()
                    .map(|turn| Message {
                        role: serde_json::from_value(turn["role"].clone()).expect("a role"),
                        content: text(&turn["content"]),
                    })
                    .collect(),
            ),
        }
    }

    fn completion(value: &Value) -> String {
        value.as_str().or_else(|| value[0]["content"].as_str()).expect("a completion").to_owned()
    }

    fn ids(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).expect("token ids")
    }

    fn preference(row: &Value) -> Preference {
        Preference {
            prompt: dialogue(&row["prompt"]),
            chosen: completion(&row["chosen"]),
            rejected: completion(&row["rejected"]),
            margin: 0.0,
            is_unsafe: None,
        }
    }

    /// Compares with the sequences of TRL 1.16's trainers for the same rows and tokenizers: see `trl_rows.py`
    /// beside the golden file.
    #[test]
    fn rows_encode_to_the_tokens_of_trl() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/golden/trl_rows.json")).expect("golden");
        let mut compared = 0;
        for case in golden["cases"].as_array().expect("cases") {
            let tokenizer = from_parts(
                case["tokenizer"].as_str().expect("a tokenizer"),
                case["chat_template"].as_str(),
                case["bos"].as_str(),
                case["eos"].as_str(),
            );
            for (expected, kind) in [("preference", true), ("completion", false), ("text", false)]
                .iter()
                .flat_map(|(kind, pairs)| case[kind].as_array().map(|rows| (rows, (kind, pairs))))
                .flat_map(|(rows, kind)| rows.iter().map(move |row| (row, kind)))
            {
                let conversational = expected["row"]["prompt"].is_array();
                let template = if conversational { PromptTemplate::Chat } else { PromptTemplate::Raw };
                compared += 1;
                match *kind.0 {
                    "text" => {
                        let text = expected["row"]["text"].as_str().expect("a text");
                        let sequence = encode_text(&tokenizer, text).expect("a sequence");
                        assert_eq!(sequence.ids, ids(&expected["input_ids"]));
                    }
                    "completion" => {
                        let row = Demonstration {
                            prompt: dialogue(&expected["row"]["prompt"]),
                            completion: completion(&expected["row"]["completion"]),
                        };
                        let sequence = template.encode_demonstration(&tokenizer, &row).expect("a sequence");
                        assert_eq!(sequence.ids, ids(&expected["input_ids"]));
                        assert_eq!(Some(sequence.completion_start as u64), expected["start"].as_u64());
                    }
                    _ => {
                        let row = preference(&expected["row"]);
                        let TokenPair { chosen, rejected, .. } =
                            template.encode_preference(&tokenizer, &row).expect("sequences");
                        let prompt = ids(&expected["dpo"]["prompt_ids"]);
                        for (sequence, rest) in [(chosen, "chosen_ids"), (rejected, "rejected_ids")] {
                            assert_eq!(sequence.completion_start, prompt.len());
                            assert_eq!(sequence.ids, [prompt.clone(), ids(&expected["dpo"][rest])].concat());
                        }
                        if expected["row"]["chosen"].as_str().is_some_and(|text| text.ends_with("<end>")) {
                            // TRL leaves such a row unchanged; a template cannot know that it already ends
                            // so.
                            continue;
                        }
                        let ended = template.with_end_of_sequence(&tokenizer);
                        let TokenPair { chosen, rejected, .. } =
                            ended.encode_comparison(&tokenizer, &row).expect("sequences");
                        assert_eq!(chosen.ids, ids(&expected["reward"]["chosen_ids"]));
                        assert_eq!(rejected.ids, ids(&expected["reward"]["rejected_ids"]));
                    }
                }
            }
        }
        assert!(compared >= 16, "{compared} rows");
    }

    #[test]
    fn reward_models_train_and_score_on_the_same_tokens() {
        let tokenizer =
            from_parts(crate::checkpoint::tokenizer::tests::WORDS, None, Some("<s>"), Some("</s>"));
        let template: PromptTemplate = "a {prompt} b {completion}".parse().expect("a template");
        let row = preference(&serde_json::json!({"prompt": "?", "chosen": "a a", "rejected": "b"}));
        let TokenPair { chosen, .. } = template.encode_comparison(&tokenizer, &row).expect("sequences");
        assert_eq!(chosen.ids, template.encode_with_completion(&tokenizer, "?", "a a").expect("ids"));
        assert_eq!(template.with_end_of_sequence(&tokenizer).to_string(), "a {prompt} b {completion}</s>");
        assert_eq!(
            template.with_end_of_sequence(&tokenizer).with_end_of_sequence(&tokenizer),
            template.with_end_of_sequence(&tokenizer)
        );
        assert_eq!(
            PromptTemplate::Raw.with_end_of_sequence(&tokenizer).to_string(),
            "{prompt}{completion}</s>"
        );
    }

    #[test]
    fn rows_without_completion_tokens_are_errors() {
        let tokenizer = from_parts(crate::checkpoint::tokenizer::tests::WORDS, None, None, None);
        let row = |prompt: &str, completion: &str| Demonstration {
            prompt: Dialogue::Text(prompt.to_owned()),
            completion: completion.to_owned(),
        };
        let encode = |row| PromptTemplate::Raw.encode_demonstration(&tokenizer, &row);
        assert!(encode(row("a ", "b")).is_ok());
        for row in [row("a", ""), row(" ", "b")] {
            assert_eq!(encode(row).unwrap_err().invalid_kind(), Some(InvalidKind::Empty));
        }
        assert!(encode_text(&tokenizer, "a").is_err());
    }
}
