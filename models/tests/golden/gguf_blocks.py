"""Writes gguf_blocks.json: blocks of every supported GGUF element type, and their floats by the gguf package.

    python gguf_blocks.py        # needs numpy and gguf
"""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K",
         "IQ4_NL", "IQ4_XS"]
# Where the half-precision scales of a block lie: random ones would be mostly infinities and extremes.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0]}

rng = np.random.default_rng(0)
golden = {}
for name in KINDS:
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = 2 if elements > 1 else 64
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    if elements == 1:
        values = rng.normal(size=blocks).astype(np.float32)
        raw = (values.view(np.uint32) >> 16).astype(np.uint16) if name == "BF16" else values.astype(
            np.float16 if name == "F16" else np.float32)
        raw = raw.view(np.uint8).reshape(blocks, size)
    for offset in SCALES.get(name, []):
        scales = rng.normal(size=blocks).astype(np.float16).view(np.uint8).reshape(blocks, 2)
        raw[:, offset:offset + 2] = scales
    if elements == 1 and name != "BF16":
        floats = raw.reshape(-1).view(np.float16 if name == "F16" else np.float32).astype(np.float32)
    else:
        floats = dequantize(raw.reshape(1, -1), kind).reshape(-1)
    golden[name] = {
        "code": int(kind),
        "bytes": raw.tobytes().hex(),
        "float_bits": np.ascontiguousarray(floats, dtype=np.float32).view(np.uint32).tolist(),
    }
Path(__file__).with_suffix(".json").write_text(json.dumps(golden))
