#!/usr/bin/env python3
"""Trains the same models with TRL and with dissent, and compares losses and rewards. Both sides see the same rows in the same
order and begin with the same adapters.

    python3 tests/parity/parity.py                   # reward models, DPO and SFT: 50 steps each, then rewards by peft
    python3 tests/parity/parity.py --family qwen3    # the same losses of a tiny model of a family, 20 steps each

Creates a virtual environment (requirements.txt beside this file) under `target/parity`, and builds dissent. Needs the small
model that `cargo xtask fetch` downloads. Exits with 1 if a difference exceeds its tolerance. Takes several minutes, so it
runs by hand or nightly.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "parity"
FAMILIES = ROOT / "models" / "tests" / "golden" / "families"

LOSS_TOLERANCE = 1e-3
REWARD_TOLERANCE = 1e-4
# The texts of `reward-eos` are plain. TRL appends the end-of-sequence token, which is also the padding token of this model.
KINDS = ["reward", "reward-eos", "dpo", "sft"]


def own_environment(script: str = __file__) -> None:
    """Restarts a script in a virtual environment with the packages of requirements.txt."""
    if os.environ.get("DISSENT_PARITY_PYTHON") == "here":
        return
    folder = WORK / "venv"
    python = folder / "bin" / "python"
    mark = folder / "installed.txt"
    wanted = (HERE / "requirements.txt").read_text()
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
        mark.write_text(wanted)
    os.environ["DISSENT_PARITY_PYTHON"] = "here"
    os.execv(python, [str(python), script, *sys.argv[1:]])


def run(*command: object) -> str:
    """Runs a command and returns its standard output. Fails if the command fails."""
    print("$", " ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def built() -> Path:
    """Builds the program from this source and returns its path."""
    run("cargo", "build", "--release", "--manifest-path", ROOT / "Cargo.toml")
    return ROOT / "target" / "release" / "dissent"


def rows(count: int, seed: int) -> list[dict]:
    """Returns preferences of several lengths with kind chosen and unkind rejected completions."""
    draw = random.Random(seed)
    things = ["a garden", "my first bicycle", "an old radio", "the harbour", "a sourdough starter", "two cats", "the night sky"]
    asks = ["Tell me about {}.", "Why do people like {}?", "How would you look after {}?", "What is difficult about {}?"]
    kind = ["It is a joy.", "People smile when they see it.", "With a little care it lasts for years.", "You will do well."]
    unkind = ["It is dull.", "Nobody cares.", "It breaks at once.", "You will fail, as always."]

    def answer(sentences: list[str]) -> str:
        return " ".join(draw.choice(sentences) for _ in range(draw.randint(1, 6)))

    def row() -> dict:
        prompt = draw.choice(asks).format(draw.choice(things))
        turn = lambda role, content: [{"role": role, "content": content}]  # noqa: E731
        return {
            "prompt": turn("user", prompt),
            "chosen": turn("assistant", answer(kind)),
            "rejected": turn("assistant", answer(unkind)),
        }

    return [row() for _ in range(count)]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def base_model(layers: int) -> Path:
    """Saves the first layers of the fetched model as a Hugging Face folder, which both sides read."""
    import torch
    import transformers

    folder = WORK / f"base-{layers}"
    if (folder / "model.safetensors").exists():
        return folder
    cache = Path(os.environ.get("DISSENT_CACHE", Path.home() / ".cache" / "dissent")) / "models"
    found = sorted(cache.glob("SmolLM2-135M-Instruct*.gguf"))
    if not found:
        raise SystemExit(f"SmolLM2-135M-Instruct is missing in {cache}: run cargo xtask fetch")
    gguf = found[0]
    load = dict(gguf_file=gguf.name, dtype=torch.float32)
    whole = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **load)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model loaded from a GGUF file cannot be saved directly, so its weights are copied into a new model.
    config = transformers.LlamaConfig(**{
        key: value for key, value in whole.config.to_dict().items() if key != "quantization_config"
    })
    config.num_hidden_layers = layers
    # A classifier scores the last token before the padding, which the end-of-turn token is for this model.
    assert tokenizer.pad_token == tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    model = transformers.LlamaForCausalLM(config)
    wanted = model.state_dict().keys()
    model.load_state_dict({key: value for key, value in whole.state_dict().items() if key in wanted})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def family_model(name: str) -> Path:
    """Writes a tiny model of a family, with a chat template, as a Hugging Face folder."""
    sys.path.insert(0, str(FAMILIES))
    import weights

    folder = WORK / f"family-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(json.loads((FAMILIES / name / "tensors.json").read_text()), "F32", folder / "model.safetensors")
    config = json.loads((FAMILIES / name / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    (folder / "tokenizer.json").write_bytes((FAMILIES / "tokenizer.json").read_bytes())
    tokenizer = json.loads((FAMILIES / "tokenizer_config.json").read_text())
    turn = "[{{ m['role'][0] }}] {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    template = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}[a] {% endif %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "chat_template": template}))
    return folder


def is_reward(kind: str) -> bool:
    return kind.startswith("reward")


def model_class(kind: str):
    import transformers

    return transformers.AutoModelForSequenceClassification if is_reward(kind) else transformers.AutoModelForCausalLM


def load_base(kind: str, base: Path):
    import torch

    options = dict(num_labels=1) if is_reward(kind) else {}
    model = model_class(kind).from_pretrained(base, dtype=torch.float32, attn_implementation="eager", **options)
    if is_reward(kind):
        # A classifier differs from its base only in this head, which the adapter replaces.
        torch.nn.init.zeros_(model.score.weight)
    return model


def first_adapter(kind: str, base: Path) -> Path:
    """Saves an adapter initialised by peft, with which both sides begin."""
    import peft
    import torch

    folder = WORK / f"{kind}-first"
    torch.manual_seed(7)
    reward = is_reward(kind)
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"],
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=["score"] if reward else None,
    )
    model = peft.get_peft_model(load_base(kind, base), config)
    if reward:
        head = model.base_model.model.score.modules_to_save["default"].weight
        torch.nn.init.normal_(head, std=0.02)
    model.save_pretrained(folder)
    return folder


def trainer_of(kind: str, base: Path, adapter: Path, data: list[dict], arguments: argparse.Namespace):
    """Returns TRL's trainer, which keeps the row order of the file, and the list of its losses per step."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    trainers = {
        "reward": (trl.RewardTrainer, trl.RewardConfig),
        "reward-eos": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
    }
    trainer_class, config_class = trainers[kind]
    losses: list[float] = []

    class InOrder(trainer_class):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args, **kwargs):
            out = super().compute_loss(*args, **kwargs)
            losses.append((out[0] if isinstance(out, tuple) else out).item())
            return out

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(load_base(kind, base), adapter, is_trainable=True)
    config = config_class(
        output_dir=str(WORK / f"{kind}-trl"),
        per_device_train_batch_size=arguments.batch_size,
        max_steps=arguments.steps,
        learning_rate=arguments.lr,
        lr_scheduler_type="linear",
        warmup_steps=5,
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_length=arguments.max_length,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        **({"beta": 0.1} if kind == "dpo" else {}),
    )
    trainer = InOrder(model=model, args=config, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer)
    return trainer, losses


