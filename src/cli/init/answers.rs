//! The questions of `dissent init`, and the answers from options, a person or the defaults.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use dissent_domain::id::ExperimentId;
use dissent_models::template::PromptTemplate;
use serde::Deserialize;

use crate::config::resolve;
use crate::error::BadInput;
use crate::experiment::models::Model;

/// The policy of the demo, which `cargo xtask fetch` stores in the cache folder.
const DEMO_POLICY: &str = "cache:models/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Template of a reward model whose tokenizer has no chat template.
const PLAIN_REWARD: &str = "Question: {prompt}\\n\\nAnswer: {completion}";
/// Template of a policy whose tokenizer has no chat template.
const PLAIN_POLICY: &str = "Question: {prompt}\\n\\nAnswer: ";

/// The source of judgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FeedbackChoice {
    /// Conflict is measured and reported only
    None,
    /// Annotators judge on a page
    People,
    /// The sentiment of completions judges, for a trial without people
    Oracle,
}

/// Options of the questions. An option that is given is not asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Questions {
    /// Name of the experiment [default: the name of the file]
    #[arg(long, value_name = "NAME")]
    name: Option<ExperimentId>,
    /// Prompts: rows of {"prompt_id"?, "prompt", "system"?, "category"?}.
    #[arg(long, value_name = "FILE|cache:FILE")]
    prompts: Option<String>,
    /// Policy: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "MODEL|cache:MODEL")]
    policy: Option<String>,
    /// PEFT LoRA folder of the policy.
    #[arg(long, alias = "policy-adapter", value_name = "FOLDER")]
    adapter: Option<String>,
    /// Template of the policy [default: chat, or a plain text if the model has no chat template]
    #[arg(long, alias = "policy-template", value_name = "TEMPLATE")]
    template: Option<PromptTemplate>,
    /// Reward model: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "MODEL|cache:MODEL")]
    reward: Option<String>,
    /// Keep only the first K layers of the reward model.
    #[arg(long, alias = "layers", value_name = "K")]
    reward_layers: Option<u32>,
    /// PEFT LoRA folder of the reward model (SEQ_CLS, with its score head).
    #[arg(long, value_name = "FOLDER")]
    reward_adapter: Option<String>,
    /// Template of the reward model [default: the one that its adapter was trained with by `dissent train`,
    /// else chat, or a plain text if the model has no chat template]
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// Completions of each prompt [default: 8]
    #[arg(short = 'n', long, value_name = "N")]
    samples: Option<u32>,
    /// Maximum number of new tokens in a completion [default: 128]
    #[arg(long)]
    max_new_tokens: Option<u32>,
    /// Completions to select for feedback [default: 100]
    #[arg(long, value_name = "N")]
    budget: Option<u64>,
    /// Source of judgements [default: none]
    #[arg(long, value_name = "SOURCE")]
    feedback: Option<FeedbackChoice>,
    /// Held-out prompts of the evaluation, which feedback needs.
    #[arg(long, value_name = "FILE|cache:FILE")]
    held_out: Option<String>,
}

/// The content of the configuration. Paths are as the file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) name: ExperimentId,
    pub(super) prompts: String,
    pub(super) policy: String,
    pub(super) adapter: Option<String>,
    pub(super) template: String,
    pub(super) reward: String,
    pub(super) reward_layers: Option<u32>,
    pub(super) reward_adapter: Option<String>,
    pub(super) reward_template: String,
    pub(super) samples: u32,
    pub(super) max_new_tokens: u32,
    pub(super) budget: u64,
    pub(super) feedback: FeedbackChoice,
    /// Only with feedback.
    pub(super) held_out: Option<String>,
}

