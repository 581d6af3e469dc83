"""Writes smollm2_weights.json: of every tensor that transformers reads from the GGUF file, the shape, a sum, and a sum
that depends on the order of the elements.

    python smollm2_weights.py SmolLM2-135M-Instruct.Q4_1.gguf      # needs transformers, torch and gguf
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

path = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
golden = {}
for name, tensor in model.state_dict().items():
    if name == "lm_head.weight":
        continue  # tied
    values = tensor.double().reshape(-1)
    weights = torch.arange(len(values), dtype=torch.float64) % 251 + 1
    golden[name] = [list(tensor.shape), values.abs().sum().item(), (values * weights).sum().item()]
Path(__file__).with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")))
