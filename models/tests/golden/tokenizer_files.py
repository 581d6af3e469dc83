"""Writes tokenizer_files.json: what AutoTokenizer reads from the files of a folder, for classes, flags, and files beside tokenizer.json.

    python tokenizer_files.py        # needs transformers 5.24

A small byte-level tokenizer, with and without a post-processor that adds `<s>`. Each case changes the files. For each are kept: ids of
texts, the special tokens that chat templates see, and the end-of-sequence id.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"]
TEXTS = ["hello", "a <tool> b", "x</s>y<|im_end|>", " <tool><tool2>", "<s>hello", "a <im> b"]
CLASSES = ["PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizerFast", "LlamaTokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizerFast",
           "Qwen2TokenizerFast", None]
FLAGS = [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": True}, {"add_eos_token": False},
         {"add_bos_token": True, "add_eos_token": True}]
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
DECODER = {str(id): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
           for id, text in enumerate(SPECIAL)}


def added(text, **flags):
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True, **flags}


def tokenizer(bos, plain_eos=False):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "a"), ("Ġ", "b")]
    vocab = {token: id for id, token in enumerate(SPECIAL + letters + ["".join(pair) for pair in merges])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([token for token in SPECIAL if not (plain_eos and token == "</s>")])
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return made


def cases():
    for name in CLASSES:
        for bos in (True, False):
            for flags in FLAGS:
                config = {**CONFIG, **flags, **({"tokenizer_class": name} if name else {})}
                yield f"{name}, {'bos' if bos else 'no'} post-processor, {flags}", bos, {"tokenizer_config.json": config}
    base = {**CONFIG, "tokenizer_class": "PreTrainedTokenizerFast"}
    size = 6 + 256 + 6
    yield "added_tokens_decoder", True, {"tokenizer_config.json": {**base, "added_tokens_decoder": {**DECODER, str(size): added("<tool>")}}}
    yield "added_tokens_decoder, not special", True, {"tokenizer_config.json": {**base, "added_tokens_decoder": {
        **DECODER, str(size): added("<tool>", special=False, lstrip=True), str(size + 1): added("<tool2>", special=False, normalized=True)}}}
    yield "added_tokens_decoder changes flags", True, {"tokenizer_config.json": {**base, "added_tokens_decoder": {
        **DECODER, "4": added("<|im_end|>", special=False, rstrip=True)}}}
    yield "added_tokens.json", True, {"tokenizer_config.json": base, "added_tokens.json": {"<tool>": size, "<tool2>": size + 1}}
    yield "added_tokens.json beside a decoder", True, {"tokenizer_config.json": {**base, "added_tokens_decoder": DECODER},
                                                       "added_tokens.json": {"<tool>": size}}
    yield "extra_special_tokens, list", True, {"tokenizer_config.json": {**base, "extra_special_tokens": ["<tool>", "<tool2>"]}}
    yield "extra_special_tokens, names", True, {"tokenizer_config.json": {**base, "extra_special_tokens": {"image_token": "<im>"}}}
    yield "additional_special_tokens", True, {"tokenizer_config.json": {**base, "additional_special_tokens": ["<tool>"]}}
    yield "additional beside extra", True, {"tokenizer_config.json": {**base, "additional_special_tokens": ["<tool>"], "extra_special_tokens": ["<tool2>"]}}
    yield "own token", True, {"tokenizer_config.json": {**base, "image_token": "<im>"}}
    yield "special_tokens_map.json", True, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
                                            "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": added("<pad>"),
                                                                        "additional_special_tokens": ["<tool>"]}}
    yield "special_tokens_map.json overrides", True, {"tokenizer_config.json": base, "special_tokens_map.json": {"eos_token": "<|im_end|>"}}
    yield "special_tokens_map.json beside a decoder", True, {"tokenizer_config.json": {**base, "added_tokens_decoder": DECODER},
                                                             "special_tokens_map.json": {"eos_token": "<|im_end|>"}}
    yield "null", True, {"tokenizer_config.json": {**base, "bos_token": None, "eos_token": None}}
    yield "absent", True, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
    yield "absent, GPT-NeoX", True, {"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizerFast"}}
    yield "new token", True, {"tokenizer_config.json": {**base, "pad_token": "<tool>"}}
    yield "token as an object", True, {"tokenizer_config.json": {**base, "eos_token": {"__type": "AddedToken", **added("<|im_end|>", lstrip=True)}}}
    yield "split_special_tokens", True, {"tokenizer_config.json": {**base, "split_special_tokens": True}}
    yield "eos in the vocabulary only", "plain", {"tokenizer_config.json": base}
    yield "no tokenizer_config.json", True, {}


def main():
    golden = {"texts": TEXTS, "tokenizers": {}, "cases": []}
    for name, bos, files in cases():
        made = tokenizer(bool(bos), plain_eos=bos == "plain")
        kind = {True: "bos", False: "none", "plain": "plain"}[bos]
        golden["tokenizers"][kind] = json.loads(made.to_str())
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
            made.save(str(folder / "tokenizer.json"))
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            try:
                read = AutoTokenizer.from_pretrained(folder)
                result = {"ids": [read(text).input_ids for text in TEXTS], "tokens": read.special_tokens_map, "eos": read.eos_token_id}
            except Exception as error:
                result = {"error": repr(error)[:200]}
        golden["cases"].append({"name": name, "tokenizer": kind, "files": files, **result})
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    Path(__file__).with_suffix(".json").write_text(text.replace('{"name":', '\n{"name":') + "\n")


if __name__ == "__main__":
    main()
