//! Templates: the text that a model sees for a prompt, or for a prompt and its completion.

mod chat;
mod conversation;
mod rows;
mod transcript;
mod turns;

use std::fmt;
use std::str::FromStr;

use dissent_domain::training::{Dialogue, Message, Role};

#[cfg(test)]
pub(crate) use chat::normalised;
pub use chat::{ChatInput, render_chat};
pub use conversation::LearntTurns;
pub use rows::encode_text;
pub use turns::Conversation;

use crate::checkpoint::TextTokenizer;
use crate::error::{InvalidKind, ModelError};
pub use crate::jinja::TemplateDate;

const PROMPT: &str = "{prompt}";
const COMPLETION: &str = "{completion}";
/// What precedes the date of a chat template.
const CHAT_ON: &str = "chat@";

/// The text around a prompt.
///
/// # Examples
/// ```
/// use dissent_models::InvalidKind;
/// use dissent_models::template::PromptTemplate;
///
/// let template: PromptTemplate = "Question: {prompt}\\nAnswer: {completion}".parse()?;
/// assert!(template.names_completion());
/// assert_eq!(template, PromptTemplate::Text("Question: {prompt}\nAnswer: {completion}".to_owned()));
/// assert_eq!("chat".parse::<PromptTemplate>()?, PromptTemplate::Chat);
/// assert!(matches!("chat@2026-01-31".parse()?, PromptTemplate::ChatOn(_)));
///
/// let error = "Answer: {completion}".parse::<PromptTemplate>().expect_err("no {prompt}");
/// assert_eq!(error.invalid_kind(), Some(InvalidKind::Template));
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptTemplate {
    /// The model's own chat template, with the prompt as the user's only message. The current date is the
    /// default of [`TemplateDate`].
    Chat,
    /// As [`PromptTemplate::Chat`], with this date as the current one.
    ChatOn(TemplateDate),
    /// The prompt unchanged, directly followed by the completion.
    Raw,
    /// A text with `{prompt}` and, optionally after it, `{completion}`. Without the latter the completion
    /// comes last.
    Text(String),
}

/// As it is configured: `chat`, `chat@DATE`, `raw`, or the text.
impl fmt::Display for PromptTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat => f.write_str("chat"),
            Self::ChatOn(date) => write!(f, "{CHAT_ON}{date}"),
            Self::Raw => f.write_str("raw"),
            Self::Text(text) => {
                f.write_str(&text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t"))
            }
        }
    }
}

/// `chat`, `chat@DATE`, `raw`, or a text with `{prompt}`. In the text, `
/// `, `\t` and `\\` stand for a newline, a tab and a backslash, because a shell passes them on unchanged.
/// Real newlines are allowed too.
impl FromStr for PromptTemplate {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text {
            "chat" => return Ok(Self::Chat),
            "raw" => return Ok(Self::Raw),
            _ => {}
        }
        if let Some(date) = text.strip_prefix(CHAT_ON).filter(|rest| !rest.contains(PROMPT)) {
            return date.parse().map(Self::ChatOn);
        }
        let text = unescape(text);
        let refuse = |reason: &str| {
            Err(ModelError::invalid(
                InvalidKind::Template,
                format!(
                    "template {text:?} {reason}: use chat, raw, or a text such as 'Question: {PROMPT}\\n\\nAnswer: {COMPLETION}'"
                ),
            ))
        };
        let (head, tail) = text.split_once(COMPLETION).unwrap_or((&text, ""));
        if !head.contains(PROMPT) {
            return refuse(if tail.contains(PROMPT) {
                "names {completion} before {prompt}"
            } else {
                "does not name {prompt}"
            });
        }
        if tail.contains(COMPLETION) || tail.contains(PROMPT) {
            return refuse("names {prompt} or {completion} again after {completion}");
        }
        Ok(Self::Text(text))
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('\\') => plain.push('\\'),
            // Not a known escape: both characters are literal.
            other => plain.extend(std::iter::once('\\').chain(other)),
        }
    }
    plain
}

impl PromptTemplate {
    /// Whether the template marks the place of the completion. A text without `{completion}` may leave it out
    /// by mistake.
    #[must_use]
    pub fn names_completion(&self) -> bool {
        !matches!(self, Self::Text(text) if !text.contains(COMPLETION))
    }

    /// Returns the text that a policy completes. Of a text template, the part before `{completion}`; of a
    /// chat, everything up to and including the beginning of the assistant's turn.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the model has no chat template but one is needed, or if it fails.
    pub fn render_prompt(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<String, ModelError> {
        match self {
            Self::Chat | Self::ChatOn(_) => self.render_turns(tokenizer, &[user(prompt)], true),
            Self::Raw => Ok(prompt.to_owned()),
            Self::Text(text) => Ok(fill(head_and_tail(text).0, prompt)),
        }
    }

    /// Returns the text of a prompt and its completion, as a reward model sees it. A chat ends with the end
    /// of the assistant's turn as the template writes it.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn render_with_completion(
        &self,
        tokenizer: &TextTokenizer,
        prompt: &str,
        completion: &str,
    ) -> Result<String, ModelError> {
        match self {
            Self::Chat | Self::ChatOn(_) => {
                self.render_turns(tokenizer, &[user(prompt), assistant(completion)], false)
            }
            Self::Raw => Ok(format!("{prompt}{completion}")),
            Self::Text(text) => {
                let (head, tail) = head_and_tail(text);
                Ok(format!("{}{completion}{tail}", fill(head, prompt)))
            }
        }
    }

