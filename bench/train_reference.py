"""Times training steps of PyTorch and PEFT on the float32 weights of a GGUF file, and prints one line of JSON.

A LoRA (r 8, alpha 32, on query and value projections) learns preferences between sequences of the same length. The
Bradley-Terry loss acts on a score head that is trained in full, with gradient clipping and AdamW. The comparison is
fair to the reference: no padding and no attention mask. The warm-up step and the loading do not count. The caller
chooses the attention implementation.
"""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path

import peft
import torch
import transformers


def load(gguf: Path, attention: str):
    """The model with a score head, dequantised to float32, and its LoRA."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, attn_implementation=attention
    )
    model.config.use_cache = False
    settings = peft.LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    model = peft.get_peft_model(model, settings)
    score = torch.nn.Linear(model.config.hidden_size, 1, bias=False)
    torch.nn.init.normal_(score.weight, std=0.02)
    return model.train(), score


def step(model, score, optimizer, parameters, ids: torch.Tensor) -> float:
    """One optimiser step on a batch whose first half is preferred; the loss."""
    optimizer.zero_grad()
    hidden = model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
    scores = score(hidden[:, -1])[:, 0]
    pairs = len(ids) // 2
    loss = -torch.nn.functional.logsigmoid(scores[:pairs] - scores[pairs:]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, score = load(arguments.gguf, arguments.attention)
    parameters = [parameter for parameter in [*model.parameters(), *score.parameters()] if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    # The same ids as in models/examples/train_step_bench.rs.
    ids = torch.tensor(
        [
            [(7 + 7919 * sequence + 104729 * token) % 49152 for token in range(arguments.tokens)]
            for sequence in range(arguments.sequences)
        ]
    )
    losses, milliseconds = [], []
    for index in range(arguments.repeats + 1):
        begin = time.perf_counter()
        losses.append(step(model, score, optimizer, parameters, ids))
        if index > 0:
            milliseconds.append((time.perf_counter() - begin) * 1e3)
    print(
        json.dumps(
            {
                "sequences": arguments.sequences,
                "tokens": arguments.tokens,
                "milliseconds": milliseconds,
                "milliseconds_median": statistics.median(milliseconds),
                "losses": losses,
                "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "attention": arguments.attention,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "peft": peft.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