impl Answers {
    /// Takes every answer for the file `config` from its option, from a person if `asks`, or from its
    /// default.
    ///
    /// # Errors
    /// If a required answer is missing or invalid, or stdin cannot be read.
    pub(super) fn collect(given: &Questions, config: &Path, asks: bool) -> anyhow::Result<Self> {
        let folder = config.parent().unwrap_or(Path::new(""));
        let stem = config.file_stem().and_then(|stem| ExperimentId::new(stem.to_string_lossy()).ok());
        let stem = stem.map_or_else(|| "my-experiment".to_owned(), |stem| stem.to_string());
        let ask = Asking { asks };
        let demo = resolve(Path::new(DEMO_POLICY), Path::new("")).ok().filter(|model| model.exists());
        let name = ask.with_default("name of the experiment", given.name.as_ref(), &stem)?;
        let prompts = ask.required("--prompts", "file of the prompts", given.prompts.as_deref(), None)?;
        let policy = given.policy.as_deref();
        let policy = ask.required(
            "--policy",
            "policy (Hugging Face folder or GGUF file)",
            policy,
            demo.map(|_| DEMO_POLICY),
        )?;
        let reward = given.reward.as_deref();
        let reward =
            ask.required("--reward", "reward model (Hugging Face folder or GGUF file)", reward, None)?;
        let layers: Option<u32> =
            ask.optional("first layers of the reward model to keep", given.reward_layers.as_ref())?;
        let reward_adapter: Option<String> =
            ask.optional("LoRA folder of the reward model", given.reward_adapter.as_ref())?;
        let samples = ask.with_default("completions of each prompt", given.samples.as_ref(), "8")?;
        let max_new_tokens =
            ask.with_default("maximum number of new tokens", given.max_new_tokens.as_ref(), "128")?;
        let budget = ask.with_default("completions to select", given.budget.as_ref(), "100")?;
        let feedback = given.feedback.map(Answer);
        let Answer(feedback) =
            ask.with_default("judgements from none, people or oracle", feedback.as_ref(), "none")?;
        let held_out = match feedback {
            FeedbackChoice::None => None,
            FeedbackChoice::People | FeedbackChoice::Oracle => Some(ask.required(
                "--held-out",
                "file of held-out prompts",
                given.held_out.as_deref(),
                None,
            )?),
        };
        let template = given.template.as_ref().map_or_else(|| policy_template(&policy), escaped);
        let trained = reward_adapter.as_deref().and_then(trained_template);
        let known = given.reward_template.as_ref().or(trained.as_ref());
        let reward_template = known.map_or_else(|| reward_template(&reward, layers), escaped);
        let path = |path: &String| from_folder(path, folder);
        Ok(Self {
            name,
            template,
            reward_template,
            prompts: path(&prompts)?,
            policy: path(&policy)?,
            adapter: given.adapter.as_ref().map(path).transpose()?,
            reward: path(&reward)?,
            reward_layers: layers,
            reward_adapter: reward_adapter.as_ref().map(path).transpose()?,
            samples,
            max_new_tokens,
            budget,
            feedback,
            held_out: held_out.as_ref().map(path).transpose()?,
        })
    }
}

fn escaped(template: &PromptTemplate) -> String {
    template.to_string()
}

/// Returns `chat` if the policy has a chat template, else a plain text. A model that cannot be opened is
/// found
/// by the check of the whole file.
fn policy_template(path: &str) -> String {
    let opened = resolve(Path::new(path), Path::new("")).ok();
    let model = opened.and_then(|path| Model::outline_policy(&path, None, None).ok());
    let has_chat = model.is_none_or(|model| {
        PromptTemplate::Chat.render_prompt(&model.checkpoint.tokenizer, "prompt").is_ok()
    });
    if has_chat { "chat".to_owned() } else { PLAIN_POLICY.to_owned() }
}

fn reward_template(path: &str, layers: Option<u32>) -> String {
    let opened = resolve(Path::new(path), Path::new("")).ok();
    let model = opened.and_then(|path| Model::outline_policy(&path, layers, None).ok());
    let has_chat = model.is_none_or(|model| {
        PromptTemplate::Chat.render_with_completion(&model.checkpoint.tokenizer, "prompt", "answer").is_ok()
    });
    if has_chat { "chat".to_owned() } else { PLAIN_REWARD.to_owned() }
}

/// Returns the template that `dissent train reward` recorded beside an adapter; `None` for other adapters.
fn trained_template(adapter: &str) -> Option<PromptTemplate> {
    #[derive(Deserialize)]
    struct Training {
        settings: Settings,
    }
    #[derive(Deserialize)]
    struct Settings {
        template: String,
    }
    let folder = resolve(Path::new(adapter), Path::new("")).ok()?;
    let text = std::fs::read_to_string(folder.join("training.json")).ok()?;
    let Training { settings } = serde_json::from_str(&text).ok()?;
    settings.template.parse().ok()
}

