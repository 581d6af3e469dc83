"""Makes the tiny models' GGUF files with llama.cpp's own converter: `python gguf_twins.py LLAMA_CPP [NAME …]`, after generate.py.

LLAMA_CPP is an unpacked source of llama.cpp; the source package of llama-cpp-python holds one under vendor/. Needs sentencepiece and
protobuf beside requirements.txt. Of the converter only the pre-tokenizer table is replaced, since it knows no tokenizer of ours.
"""

import importlib
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece.sentencepiece_model_pb2 as pieces
import transformers
from transformers import PreTrainedTokenizerFast

from families import FAMILIES
from generate import HERE, edited
from weights import write

# Their converters read tokenizer.model only.
SENTENCE_PIECE = ("gemma", "phi3")


def save_pieces(path):
    """The shared tokenizer as SentencePiece would hold one: falling scores, no bytes."""
    vocabulary = json.loads((HERE / "tokenizer.json").read_text())["model"]["vocab"]
    model = pieces.ModelProto()
    kinds = {0: "CONTROL", 1: "CONTROL", 2: "CONTROL", 3: "UNKNOWN"}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        kind = kinds.get(index, "NORMAL")
        text = "<unk>" if kind == "UNKNOWN" else token.replace("Ġ", "▁")
        model.pieces.add(piece=text, score=float(-index), type=getattr(pieces.ModelProto.SentencePiece, kind))
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 2, len(vocabulary), 3, 0, 1, 2
    path.write_bytes(model.SerializeToString())


def convert(family, converter):
    folder = HERE / family.name
    config = json.loads((folder / "config.json").read_text())
    if family.twin:
        config = edited(config, family.twin)
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "config.json").write_text(json.dumps(config))
        write(json.loads((folder / "tensors.json").read_text()), family.dtype, place / "model.safetensors")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(HERE / name, place)
        if family.name == "phi4_mini":
            # By this class the converter tells Phi-4-mini's byte-level tokenizer from Phi-3's.
            (place / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="GPT2Tokenizer")))
        if family.name.startswith(SENTENCE_PIECE):
            save_pieces(place / "tokenizer.model")
        # llama.cpp asks for certain tokens if the name is that of a Phi-3.
        target = ["--outfile", str(folder / "model.gguf"), "--outtype", family.dtype.lower(), "--model-name", "tiny"]
        sys.argv = ["convert", str(place), *target]
        converter.main()
    print(f"{family.name:20} {(folder / 'model.gguf').stat().st_size / 1024:.0f} KiB", flush=True)


def own_tokenizer(folder, **_):
    """transformers would add special tokens of a family's own tokenizer; the files here have none."""
    return PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")


def unknown_config(*_, **__):
    """The converter then reads config.json itself: transformers 5 has renamed keys that it asks for."""
    raise ValueError("no configuration")


def main():
    source, *names = sys.argv[1:]
    sys.path.insert(0, source)
    converter = importlib.import_module("convert_hf_to_gguf")
    base = importlib.import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    transformers.AutoTokenizer.from_pretrained = own_tokenizer
    transformers.AutoConfig.from_pretrained = unknown_config
    logging.disable(logging.WARNING)
    for family in FAMILIES:
        if family.twin is not None and (not names or family.name in names):
            convert(family, converter)


if __name__ == "__main__":
    main()