    /// As [`PromptTemplate::render_prompt`], for a dialogue. `raw` writes turns as an HH-RLHF transcript up
    /// to `
    ///
    /// Assistant:`. A text template is filled with the user's only turn, or else with the transcript so far.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn render_dialogue(
        &self,
        tokenizer: &TextTokenizer,
        dialogue: &Dialogue,
    ) -> Result<String, ModelError> {
        match (self, dialogue) {
            (_, Dialogue::Text(prompt)) => self.render_prompt(tokenizer, prompt),
            (Self::Chat | Self::ChatOn(_), Dialogue::Messages(turns)) => {
                self.render_turns(tokenizer, turns, true)
            }
            (Self::Raw, Dialogue::Messages(turns)) => Ok(transcript::with_generation_prompt(turns)),
            (Self::Text(_), Dialogue::Messages(turns)) => {
                self.render_prompt(tokenizer, &transcript::for_template(turns))
            }
        }
    }

    /// As [`PromptTemplate::render_with_completion`], for a dialogue.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn render_dialogue_with_completion(
        &self,
        tokenizer: &TextTokenizer,
        dialogue: &Dialogue,
        completion: &str,
    ) -> Result<String, ModelError> {
        match (self, dialogue) {
            (_, Dialogue::Text(prompt)) => self.render_with_completion(tokenizer, prompt, completion),
            (Self::Chat | Self::ChatOn(_), Dialogue::Messages(turns)) => {
                let turns = [turns.as_slice(), &[assistant(completion)]].concat();
                self.render_turns(tokenizer, &turns, false)
            }
            (Self::Raw, Dialogue::Messages(turns)) => {
                Ok(format!("{} {completion}", transcript::with_generation_prompt(turns)))
            }
            (Self::Text(_), Dialogue::Messages(turns)) => {
                self.render_with_completion(tokenizer, &transcript::for_template(turns), completion)
            }
        }
    }

    /// Token ids of the rendered prompt. A chat template writes its own special tokens. Other texts get the
    /// tokens that the tokenizer adds by itself, as with transformers' `tokenizer(text)`.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_prompt(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<Vec<u32>, ModelError> {
        tokenizer.encode(&self.render_prompt(tokenizer, prompt)?, self.adds_special())
    }

    /// Token ids of the rendered prompt and completion, encoded as one text.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_with_completion(
        &self,
        tokenizer: &TextTokenizer,
        prompt: &str,
        completion: &str,
    ) -> Result<Vec<u32>, ModelError> {
        tokenizer.encode(&self.render_with_completion(tokenizer, prompt, completion)?, self.adds_special())
    }

    /// As [`PromptTemplate::encode_prompt`], for a dialogue.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_dialogue(
        &self,
        tokenizer: &TextTokenizer,
        dialogue: &Dialogue,
    ) -> Result<Vec<u32>, ModelError> {
        tokenizer.encode(&self.render_dialogue(tokenizer, dialogue)?, self.adds_special())
    }

    /// As [`PromptTemplate::encode_with_completion`], for a dialogue.
    ///
    /// # Errors
    /// As [`PromptTemplate::render_prompt`].
    pub fn encode_dialogue_with_completion(
        &self,
        tokenizer: &TextTokenizer,
        dialogue: &Dialogue,
        completion: &str,
    ) -> Result<Vec<u32>, ModelError> {
        tokenizer.encode(
            &self.render_dialogue_with_completion(tokenizer, dialogue, completion)?,
            self.adds_special(),
        )
    }

    /// Whether the model's own chat template writes the text.
    pub(crate) fn is_chat(&self) -> bool {
        matches!(self, Self::Chat | Self::ChatOn(_))
    }

    fn adds_special(&self) -> bool {
        !self.is_chat()
    }

    /// Returns the date that a chat template sees as the current one.
    fn date(&self) -> TemplateDate {
        match self {
            Self::ChatOn(date) => *date,
            Self::Chat | Self::Raw | Self::Text(_) => TemplateDate::default(),
        }
    }

    fn render_turns(
        &self,
        tokenizer: &TextTokenizer,
        turns: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        chat::render(tokenizer, turns, add_generation_prompt, self.date())
    }
}

fn user(prompt: &str) -> Message {
    Message { role: Role::User, content: prompt.to_owned() }
}

fn assistant(completion: &str) -> Message {
    Message { role: Role::Assistant, content: completion.to_owned() }
}

