"""Makes `reward_heads.json` with transformers, TRL and PyTorch: `python reward_heads.py`.

The rewards of the tiny models of this folder with heads of every supported form, the losses of TRL's RewardTrainer on a model whose
padding token also ends texts, and implicit rewards. Needs torch, transformers, peft, trl, datasets. The numbers of a head are sines, so
that the tests make the same heads.
"""

import json
import math
import tempfile
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl

HERE = Path(__file__).parent
SEQUENCES = [[0, 5, 77, 12, 130, 1], [9, 1, 40, 3, 1, 1], [88, 21, 60], [1, 1, 1], [1], [4, 2, 90, 2, 2, 1, 2]]
WORDS = [("w5 w9 w12", "w30 w31", "w40"), ("w7", "w8 w11 w13", "w41 w42 w43 w44"), ("w90 w91", "w3", "w6 w6")]


def sines(rows, columns, start):
    return torch.tensor([[0.3 * math.sin(0.7 * (row * columns + column) + start) for column in range(columns)] for row in range(rows)])


def bias(size, start):
    return torch.tensor([math.sin(start + place) for place in range(size)])


@torch.no_grad()
def classifier(base, labels, pad, start=1.0):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(HERE / base, num_labels=labels).eval()
    model.config.pad_token_id = pad
    model.score.weight.copy_(sines(labels, model.config.hidden_size, start))
    return [model(torch.tensor([ids])).logits[0].tolist() for ids in SEQUENCES]


def last_hidden(base):
    model = transformers.AutoModelForCausalLM.from_pretrained(HERE / base).eval()
    with torch.no_grad():
        return [model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1] for ids in SEQUENCES]


@torch.no_grad()
def headed(head):
    return [head(state).tolist() for state in last_hidden("llama")]


def linear(inputs, outputs, start, has_bias):
    layer = torch.nn.Linear(inputs, outputs, bias=has_bias)
    with torch.no_grad():
        layer.weight.copy_(sines(outputs, inputs, start))
        if has_bias:
            layer.bias.copy_(bias(outputs, start))
    return layer


def mlp(sizes):
    """GRM and Qwen2ForRewardModel: linear layers with biases, and rectifiers between them."""
    layers = []
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        layers += [linear(inputs, outputs, 2.0 + index, True), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def rewards():
    result = {f"{base} pad {pad}": classifier(base, 1, pad) for base in ("llama", "neox-sequential") for pad in (None, 1, 2, 400)}
    result["llama 3 labels pad 1"] = classifier("llama", 3, 1)
    result["v_head.summary"] = headed(linear(32, 1, 1.0, True))
    result["value_head"] = headed(linear(32, 1, 1.0, False))
    result["v_head.summary mlp"] = headed(mlp([32, 24, 20, 1]))
    result["score mlp"] = headed(mlp([32, 32, 1]))
    return result


def trl_losses():
    """Three steps of TRL on texts to which it appends the end-of-sequence token, which is also the padding token."""
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(HERE / "llama", num_labels=1)
        with torch.no_grad():
            model.score.weight.copy_(sines(1, 32, 1.0))
        tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "llama")
        rows = [{"prompt": prompt + " ", "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in WORDS]
        losses, seen = [], []

        class InOrder(trl.RewardTrainer):
            def _get_train_sampler(self, *args, **kwargs):
                return torch.utils.data.SequentialSampler(self.train_dataset)

            def compute_loss(self, model, inputs, *args, **kwargs):
                seen.append([ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"])])
                out = super().compute_loss(model, inputs, *args, **kwargs)
                losses.append((out[0] if isinstance(out, tuple) else out).item())
                return out

        config = trl.RewardConfig(
            output_dir=folder, per_device_train_batch_size=3, max_steps=3, learning_rate=1e-3, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=1.0, save_strategy="no", report_to=[], bf16=False, use_cpu=True,
            gradient_checkpointing=False, disable_dropout=True,
        )
        InOrder(model=model, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer).train()
        assert model.config.pad_token_id == 1
        return {"sequences": seen[0], "losses": losses}


@torch.no_grad()
def implicit():
    """β (log π − log π_ref) of the adapter `llama-lora` over its base, β = 0.25, for prompts with completions."""
    base = transformers.AutoModelForCausalLM.from_pretrained(HERE / "llama").eval()

    def logprobs(model):
        sums = []
        for prompt, completion in IMPLICIT:
            log = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
            sums.append(sum(log[len(prompt) - 1 + place, token].item() for place, token in enumerate(completion)))
        return sums

    reference = logprobs(base)
    policy = logprobs(peft.PeftModel.from_pretrained(base, HERE / "llama-lora").eval())
    return [0.25 * (ours - theirs) for ours, theirs in zip(policy, reference)]


IMPLICIT = [([5, 9, 12], [30, 31, 1]), ([5, 9, 12], [40, 1]), ([7], [8, 11, 13, 1])]

if __name__ == "__main__":
    golden = {"sequences": SEQUENCES, "rewards": rewards(), "training": trl_losses(), "implicit": implicit()}
    text = json.dumps(golden, indent=1)
    (HERE / "reward_heads.json").write_text(text + "\n")
