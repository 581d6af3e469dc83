"""Makes the reference figures of this folder with PyTorch: `python make_golden.py [SMOLLM2.gguf]`.

Needs torch, transformers, peft, safetensors, tokenizers, gguf. Everything is 32-bit and on the processor. The tiny models are
random, from fixed seeds; they are committed with what PyTorch makes of them, so that the tests need none of this.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXForSequenceClassification,
    LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification,
)

HERE = Path(__file__).parent
VOCAB = 160
SEQUENCES = [[1, 5, 77, 12, 130, 9, 9, 40, 3, 88, 21, 60, 101, 2, 159, 33, 7, 18], [150], [4, 90]]

LLAMA = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=52, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=96, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1,
)
NEOX = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=96, bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
)
LLAMA3_ROPE = dict(
    rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=24,
)
CAUSAL = {
    "llama": LlamaConfig(**LLAMA, head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                         rope_parameters=LLAMA3_ROPE),
    # Heads that the attention operator cannot rotate itself, 16-bit weights, two shards, tied embeddings.
    "llama-bf16": LlamaConfig(**LLAMA, head_dim=24, tie_word_embeddings=True),
    "neox-parallel": GPTNeoXConfig(**NEOX, use_parallel_residual=True,
                                   rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                                                        partial_rotary_factor=0.25)),
    "neox-sequential": GPTNeoXConfig(**NEOX, use_parallel_residual=False,
                                     rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                                                          partial_rotary_factor=0.5)),
}


def randomise(model, seed, scale=1.0):
    """Weights large enough that every part of the model shows in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(scale * noise * (0.6 if "embed" in name else 1.5 / parameter.shape[1] ** 0.5))


def save_tokenizer(folder):
    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1))


@torch.no_grad()
def expected(model, greedy=None):
    model.eval()
    tensors = {f"ids.{i}": torch.tensor(ids) for i, ids in enumerate(SEQUENCES)}
    for i, ids in enumerate(SEQUENCES):
        logits = model(torch.tensor([ids])).logits[0].float()
        tensors[f"logits.{i}"] = logits.contiguous()
    if greedy:
        for i, ids in enumerate(SEQUENCES):
            out = model.generate(torch.tensor([ids]), max_new_tokens=greedy, do_sample=False, eos_token_id=1, pad_token_id=0)
            tensors[f"greedy.{i}"] = out[0, len(ids):]
    return tensors


def causal_models():
    for seed, (name, config) in enumerate(CAUSAL.items()):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        kind = LlamaForCausalLM if "llama" in name else GPTNeoXForCausalLM
        model = kind(config)
        randomise(model, seed)
        shard = "1GB"
        if name.endswith("bf16"):
            model, shard = model.to(torch.bfloat16), "30KB"
        model.save_pretrained(folder, max_shard_size=shard)
        save_tokenizer(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        # Read back: a model that was cast to 16 bits has lost digits of its rotary frequencies too.
        model = kind.from_pretrained(folder, dtype=torch.float32)
        save_file(expected(model, greedy=24), folder / "expected.safetensors")


def adapters():
    specs = {
        "llama-lora": ("llama", LlamaForCausalLM, TaskType.CAUSAL_LM,
                       dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"])),
        "neox-lora": ("neox-parallel", GPTNeoXForCausalLM, TaskType.CAUSAL_LM,
                      dict(r=2, lora_alpha=8, use_rslora=True, target_modules=["query_key_value", "dense_4h_to_h"])),
        "llama-reward": ("llama", LlamaForSequenceClassification, TaskType.SEQ_CLS,
                         dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"])),
        "neox-reward": ("neox-sequential", GPTNeoXForSequenceClassification, TaskType.SEQ_CLS,
                        dict(r=2, lora_alpha=4, target_modules=["query_key_value", "dense"])),
    }
    for seed, (name, (base, kind, task, settings)) in enumerate(specs.items()):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        extra = dict(num_labels=1, pad_token_id=0) if task == TaskType.SEQ_CLS else {}
        model = kind.from_pretrained(HERE / base, dtype=torch.float32, **extra)
        model = get_peft_model(model, LoraConfig(task_type=task, **settings))
        generator = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for parameter_name, parameter in sorted(model.named_parameters()):
                if "lora_" in parameter_name or "modules_to_save" in parameter_name:
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        model = PeftModel.from_pretrained(kind.from_pretrained(HERE / base, dtype=torch.float32, **extra), folder)
        save_file(expected(model), folder / "expected.safetensors")


PROMPTS = [
    "What is the capital of France?", "Write one sentence about the sea.", "How many legs has a spider?",
    "Name three fruits that are red.", "Why is the sky blue?", "Say hello in Spanish.", "What is 12 plus 30?",
    "Give me a tip for sleeping well.", "Who wrote Hamlet?", "Describe a cat in five words.",
    "How do I boil an egg?", "What does DNA stand for?", "Is the earth flat?", "Name a country in Africa.",
    "Tell me a short joke.", "What is photosynthesis?", "How far away is the moon?", "Translate 'good night' to French.",
    "What should I cook for dinner?", "Finish the sentence: Once upon a time",
]


@torch.no_grad()
def smollm2(path):
    path = Path(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    logits = []
    for text in PROMPTS[:6]:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        values = model(torch.tensor([ids])).logits[0]
        positions = []
        for position in sorted({0, 1, len(ids) // 2, len(ids) - 1}):
            row = values[position]
            chosen = sorted(set(row.topk(16).indices.tolist()) | set(range(position, 49152, 3001)))
            positions.append({"position": position, "tokens": chosen, "logits": [round(float(row[t]), 6) for t in chosen],
                              "log_sum_exp": float(torch.logsumexp(row.double(), 0))})
        logits.append({"ids": ids, "positions": positions})
    greedy = []
    for text in PROMPTS:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        out = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)
        greedy.append({"ids": ids, "tokens": out[0, len(ids):].tolist()})
    (HERE / "smollm2.json").write_text(json.dumps({"logits": logits, "greedy": greedy}))


if __name__ == "__main__":
    causal_models()
    adapters()
    if len(sys.argv) > 1:
        smollm2(sys.argv[1])
