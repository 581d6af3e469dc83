//! Defaults of transformers 5.24's classes, for keys that a file does not have.

/// The ids of a configuration class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelDefaults {
    pub bos: Option<u32>,
    pub eos: &'static [u32],
}

/// Returns the ids that the configuration class of a `model_type` has by default.
pub(super) fn of_model_type(model_type: &str) -> ModelDefaults {
    let (bos, eos): (Option<u32>, &'static [u32]) = match model_type {
        "llama" | "mistral" | "mixtral" | "ministral" | "phi" | "granite" | "helium" | "ernie4_5"
        | "apertus" | "hunyuan_v1_dense" => (Some(1), &[2]),
        "gpt_neox" | "exaone4" | "seed_oss" => (Some(0), &[2]),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => (Some(2), &[1]),
        "phi3" => (Some(1), &[32_000]),
        "olmo" | "olmo2" | "olmo3" => (None, &[50_279]),
        "stablelm" => (Some(0), &[0]),
        "starcoder2" | "gpt2" => (Some(50_256), &[50_256]),
        "falcon" => (Some(11), &[11]),
        "opt" => (Some(2), &[2]),
        "smollm3" | "arcee" => (Some(128_000), &[128_001]),
        "cohere" | "cohere2" => (Some(5), &[255_001]),
        "nemotron" => (Some(2), &[3]),
        "glm" | "glm4" => (None, &[151_329, 151_336, 151_338]),
        _ => (None, &[]),
    };
    ModelDefaults { bos, eos }
}

/// Returns the special tokens that a tokenizer class (without `Fast`) has by default: name and text of each.
pub(crate) fn of_tokenizer_class(class: &str) -> &'static [(&'static str, &'static str)] {
    match class {
        "LlamaTokenizer" | "CodeLlamaTokenizer" => {
            &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")]
        }
        "GPT2Tokenizer" | "CodeGenTokenizer" => {
            &[("unk_token", "<|endoftext|>"), ("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>")]
        }
        "GPTNeoXTokenizer" => &[
            ("unk_token", "<|endoftext|>"),
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("pad_token", "<|padding|>"),
        ],
        "Qwen2Tokenizer" => {
            &[("unk_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
        }
        "GemmaTokenizer" => &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        "CohereTokenizer" => &[
            ("unk_token", "<UNK>"),
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("sep_token", "<SEP>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
        _ => &[],
    }
}
