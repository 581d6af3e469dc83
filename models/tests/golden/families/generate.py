"""Makes this folder's reference figures with transformers: `python generate.py [NAME …]`. requirements.txt lists what it needs.

Each family gets a folder: config.json as transformers writes it, tensors.json (rows of `[name, shape, mean, spread]` for weights.py),
and expected.json. Attention is eager, on the processor. Figures are computed in 64 bits from the stored weights: transformers' own
steps to 32 bits are lifted to 64. The generator refuses a family whose figures in 32 bits differ by more than 1e-5.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from families import FAMILIES
from switches import SWITCHES
from weights import values, write

HERE = Path(__file__).parent
POSITIONS = [[0, 6, 7, 8, 9, 19, 20, 21, 27, 33, 39], [0, 8, 9, 16]]
PREFILL, STARTS = 20, [8, 5]
ROWS = [values(f"row {row}", [length], 47.5, 44.5).long().tolist() for row, length in enumerate([40, 17])]
LORA = dict(r=2, lora_alpha=4)
HEADS = ("lm_head.weight", "embed_out.weight")


class Wide(TorchFunctionMode):
    """Computes in 64 bits where the model's code asks for 32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            return args[0].double()
        wide = lambda value: torch.float64 if value is torch.float32 else value
        return function(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def number(value):
    return float(f"{float(value):.9g}")


def numbers(tensor):
    return [number(value) for value in tensor.flatten().tolist()] if tensor.dim() < 2 else [numbers(row) for row in tensor]


def edited(config, edit):
    config = json.loads(json.dumps(config))
    for pointer in edit["remove"]:
        del config[pointer[1:]]
    for pointer, value in edit["set"].items():
        *path, last = pointer[1:].split("/")
        place = config
        for key in path:
            place = place[key]
        place[last] = value
    return config


def rule(family, name, shape):
    """The mean and the spread of a tensor's values."""
    short = name.rsplit(".", 2)[-2] if "." in name else name
    if name.endswith("bias"):
        return 0.0, 0.2
    if "norm" in short or short.startswith("ln_") or short == "layernorm":
        return (0.0 if family.name.startswith("gemma") else 1.0), 0.35
    if short in ("embed_tokens", "wte", "embed_in"):
        return 0.0, 0.4
    if short == "wpe":
        return 0.0, 0.3
    inputs = shape[0] if family.model.startswith("GPT2") else shape[-1]
    scale = 1.0
    if short in ("q_proj", "k_proj", "qkv_proj", "c_attn", "query_key_value"):
        scale = family.qk
    elif short in ("gate_proj", "c_fc", "dense_h_to_4h") and family.name.startswith(("gemma", "gpt", "starcoder2")):
        scale = 3.0  # Far enough from 0 that the two forms of GELU differ.
    elif name.endswith("mlp.c_proj.weight"):
        scale = 2.0
    return 0.0, round(scale * inputs**-0.5, 3)


def stored_names(family, folder):
    """What transformers writes for this configuration: config.json, and the tensors' names and shapes."""
    kind = getattr(transformers, family.model)
    kind(kind.config_class(**family.settings)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version")
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    if family.bare:
        shapes = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    for old, new in family.rename:
        shapes = {new + name.removeprefix(old) if name.startswith(old) else name: shape for name, shape in shapes.items()}
    if family.buffers:
        for layer in range(config["n_layer"]):
            shapes[f"h.{layer}.attn.bias"] = [1, 1, config["n_positions"], config["n_positions"]]
            shapes[f"h.{layer}.attn.masked_bias"] = []
    return config, [[name, list(shape), *rule(family, name, shape)] for name, shape in sorted(shapes.items())]


class Model:
    """A configuration with its tensors, loaded by transformers."""

    def __init__(self, kind, config, tensors, dtype, wide=True):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config))
            write(tensors, dtype, Path(folder) / "model.safetensors")
            model, report = kind.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
        assert not report["missing_keys"] and not report["mismatched_keys"], report
        self.model = (model.double() if wide else model).eval()
        self.wide = wide

    def __call__(self, ids, **more):
        if not self.wide:
            return self.model(torch.tensor([ids]), **more)
        with Wide():
            return self.model(torch.tensor([ids]), **more)

    @torch.no_grad()
    def logits(self, ids):
        return self(ids).logits[0]

    @torch.no_grad()
    def decoded(self, ids):
        """The logits of a prefill and of single steps with a cache."""
        first = self(ids[:PREFILL], use_cache=True)
        parts, cache = [first.logits[0]], first.past_key_values
        for token in ids[PREFILL:]:
            step = self([token], past_key_values=cache, use_cache=True)
            parts.append(step.logits[0])
            cache = step.past_key_values
        return torch.cat(parts)


