//! The steps before byte-level BPE, by the name in `tokenizer.ggml.pre`.
//!
//! llama.cpp names a step after the first model that has it. The patterns are those of the models'
//! `tokenizer.json`.

use serde_json::{Value, json};

use crate::checkpoint::family::Family;

/// A word with the space before it, three digits, other characters, line ends, spaces (Llama 3).
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3, with single digits (Qwen 2).
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Qwen 2, with marks inside words (Qwen 3.5).
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words end before a capital letter, and digits are single (Mistral Nemo).
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words end before a capital letter and keep their contraction; up to three digits (GPT-4o, Phi-4-mini).
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The steps of DeepSeek V3.
const DEEPSEEK3: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// The steps before BPE.
pub(super) struct Splitting {
    pub(super) normaliser: Value,
    pub(super) pre_tokenizer: Value,
    /// Whether a word that is itself a token skips the merges.
    pub(super) ignore_merges: bool,
    /// Whether such a tokenizer adds a beginning-of-sequence token if the file does not say.
    pub(super) add_bos: bool,
}

impl Splitting {
    pub(super) fn of(name: &str, family: &Family) -> Result<Self, String> {
        Ok(match name {
            // Pythia's tokenizer composes characters first. llama.cpp cannot, and uses OLMo's name for it.
            "default" | "gpt-2" if family.model_type == "gpt_neox" => composed(byte_level_step(true)),
            "olmo" => composed(byte_level_step(true)),
            "default" | "gpt-2" | "phi-2" | "gigachat" => plain(byte_level_step(true)),
            "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" => {
                plain(digits_apart())
            }
            "command-r" => composed(digits_apart()),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" | "midm-2.0" => {
                Self { ignore_merges: true, add_bos: true, ..plain(by_regex(&[LLAMA3])) }
            }
            "dbrx" | "smaug-bpe" => plain(by_regex(&[LLAMA3])),
            "qwen2" | "deepseek-r1-qwen" => composed(by_regex(&[QWEN2])),
            "qwen35" => composed(by_regex(&[QWEN35])),
            "stablelm2" => plain(by_regex(&[QWEN2])),
            "tekken" => Self { ignore_merges: true, add_bos: true, ..plain(by_regex(&[TEKKEN])) },
            "gpt-4o" | "llama4" => plain(by_regex(&[GPT4O])),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" => plain(by_regex(&DEEPSEEK3)),
            other => {
                return Err(format!(
                    "tokenizer.ggml.pre {other:?} is not supported: use the model's Hugging Face folder"
                ));
            }
        })
    }
}

fn plain(pre_tokenizer: Value) -> Splitting {
    Splitting { normaliser: Value::Null, pre_tokenizer, ignore_merges: false, add_bos: false }
}

/// Characters are composed before the split.
fn composed(pre_tokenizer: Value) -> Splitting {
    Splitting { normaliser: json!({"type": "NFC"}), ..plain(pre_tokenizer) }
}

fn digits_apart() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        byte_level_step(true),
    ]})
}

fn by_regex(patterns: &[&str]) -> Value {
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = patterns.iter().map(split).chain([byte_level_step(false)]).collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// Returns the step that writes bytes as characters.
pub(super) fn byte_level_step(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

#[cfg(test)]
mod tests {
    use tokenizers::{PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

    use super::*;
    use crate::checkpoint::family::by_model_type;

    /// Returns the words into which a text is split, with the spaces before them as `Ġ`.
    fn words(name: &str, text: &str) -> Vec<String> {
        let llama = by_model_type("llama").expect("a family");
        let step = Splitting::of(name, llama).expect("a known name").pre_tokenizer;
        let step: PreTokenizerWrapper = serde_json::from_value(step).expect("a step");
        let mut split = PreTokenizedString::from(text);
        step.pre_tokenize(&mut split).expect("words");
        let words = split.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
        words.into_iter().map(|(word, ..)| word.to_owned()).collect()
    }

    #[test]
    fn words_are_split_as_the_models_do() {
        let text = "HelloWorld's 12345";
        for (name, expected) in [
            ("default", &["HelloWorld", "'s", "Ġ12345"][..]),
            ("smollm", &["HelloWorld", "'s", "Ġ", "1", "2", "3", "4", "5"]),
            ("llama-bpe", &["HelloWorld", "'s", "Ġ", "123", "45"]),
            ("dbrx", &["HelloWorld", "'s", "Ġ", "123", "45"]),
            ("qwen2", &["HelloWorld", "'s", "Ġ", "1", "2", "3", "4", "5"]),
            ("tekken", &["Hello", "World", "'s", "Ġ", "1", "2", "3", "4", "5"]),
            ("gpt-4o", &["Hello", "World's", "Ġ", "123", "45"]),
            ("deepseek-v3", &["HelloWorld", "'s", "Ġ", "123", "45"]),
        ] {
            assert_eq!(words(name, text), expected, "{name}");
        }
    }

    #[test]
    fn marks_belong_to_words_from_qwen_35_on() {
        let text = "क\u{93f}";
        assert_eq!(words("qwen2", text).len(), 2);
        assert_eq!(words("qwen35", text).len(), 1);
    }

    #[test]
    fn an_unknown_split_is_named() {
        let llama = by_model_type("llama").expect("a family");
        let error = Splitting::of("chameleon", llama).err().expect("it is not supported");
        assert!(error.contains("chameleon"), "{error}");
    }
}
