//! A completion in another language than its prompt.
//!
//! Scripts are compared first. Within a script, function words tell the language of both texts. A prompt that
//! names a language, or asks for a translation, sets no language.

use std::collections::BTreeMap;

use super::code::{is_code_line, without_code};
use crate::function_words::FunctionWords;
use crate::words::{count_words, folded};
use serde::{Deserialize, Serialize};

/// Fewest letters of a completion with a known script. A name may be shorter. A sign of a word or a syllable
/// counts as three letters.
const LETTERS_MIN: usize = 12;
/// The same of a prompt.
const LETTERS_OF_PROMPT: usize = 6;
/// Fewest words of a completion whose language counts within its script, and fewest letters of half a text.
const WORDS_MIN: usize = 5;
const LETTERS_OF_HALF: usize = 80;
/// Share of the letters that a text's main script has at least.
const SCRIPT_SHARE: f64 = 0.6;
/// Length of the text that is read, in characters.
const READ_MAX: usize = 4000;

/// The languages of a prompt and of its completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguageMismatch {
    /// The language of the prompt, by its ISO 639-1 code; where the scripts differ, the script's name.
    pub prompt: String,
    /// The language of the completion, or of its second half.
    pub completion: String,
}

/// Parts of words that name a language or ask for a translation, in lower case.
const NAMES: [&str; 96] = [
    "english",
    "german",
    "french",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "swedish",
    "danish",
    "norwegian",
    "finnish",
    "polish",
    "czech",
    "hungarian",
    "romanian",
    "turkish",
    "vietnamese",
    "russian",
    "ukrainian",
    "arabic",
    "persian",
    "hindi",
    "hebrew",
    "greek",
    "japanese",
    "korean",
    "chinese",
    "mandarin",
    "latin",
    "translat",
    "language",
    "englisch",
    "deutsch",
    "französisch",
    "spanisch",
    "italienisch",
    "portugiesisch",
    "niederländisch",
    "polnisch",
    "türkisch",
    "russisch",
    "arabisch",
    "griechisch",
    "japanisch",
    "koreanisch",
    "chinesisch",
    "übersetz",
    "sprache",
    "anglais",
    "allemand",
    "français",
    "espagnol",
    "italien",
    "portugais",
    "néerlandais",
    "russe",
    "arabe",
    "japonais",
    "coréen",
    "chinois",
    "tradui",
    "inglés",
    "alemán",
    "francés",
    "español",
    "ruso",
    "japonés",
    "chino",
    "traduc",
    "traduz",
    "inglese",
    "tedesco",
    "francese",
    "spagnolo",
    "traduci",
    "inglês",
    "alemão",
    "francês",
    "engels",
    "vertaal",
    "английск",
    "немецк",
    "французск",
    "испанск",
    "перевед",
    "перевод",
    "英文",
    "英语",
    "法语",
    "德语",
    "日语",
    "翻译",
    "英語",
    "翻訳",
    "영어",
    "번역",
];

/// Returns both languages if the completion, or its second half, is in another one than the prompt.
pub(super) fn language_mismatch(prompt: &str, completion: &str) -> Option<LanguageMismatch> {
    let lower = prompt.to_lowercase();
    if NAMES.iter().any(|name| lower.contains(name)) {
        return None;
    }
    let prompt = prose_of(prompt);
    let completion = prose_of(completion);
    let half = second_half(&completion);
    mismatch(&prompt, &completion).or_else(|| half.and_then(|half| mismatch(&prompt, half)))
}

/// Returns the begin of a text without code and quotations, in lines.
fn prose_of(text: &str) -> String {
    let text: String = text.chars().take(READ_MAX).collect();
    let lines = without_code(&text);
    let lines: String =
        lines.lines().filter(|line| !is_code_line(line)).flat_map(|line| [line, "\n"]).collect();
    without_quotations(&lines)
}

/// Leaves out what stands between quotation marks on a line.
fn without_quotations(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let mut rest = line;
        while let Some((start, close)) = opening_quote(rest) {
            kept.push_str(&rest[..start]);
            let inner = &rest[start..];
            let mut letters = inner.char_indices().skip(1);
            // An opening mark without a closing one quotes nothing.
            let Some((end, mark)) = letters.find(|(_, character)| close.contains(*character)) else {
                rest = inner;
                break;
            };
            kept.push(' ');
            rest = &inner[end + mark.len_utf8()..];
        }
        kept.push_str(rest);
        kept.push('\n');
    }
    kept
}