def chosen(model):
    return [model.logits(ids)[places] for ids, places in zip(ROWS, POSITIONS)]


def distance(some, others):
    return max(float((one - other).abs().max()) for one, other in zip(some, others))


def classifier(family, kind, config, tensors):
    """Rewards of both rows, by the class of transformers, or by its general one where a family has none."""
    theirs = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(kind.config_class, None)
    if theirs is None:
        base = next(base for base in kind.__mro__ if base.__name__.endswith("PreTrainedModel"))
        own = type(family.model.replace("CausalLM", "SequenceClassification"), (GenericForSequenceClassification, base), {})
    name = (theirs or own).__name__
    edit = dict(set={"/architectures": [name], "/num_labels": 1}, remove=[])
    width = family.settings.get("hidden_size") or family.settings.get("n_embd") or family.settings["text_config"]["hidden_size"]
    score = ["score.weight", [1, width], 0.0, 0.5]
    without = [row[0] for row in tensors if row[0] in HEADS]
    kept = [row for row in tensors if row[0] not in without] + [score]
    settings = edited(config, edit)
    settings.pop("num_labels")
    settings["id2label"], settings["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    edit = dict(set={f"/{key}": settings[key] for key in ("architectures", "id2label", "label2id")}, remove=[])
    model = Model(theirs or own, settings, kept, family.dtype)
    with torch.no_grad():
        rewards = [number(model(ids).logits[0, 0]) for ids in ROWS]
    return {
        "class": name,
        "in_transformers": theirs is not None,
        "edit": edit,
        "score": score,
        "without": without,
        "rewards": rewards,
    }


def lora(family, kind, config, tensors):
    """Gradients of the mean negative log-likelihood of both rows' completions, with respect to every A and B."""
    model = Model(kind, config, tensors, family.dtype)
    adapted = get_peft_model(
        model.model,
        LoraConfig(target_modules=family.modules or list(family.targets), fan_in_fan_out="GPT2" in family.model, **LORA),
        autocast_adapter_dtype=False,
    ).double()
    parameters = {
        name.replace(".default.", "."): value for name, value in sorted(adapted.named_parameters()) if value.requires_grad
    }
    rows = [[name, list(value.shape), 0.0, 0.3] for name, value in parameters.items()]
    with torch.no_grad():
        for row in rows:
            parameters[row[0]].copy_(values(*row))
    model.model = adapted
    logprobs = []
    for ids, start in zip(ROWS, STARTS):
        scores = torch.log_softmax(model(ids).logits[0, start - 1 : -1], -1)
        logprobs.append(scores.gather(1, torch.tensor(ids[start:])[:, None])[:, 0])
    loss = -torch.cat(logprobs).mean()
    loss.backward()
    return dict(
        r=LORA["r"],
        alpha=LORA["lora_alpha"],
        targets=family.targets,
        target_modules=family.modules or family.targets,
        completion_starts=STARTS,
        tensors=rows,
        loss=number(loss.detach()),
        logits=numbers(model.logits(ROWS[0])[-1]),
        gradients={name: numbers(value.grad.flatten()) for name, value in parameters.items()},
    )


def left_out(load, figures):
    """How far each feature that the model has moves the figures when its switch leaves it out."""
    moves = []
    for name, switch in SWITCHES.items():
        model = load()
        if switch(model.model):
            moves.append(dict(name=name, moves_by=float(f"{distance(chosen(model), figures):.3g}")))
            getattr(model.model, "undo", lambda: None)()
    return moves


def make(family):
    kind = getattr(transformers, family.model)
    with tempfile.TemporaryDirectory() as folder:
        config, tensors = stored_names(family, Path(folder))
    model = Model(kind, config, tensors, family.dtype)
    figures = chosen(model)
    narrow = distance(chosen(Model(kind, config, tensors, family.dtype, wide=False)), figures)
    rope = config.get("rope_parameters") or {}
    longrope = rope.get("rope_type") == "longrope"
    steps = 0.0 if longrope else distance([model.decoded(ROWS[0])[POSITIONS[0]]], figures[:1])
    assert narrow < 1e-5 and steps < 1e-9, (family.name, narrow, steps)
    expected = dict(family=family.name, dtype=family.dtype, note=family.note, prefill=PREFILL)
    expected["rows"] = [
        dict(ids=ids, positions=places, logits=numbers(rows)) for ids, places, rows in zip(ROWS, POSITIONS, figures)
    ]
    trained = config
    if longrope:
        trained = edited(config, dict(set={"/rope_parameters/short_factor": rope["long_factor"]}, remove=[]))
        expected["long"] = numbers(Model(kind, trained, tensors, family.dtype).logits(ROWS[1])[POSITIONS[1]])
    if not family.bare:
        expected["classifier"] = classifier(family, kind, config, tensors)
    expected["lora"] = lora(family, kind, trained, tensors)
    moved = lambda edit: distance(chosen(Model(kind, edited(config, edit), tensors, family.dtype)), figures)
    expected["features"] = [dict(name=name, edit=edit, moves_by=float(f"{moved(edit):.3g}")) for name, edit in family.edits]
    if family.twin:
        twin = chosen(Model(kind, edited(config, family.twin), tensors, family.dtype))
        if distance(twin, figures) > 1e-6:
            expected["gguf"] = [numbers(rows) for rows in twin]
    expected["left_out"] = left_out(lambda: Model(kind, config, tensors, family.dtype), figures)
    expected["same"] = [dict(name=name, edit=edit) for name, edit in family.same]
    for name, edit in family.same:
        assert moved(edit) < 1e-6, (family.name, name, moved(edit))
    moves = expected["features"] + expected["left_out"]
    assert all(feature["moves_by"] >= 3e-4 for feature in moves), (family.name, moves)
    save(family.name, config, tensors, expected)
    size = max(float(rows.abs().max()) for rows in figures)
    print(
        f"{family.name:20} parameters {sum(torch.Size(row[1]).numel() for row in tensors):6} 32 bits {narrow:.1e} largest {size:.2f}",
        ", ".join(f"{feature['name']} {feature['moves_by']}" for feature in moves),
        flush=True,
    )


def save(name, config, tensors, expected):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    compact = lambda value: json.dumps(value, separators=(",", ":"))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tensors.json").write_text("[\n" + ",\n".join(compact(row) for row in tensors) + "\n]\n")
    (folder / "expected.json").write_text(
        "{\n" + ",\n".join(f'"{key}":{compact(value)}' for key, value in expected.items()) + "\n}\n"
    )


def save_tokenizer():
    """A byte-level BPE of 96 tokens: three special ones, 79 characters, 14 merges."""
    characters = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in "#$%&@[]\\^_`{|}~"] + ["Ġ"]
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("a", "n"),
        ("Ġ", "a"),
        ("e", "r"),
        ("o", "n"),
        ("r", "e"),
        ("an", "d"),
        ("Ġ", "and"),
        ("in", "g"),
        ("o", "r"),
        ("e", "s"),
        ("Ġ", "w"),
        ("e", "n"),
    ]
    tokens = ["<s>", "</s>", "<pad>", *characters, *("".join(pair) for pair in merges)]
    tokens = tokens[:96]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    assert len(vocabulary) == 96
    tokenizer = Tokenizer(models.BPE(vocabulary, [pair for pair in merges if "".join(pair) in vocabulary]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:3])
    tokenizer.save(str(HERE / "tokenizer.json"))
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", tokenizer_class="PreTrainedTokenizerFast")
    (HERE / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    save_tokenizer()
    for family in FAMILIES:
        if len(sys.argv) < 2 or family.name in sys.argv[1:]:
            make(family)


if __name__ == "__main__":
    main()
