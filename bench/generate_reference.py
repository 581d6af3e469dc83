"""Times `generate` of transformers on the weights of a GGUF file, dequantised to float32, and prints one line of JSON.

The comparison is fair to the reference: all cores, no gradients, no check for a stop token. The warm-up run and the
loading do not count. The caller chooses the attention implementation; the benchmark tries both and keeps the faster.
The prompt is a list of token ids, so that both sides see the same.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
import transformers


def load(gguf: Path, attention: str):
    """The model, dequantised to float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()


def generate(model, ids: torch.Tensor, samples: int, new_tokens: int, temperature: float) -> float:
    """Seconds to sample `samples` completions of exactly `new_tokens` tokens."""
    begin = time.perf_counter()
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=samples,
        max_new_tokens=new_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )
    seconds = time.perf_counter() - begin
    expected = (samples, ids.shape[1] + new_tokens)
    if tuple(output.shape) != expected:
        raise SystemExit(f"generate returned {tuple(output.shape)} instead of {expected}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--prompt-ids", required=True, help="token ids, separated by commas")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = load(arguments.gguf, arguments.attention)
    model.generation_config = transformers.GenerationConfig()
    ids = torch.tensor([[int(token) for token in arguments.prompt_ids.split(",")]])
    with torch.inference_mode():
        generate(model, ids, arguments.samples, min(4, arguments.new_tokens), arguments.temperature)
        seconds = [
            generate(model, ids, arguments.samples, arguments.new_tokens, arguments.temperature)
            for _ in range(arguments.repeats)
        ]
    tokens = arguments.samples * arguments.new_tokens
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / statistics.median(seconds),
                "seconds": seconds,
                "prompt_tokens": ids.shape[1],
                "samples": arguments.samples,
                "new_tokens": arguments.new_tokens,
                "attention": arguments.attention,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
