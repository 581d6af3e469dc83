"""Writes tokenizer.json: token ids and chat renderings by transformers, to compare with.

    python tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf      # needs transformers, tokenizers and gguf

SmolLM2: the tokenizer that transformers reads from the GGUF file, with the splitting of the model's own
tokenizer.json (digits one by one, then byte-level), which the GGUF file names `smollm` and transformers does not
follow. Small tokenizers trained here stand in for the other kinds of splitting, and for SentencePiece.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", "a", " a", "  a", "a ", "a  ", "Hello, world!", "hello  world", "I'm you're WE'LL it's IT'S",
    "12345", "a  12", "x = 10\n  20", "3.14159e-10", "1,000,000", "v2.0  3", "\n\n3", "007 4 2", "½ ² ٣٤  ٥ Ⅷ",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "for (int i = 0; i < 10; ++i) { a[i] += 0x1F; }",
    "{\"key\": [1, 2.5, null, true]}", "https://example.org/a?b=c&d=%20#frag", "SELECT * FROM t WHERE a<>'b';",
    "naïve café façade", "Straße ÄÖÜ", "e\u0301 vs é", "日本語のテキスト、ですね。", "中文 字符", "한국어 텍스트", "Привет, мир!", "שלום עולם",
    "مرحبا بالعالم", "नमस्ते दुनिया", "ไทย", "😀 🎉🎉 👩‍👩‍👧‍👦 🇫🇷 ❤️", "zero\u200bwidth\u00a0nbsp\u3000wide", "\ufeffbom", "tab\tsep\tvalues",
    "line\r\nline\rline", "trailing newline\n", "   leading", "MixedCASE camelCase snake_case kebab-case", "!!!???...;;;",
    "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b", "<|im_start|", "<repo_name>x<file_sep>", "Question: why?\n\nAnswer: because",
    "\u0000\u0001\u007f", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "ﬁ ﬂ ligatures", "a\u0300\u0301\u0302", "the " * 20, "-" * 40, "=" * 3 + " " * 17 + "x",
    "�", "“quotes” — dash … ellipsis", "\n \n  \n   \n", "I have 3 apples,\n 4 pears\n\n\n5 plums.",
]
CHATS = ["Hi", "  spaced  ", "multi\nline\n", "<|im_end|>", "{{ braces }} {% if %}", "émoji 😀", ""]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def smollm2(path):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

    def chat(messages, generate):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)

    user = [{"role": "user", "content": None}]
    chats = []
    for text in CHATS:
        user = {"role": "user", "content": text}
        answer = {"role": "assistant", "content": "Yes, " + text}
        prompt = chat([user], True)
        chats.append({
            "prompt": text, "completion": answer["content"], "rendered": prompt,
            "ids": tokenizer(prompt, add_special_tokens=False).input_ids, "whole": chat([user, answer], False),
        })
    ids = [tokenizer(text).input_ids for text in TEXTS]
    return {
        "ids": ids,
        "decoded": [tokenizer.decode(row, skip_special_tokens=False) for row in ids],
        "decoded_plain": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
        "chats": chats,
    }


def byte_level(name, pre_tokenizer, normalizer=None, ignore_merges=False, bos=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2])
    ids = [([1] if bos else []) + fast(text).input_ids for text in TEXTS]
    return {
        "model": "gpt2", "pre": name, "tokens": tokens, "merges": [" ".join(merge) for merge in model["merges"]],
        "types": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)), "ids": ids,
        "decoded": [fast.decode(row, skip_special_tokens=True) for row in ids],
    }


def sentence_piece():
    """A Llama 2 style vocabulary: bytes, then characters and words with falling scores, by transformers' own reading."""
    import gguf

    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [2, 3, 3] + [6] * 256
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([text for text in TEXTS if text.isascii()] * 3,
                                trainers.BpeTrainer(vocab_size=260, show_progress=False))
    vocab = json.loads(trained.to_str())["model"]["vocab"]
    words = [piece for piece in sorted(vocab, key=vocab.get) if piece not in pieces]
    pieces += words
    types += [1] * len(words)
    scores = [0.0] * 259 + [-float(index) for index in range(len(words))]
    # A folder of its own: transformers would take this folder's tokenizer.json for the model's.
    folder = Path(tempfile.mkdtemp())
    path = folder / "llama-spm.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in {"context_length": 8, "embedding_length": 4, "block_count": 1, "feed_forward_length": 4}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    shutil.rmtree(folder)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    return {
        "model": "llama", "pre": None, "tokens": pieces, "scores": scores, "types": types, "ids": ids,
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in ids],
    }


def main():
    level = pre_tokenizers.ByteLevel

    def split(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level(add_prefix_space=False, use_regex=False)])

    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)])
    here = Path(__file__).parent
    golden = {
        "texts": TEXTS,
        "smollm2": smollm2(Path(sys.argv[1])),
        "small": [
            byte_level("gpt-2", level(add_prefix_space=False)),
            byte_level("starcoder", digits),
            byte_level("olmo", level(add_prefix_space=False), normalizers.NFC()),
            byte_level("llama-bpe", split(LLAMA3), ignore_merges=True, bos=True),
            byte_level("qwen2", split(QWEN2), normalizers.NFC()),
            sentence_piece(),
        ],
    }
    (here / "tokenizer.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")))


main()
