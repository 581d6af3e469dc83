"""The weights of the tiny models: a formula of a tensor's name and an element's index.

`models/tests/support/families.rs` holds the same formula. So no weights are committed: a test writes them. Element `i` (row-major)
of a tensor is `mean + spread * c`, computed in 64 bits and rounded to 32. `c` in [-1, 1) comes from the upper 24 bits of step
`i + 1` of SplitMix64, whose state begins as the 64-bit FNV-1a hash of the tensor's name. A BF16 model rounds that to nearest even.
"""

import numpy as np
import torch
from safetensors.torch import save_file

WEYL, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def name_hash(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def values(name, shape, mean, spread):
    count = int(np.prod(shape))
    state = np.uint64(name_hash(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(WEYL)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX_2)
    state ^= state >> np.uint64(31)
    centred = (state >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return torch.from_numpy((mean + spread * centred).astype(np.float32).reshape(shape))


def write(tensors, dtype, path):
    """Writes rows of `[name, shape, mean, spread]` as a safetensors file; `dtype` is F32 or BF16."""
    kind = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    save_file({row[0]: values(*row).to(kind).contiguous() for row in tensors}, str(path), {"format": "pt"})