/// Returns a path as a configuration in `folder` writes it: relative paths of the command line start at the
/// working folder.
fn from_folder(path: &str, folder: &Path) -> anyhow::Result<String> {
    let stays = path.starts_with("cache:") || path.starts_with("~/") || Path::new(path).is_absolute();
    if stays || folder.as_os_str().is_empty() || folder == Path::new(".") {
        return Ok(path.to_owned());
    }
    let absolute: PathBuf = std::path::absolute(path).with_context(|| format!("failed to resolve {path}"))?;
    Ok(absolute.to_string_lossy().into_owned())
}

/// An answer whose text is the name of a value.
#[derive(Debug, Clone, Copy)]
struct Answer<T>(T);

impl<T: ValueEnum> std::str::FromStr for Answer<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        T::from_str(text, true).map(Self)
    }
}

/// Asks a person on the terminal.
struct Asking {
    asks: bool,
}

impl Asking {
    /// Returns the option, the answer, or the default.
    fn with_default<T: std::str::FromStr + Clone>(
        &self,
        question: &str,
        given: Option<&T>,
        default: &str,
    ) -> anyhow::Result<T>
    where
        T::Err: std::fmt::Display,
    {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        loop {
            let text =
                if self.asks { self.line(&format!("{question} [{default}]: "))? } else { String::new() };
            let text = if text.is_empty() { default } else { &text };
            match text.parse() {
                Ok(answer) => return Ok(answer),
                Err(error) if self.asks => self.say(&format!("  {error}"))?,
                Err(error) => return Err(BadInput(format!("{question}: {error}")).into()),
            }
        }
    }

    /// Returns the option, or the answer; an empty answer is none.
    fn optional<T: std::str::FromStr + Clone>(
        &self,
        question: &str,
        given: Option<&T>,
    ) -> anyhow::Result<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        if given.is_some() || !self.asks {
            return Ok(given.cloned());
        }
        loop {
            let text = self.line(&format!("{question} [none]: "))?;
            if text.is_empty() {
                return Ok(None);
            }
            match text.parse() {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => self.say(&format!("  {error}"))?,
            }
        }
    }

    /// Returns the option or the answer.
    fn required(
        &self,
        option: &str,
        question: &str,
        given: Option<&str>,
        default: Option<&str>,
    ) -> anyhow::Result<String> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        if !self.asks {
            let reason = format!(
                "{option} is missing, and there is no terminal to ask: give {option}, the {question}"
            );
            return default.map(str::to_owned).ok_or_else(|| BadInput(reason).into());
        }
        let shown = default.map_or_else(String::new, |default| format!(" [{default}]"));
        loop {
            let text = self.line(&format!("{question}{shown}: "))?;
            match (text.is_empty(), default) {
                (false, _) => return Ok(text),
                (true, Some(default)) => return Ok(default.to_owned()),
                (true, None) => self.say("  needed")?,
            }
        }
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        writeln!(std::io::stderr(), "{text}").context("failed to write to the terminal")
    }

    fn line(&self, question: &str) -> anyhow::Result<String> {
        let mut stderr = std::io::stderr();
        write!(stderr, "{question}")
            .and_then(|()| stderr.flush())
            .context("failed to write to the terminal")?;
        let mut text = String::new();
        let read = std::io::stdin().lock().read_line(&mut text).context("failed to read the terminal")?;
        if read == 0 {
            return Err(BadInput("the questions were not answered: no file is written".to_owned()).into());
        }
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_command_line_are_written_for_the_folder_of_the_file() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(from_folder("a.jsonl", Path::new("")).unwrap(), "a.jsonl");
        assert_eq!(from_folder("a.jsonl", Path::new("sub")).unwrap(), here.join("a.jsonl").to_str().unwrap());
        for stays in ["cache:m.gguf", "~/m.gguf", "/m.gguf"] {
            assert_eq!(from_folder(stays, Path::new("sub")).unwrap(), stays);
        }
    }
}
