//! Text of chat templates in a completion. Tokenizers remove their own special tokens, so what remains was
//! written letter by letter, by a model that saw templates as text.

use super::code::without_code;
use crate::words::{count_words, folded};

/// Special tokens that are no tags of HTML.
const TOKENS: [&str; 14] = [
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<eos>",
    "<bos>",
    "<pad>",
    "<unk>",
    "[PAD]",
    "[SEP]",
    "[CLS]",
    "[EOS]",
];

/// Headers of instruction templates, without the number signs and the colon.
const HEADERS: [&str; 9] =
    ["instruction", "response", "input", "output", "human", "assistant", "user", "system", "question"];

/// The user in transcripts, in lower case.
const USERS: [&str; 13] = [
    "user",
    "human",
    "benutzer",
    "nutzer",
    "utilisateur",
    "usuario",
    "usuário",
    "utente",
    "gebruiker",
    "пользователь",
    "用户",
    "ユーザー",
    "사용자",
];

/// The assistant in transcripts, in lower case.
const ASSISTANTS: [&str; 11] = [
    "assistant",
    "ai",
    "bot",
    "assistent",
    "asistente",
    "assistente",
    "ассистент",
    "助手",
    "アシスタント",
    "어시스턴트",
    "model",
];

/// Words of prompts that ask for a dialogue, in folded text.
const DIALOGUES: [&str; 20] = [
    "dialog",
    "conversation",
    "interview",
    "transcript",
    "script",
    "chat",
    " scene",
    " play ",
    "gespräch",
    "unterhaltung",
    "diálogo",
    "conversación",
    "conversa",
    "gesprek",
    "диалог",
    "разговор",
    "对话",
    "对白",
    "会話",
    "대화",
];

/// Longest name of a special token, in characters.
const NAME_MAX: usize = 40;

/// Returns the first text of a template in a completion; `None` without one. Code does not count, nor does
/// text that the prompt has too.
pub(super) fn leak(prompt: &str, completion: &str) -> Option<String> {
    let text = without_code(completion);
    special_token(prompt, &text).or_else(|| header(prompt, &text)).or_else(|| next_turn(prompt, &text))
}

fn special_token(prompt: &str, text: &str) -> Option<String> {
    let fixed = TOKENS.into_iter().find(|token| text.contains(token) && !prompt.contains(token));
    fixed
        .map(str::to_owned)
        .or_else(|| bracketed_token(prompt, text))
        .or_else(|| sentence_token(prompt, text))
}

/// Finds `<|name|>`, also with full-width bars.
fn bracketed_token(prompt: &str, text: &str) -> Option<String> {
    for (open, close) in [("<|", "|>"), ("<｜", "｜>")] {
        for (start, _) in text.match_indices(open) {
            let inner = &text[start + open.len()..];
            let name: String = inner
                .chars()
                .take(NAME_MAX)
                .take_while(|character| {
                    character.is_alphanumeric() || matches!(character, '_' | '-' | '▁' | ' ')
                })
                .collect();
            let is_token = !name.trim().is_empty() && inner[name.len()..].starts_with(close);
            let token = format!("{open}{name}{close}");
            if is_token && !prompt.contains(&token) {
                return Some(token);
            }
        }
    }
    None
}

/// Finds `<s>` and `</s>`, which HTML has too: there they touch the text that they strike out.
fn sentence_token(prompt: &str, text: &str) -> Option<String> {
    let html = ["</p>", "</b>", "</div>", "</li>", "</td>", "</span>", "</h1>", "</i>"];
    if html.iter().any(|tag| text.contains(tag)) {
        return None;
    }
    let is_apart = |token: &str, at: usize| {
        let before = text[..at].chars().next_back().is_none_or(char::is_whitespace);
        let after = text[at + token.len()..].chars().next().is_none_or(char::is_whitespace);
        (token == "<s>" && after) || (token == "</s>" && (before || after)) || (before && after)
    };
    let balanced = text.matches("<s>").count() == text.matches("</s>").count();
    let found = ["</s>", "<s>"].into_iter().find(|token| {
        !prompt.contains(token) && text.match_indices(token).any(|(at, _)| !balanced || is_apart(token, at))
    })?;
    Some(found.to_owned())
}

/// Finds a line such as `### Response:`.
fn header(prompt: &str, text: &str) -> Option<String> {
    let is_header = |line: &&str| {
        let Some(title) = line.strip_prefix("###") else { return false };
        let title = title.trim_start_matches('#').trim().to_lowercase();
        let name = title.split_once(':').map_or(title.as_str(), |(name, _)| name).trim();
        // Without a colon, only the header alone counts, and `User` or `Output` may be a heading of the text.
        let known = HEADERS.contains(&name);
        known && (title.contains(':') || matches!(name, "instruction" | "response"))
    };
    let line = text.lines().map(str::trim).find(is_header)?;
    (!prompt.contains(line)).then(|| line.chars().take(NAME_MAX).collect())
}

/// Finds a turn of the user after the first line, unless the prompt asks for a dialogue.
fn next_turn(prompt: &str, text: &str) -> Option<String> {
    let folded_prompt = folded(prompt);
    if DIALOGUES.iter().any(|word| folded_prompt.contains(word)) {
        return None;
    }
    let turns: Vec<(String, &str)> =
        text.lines().skip_while(|line| line.trim().is_empty()).skip(1).filter_map(turn).collect();
    let answered = turns.iter().any(|(speaker, _)| ASSISTANTS.contains(&speaker.as_str()));
    let (speaker, _) = turns.iter().find(|(speaker, said)| {
        // `User: root` may be a line of a log.
        USERS.contains(&speaker.as_str()) && (answered || count_words(said) >= 3)
    })?;
    Some(format!("{speaker}:"))
}

/// Returns the speaker of a line in lower case, and what is said; `None` without a speaker.
fn turn(line: &str) -> Option<(String, &str)> {
    let (speaker, said) = line.split_once([':', '：'])?;
    let speaker = speaker.trim().trim_matches('*').trim();
    (speaker.chars().count() <= 20).then(|| (speaker.to_lowercase(), said))
}