def ours(
    kind: str, dissent: Path, base: Path, adapter: Path, data: Path, arguments: argparse.Namespace, options: tuple | list = ()
) -> tuple[list[float], Path]:
    """Runs the same training with dissent. Returns the losses per step and the folder of the adapter."""
    output, log = WORK / f"{kind}-ours", WORK / f"{kind}-ours.jsonl"
    log.unlink(missing_ok=True)
    run(
        dissent, "train", "reward" if is_reward(kind) else kind, "--base", base, "--adapter", adapter, "--data", data, "--output", output, "--overwrite",
        "--steps", arguments.steps, "--batch-size", arguments.batch_size, "--lr", arguments.lr, "--schedule", "linear",
        "--warmup", 5, "--weight-decay", 0.01, "--max-grad-norm", 1.0, "--max-length", arguments.max_length, "--keep-order", "--log", log,
        *(["--beta", 0.1] if kind == "dpo" else []),
        *(["--template", "raw", "--append-eos"] if kind == "reward-eos" else []),
        *options,
    )
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    return [step["loss"] for step in steps if "loss" in step], output


def data_of(kind: str, preferences: list[dict]) -> list[dict]:
    if kind == "reward-eos":
        plain = lambda row, side: row[side][0]["content"]  # noqa: E731
        return [
            {"prompt": plain(row, "prompt") + " ", "chosen": plain(row, "chosen"), "rejected": plain(row, "rejected")}
            for row in preferences
        ]
    if kind != "sft":
        return preferences
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preferences]