fn head_and_tail(text: &str) -> (&str, &str) {
    text.split_once(COMPLETION).unwrap_or((text, ""))
}

/// Inserts the prompt. The prompt itself is not searched for placeholders, since it may contain braces.
fn fill(text: &str, prompt: &str) -> String {
    text.split(PROMPT).collect::<Vec<_>>().join(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tokenizer::tests::{tokenizer, with_both_tokens};

    fn text(template: &str) -> PromptTemplate {
        template.parse().expect("a template")
    }

    #[test]
    fn escaped_and_real_newlines_mean_the_same() {
        assert_eq!(text("Q: {prompt}\\n\\nA: {completion}"), text("Q: {prompt}\n\nA: {completion}"));
        assert_eq!(text("{prompt}\\t\\\\n\\x"), PromptTemplate::Text("{prompt}\t\\n\\x".to_owned()));
    }

    #[test]
    fn a_policy_sees_the_prompt_part_and_a_reward_model_the_whole_text() {
        let template = text("Q: {prompt}\n\nA: {completion}.");
        let tokenizer = tokenizer(None);
        assert_eq!(template.render_prompt(&tokenizer, "why?").expect("prompt"), "Q: why?\n\nA: ");
        assert_eq!(
            template.render_with_completion(&tokenizer, "why?", "so").expect("whole"),
            "Q: why?\n\nA: so."
        );
        let open = text("Q: {prompt}\nA: ");
        assert_eq!(open.render_with_completion(&tokenizer, "why?", "so").expect("whole"), "Q: why?\nA: so");
        assert_eq!(PromptTemplate::Raw.render_with_completion(&tokenizer, "a", "b").expect("raw"), "ab");
    }

    #[test]
    fn templates_round_trip_through_their_text() {
        for shown in ["chat", "chat@2026-01-31", "raw", "Q: {prompt}\\n\\tA: {completion}\\\\n"] {
            assert_eq!(text(shown).to_string(), shown);
            assert_eq!(text(&text(shown).to_string()), text(shown));
        }
    }

    #[test]
    fn turns_become_a_transcript_without_a_chat_template() {
        let tokenizer = tokenizer(None);
        let messages = |turns: &[(Role, &str)]| {
            let turn = |&(role, content): &(Role, &str)| Message { role, content: content.to_owned() };
            Dialogue::Messages(turns.iter().map(turn).collect())
        };
        let one = messages(&[(Role::User, "why?")]);
        let several = messages(&[
            (Role::System, "Be brief."),
            (Role::User, "why?"),
            (Role::Assistant, "so"),
            (Role::User, "how?"),
        ]);
        let whole = |template: &PromptTemplate, dialogue: &Dialogue| {
            let prompt = template.render_dialogue(&tokenizer, dialogue).expect("prompt");
            let whole =
                template.render_dialogue_with_completion(&tokenizer, dialogue, "thus").expect("whole");
            (prompt, whole)
        };
        let (prompt, answered) = whole(&PromptTemplate::Raw, &one);
        assert_eq!(prompt, "\n\nHuman: why?\n\nAssistant:");
        assert_eq!(answered, format!("{prompt} thus"));
        let (prompt, answered) = whole(&PromptTemplate::Raw, &several);
        assert_eq!(prompt, "Be brief.\n\nHuman: why?\n\nAssistant: so\n\nHuman: how?\n\nAssistant:");
        assert_eq!(answered, format!("{prompt} thus"));
        let template = text("Q: {prompt}\nA: {completion}.");
        assert_eq!(whole(&template, &one), ("Q: why?\nA: ".to_owned(), "Q: why?\nA: thus.".to_owned()));
        let (prompt, _) = whole(&template, &several);
        assert_eq!(prompt, "Q: Be brief.\n\nHuman: why?\n\nAssistant: so\n\nHuman: how?\nA: ");
        let chat = with_both_tokens(
            "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{{ add_generation_prompt }}",
        );
        let prompt = PromptTemplate::Chat.render_dialogue(&chat, &several).expect("prompt");
        assert_eq!(prompt, "system:Be brief.;user:why?;assistant:so;user:how?;True");
        let answered =
            PromptTemplate::Chat.render_dialogue_with_completion(&chat, &one, "thus").expect("whole");
        assert_eq!(answered, "user:why?;assistant:thus;False");
    }

    #[test]
    fn braces_in_a_prompt_are_text() {
        let template = text("{prompt}|{completion}");
        let whole = template
            .render_with_completion(&tokenizer(None), "{completion}{prompt}", "{prompt}")
            .expect("whole");
        assert_eq!(whole, "{completion}{prompt}|{prompt}");
    }

    #[test]
    fn templates_must_name_the_prompt_first() {
        for wrong in [
            "",
            "Chat",
            "chat@",
            "chat@2026-02-30",
            "{completion}",
            "{completion} {prompt}",
            "{prompt}{completion}{completion}",
        ] {
            assert!(wrong.parse::<PromptTemplate>().is_err(), "{wrong}");
        }
    }
}