/// Returns the position of the first opening quotation mark and the marks that close it. A straight
/// apostrophe opens a quotation only after a space.
fn opening_quote(text: &str) -> Option<(usize, &'static str)> {
    let mut previous = ' ';
    for (at, character) in text.char_indices() {
        let close = match character {
            '"' => Some("\""),
            '“' | '„' => Some("”“"),
            '«' => Some("»"),
            '「' => Some("」"),
            '\'' | '‘' if previous.is_whitespace() => Some("'’"),
            _ => None,
        };
        if let Some(close) = close {
            return Some((at, close));
        }
        previous = character;
    }
    None
}

/// Returns the second half of a text, by characters, from the begin of a word.
fn second_half(text: &str) -> Option<&str> {
    let (middle, _) = text.char_indices().nth(text.chars().count() / 2)?;
    let half = &text[middle..];
    let half = &half[half.find(char::is_whitespace).unwrap_or(0)..];
    (half.chars().filter(|character| character.is_alphabetic()).count() >= LETTERS_OF_HALF).then_some(half)
}

fn mismatch(prompt: &str, completion: &str) -> Option<LanguageMismatch> {
    let (of_prompt, of_completion) =
        (main_script(prompt, LETTERS_OF_PROMPT)?, main_script(completion, LETTERS_MIN)?);
    let named = |prompt: &str, completion: &str| LanguageMismatch {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    };
    if of_prompt != of_completion {
        return Some(named(of_prompt.name(), of_completion.name()));
    }
    if count_words(completion) < WORDS_MIN {
        return None;
    }
    let table = FunctionWords::table();
    let of_prompt = table.language(&folded(prompt))?;
    let of_completion = table.language(&folded(completion))?;
    (of_prompt != of_completion).then(|| named(of_prompt.code(), of_completion.code()))
}

/// The script of a text; Japanese has Han characters too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Latin,
    Cyrillic,
    Greek,
    Hebrew,
    Arabic,
    Devanagari,
    Thai,
    Hangul,
    Han,
    Kana,
}

impl Family {
    fn of(character: char) -> Option<Self> {
        Some(match character {
            'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' => Self::Latin,
            '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => Self::Greek,
            '\u{400}'..='\u{52f}' => Self::Cyrillic,
            '\u{590}'..='\u{5ff}' => Self::Hebrew,
            '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' => Self::Arabic,
            '\u{900}'..='\u{97f}' => Self::Devanagari,
            '\u{e00}'..='\u{e7f}' => Self::Thai,
            '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7af}' => Self::Hangul,
            '\u{3040}'..='\u{30ff}' => Self::Kana,
            '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Self::Han,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Latin => "Latin",
            Self::Cyrillic => "Cyrillic",
            Self::Greek => "Greek",
            Self::Hebrew => "Hebrew",
            Self::Arabic => "Arabic",
            Self::Devanagari => "Devanagari",
            Self::Thai => "Thai",
            Self::Hangul => "Hangul",
            Self::Han => "Han",
            Self::Kana => "Japanese",
        }
    }
}

/// Returns the script of most letters; `None` for a text with fewer letters than `least` or of several
/// scripts.
fn main_script(text: &str, least: usize) -> Option<Family> {
    let mut counts = BTreeMap::new();
    for family in text.chars().filter_map(Family::of) {
        *counts.entry(family).or_insert(0_usize) += 1;
    }
    let kana = counts.get(&Family::Kana).copied().unwrap_or(0);
    let han = counts.get(&Family::Han).copied().unwrap_or(0);
    // Japanese prose has more kana than Han characters; a title may have few.
    if 10 * kana >= han && kana > 0 {
        counts.remove(&Family::Han);
        counts.insert(Family::Kana, kana + han);
    }
    let all: usize = counts.values().sum();
    let (family, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let letters = match family {
        Family::Hangul | Family::Han | Family::Kana => 3 * count,
        Family::Latin
        | Family::Cyrillic
        | Family::Greek
        | Family::Hebrew
        | Family::Arabic
        | Family::Devanagari
        | Family::Thai => count,
    };
    (letters >= least && count as f64 >= SCRIPT_SHARE * all as f64).then_some(family)
}