def compare_training(
    kind: str, dissent: Path, base: Path, arguments: argparse.Namespace, tolerance: float
) -> tuple[bool, Path]:
    data = data_of(kind, rows(arguments.steps * arguments.batch_size, seed=1))
    adapter = first_adapter(kind, base)
    trainer, theirs = trainer_of(kind, base, adapter, data, arguments)
    trainer.train()
    mine, output = ours(kind, dissent, base, adapter, write(WORK / f"{kind}.jsonl", data), arguments)
    if len(theirs) != arguments.steps or len(mine) != arguments.steps:
        raise SystemExit(f"{kind}: {len(theirs)} steps of TRL, {len(mine)} of dissent, {arguments.steps} expected")
    differences = [abs(x - y) for x, y in zip(theirs, mine)]
    worst = max(range(len(differences)), key=differences.__getitem__)
    fine = differences[worst] <= tolerance
    print(
        f"{kind:6} loss {theirs[0]:.4f} -> {theirs[-1]:.4f}; largest difference {differences[worst]:.2e} at step {worst + 1} "
        f"of {arguments.steps} (at most {tolerance:.0e}): {'ok' if fine else 'TOO FAR APART'}",
        flush=True,
    )
    return fine, output


def compare_rewards(kind: str, dissent: Path, base: Path, adapter: Path) -> bool:
    """Compares the rewards of dissent and of peft with the adapter that dissent trained, on texts as it was trained."""
    import peft
    import torch
    import transformers

    held_out = rows(24, seed=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    template = "chat" if kind == "reward" else "{prompt} {completion}" + tokenizer.eos_token
    lines = [
        {
            "prompt_id": f"p{number}",
            "prompt": row["prompt"][0]["content"],
            "completions": [{"text": row[side][0]["content"]} for side in ("chosen", "rejected")],
        }
        for number, row in enumerate(held_out)
    ]
    scored = WORK / "scored.jsonl"
    run(
        dissent, "score", "--reward", base, "--reward-adapter", adapter, "--template", template,
        "--input", write(WORK / "held-out.jsonl", lines), "--output", scored,
    )
    mine = [c["reward"] for line in scored.read_text().splitlines() for c in json.loads(line)["completions"]]
    model = peft.PeftModel.from_pretrained(load_base(kind, base), adapter).eval()
    theirs = []
    for row in held_out:
        for side in ("chosen", "rejected"):
            if kind == "reward":
                text = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
            else:
                text = template.format(prompt=row["prompt"][0]["content"], completion=row[side][0]["content"])
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                theirs.append(model(**ids).logits.item())
    worst = max(abs(x - y) for x, y in zip(theirs, mine))
    fine = worst <= REWARD_TOLERANCE
    print(f"peft on our adapter: {len(mine)} rewards, largest difference {worst:.2e} (at most {REWARD_TOLERANCE:.0e}): "
          f"{'ok' if fine else 'TOO FAR APART'}", flush=True)
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--family", help="a folder of models/tests/golden/families, in place of the small model")
    parser.add_argument("--steps", type=int, help="default: 50; of a family 20")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--max-length", type=int, help="default: 512; of a family 250")
    parser.add_argument("--layers", type=int, default=6, help="number of layers of the small model to train")
    parser.add_argument("--dissent", type=Path, help="the program; built in release mode if omitted")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    own_environment()
    dissent = arguments.dissent or built()
    arguments.steps = arguments.steps or (20 if arguments.family else 50)
    arguments.max_length = arguments.max_length or (250 if arguments.family else 512)
    base = family_model(arguments.family) if arguments.family else base_model(arguments.layers)
    # The losses of a tiny model are held to what two programs with 32-bit floats can agree on.
    tolerance = 2e-5 if arguments.family else LOSS_TOLERANCE
    fine = []
    for kind in arguments.kinds:
        trained, output = compare_training(kind, dissent, base, arguments, tolerance)
        fine.append(trained)
        if is_reward(kind) and not arguments.family:
            fine.append(compare_rewards(kind, dissent, base, output))
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
