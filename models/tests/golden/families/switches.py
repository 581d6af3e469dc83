"""Features that no edit of config.json leaves out. A switch leaves one out of a loaded model; False: it has none.

They show that the figures depend on the feature; the tests of figures then fail for a forward pass without it.
"""

import sys

import torch


class NoNorm(torch.nn.Module):
    def forward(self, value):
        return value


def parts(model, *endings):
    """The text part's modules whose names end so."""
    named = [(name, module) for name, module in model.named_modules() if "vision" not in name and "projector" not in name]
    return [(name, module) for name, module in named if name.endswith(endings)]


def without_norms(*endings):
    def leave_out(model):
        found = parts(model, *endings)
        for name, _ in found:
            model.set_submodule(name, NoNorm())
        return bool(found)

    return leave_out


def norm_after_attention(model):
    """Elsewhere the norm of that name stands before the MLP."""
    return bool(parts(model, "post_feedforward_layernorm")) and without_norms("post_attention_layernorm")(model)


def changed_weights(change, *endings):
    def leave_out(model):
        found = [module for _, module in parts(model, *endings) if getattr(module, "weight", None) is not None]
        for module in found:
            module.weight.data = change(module.weight.data)
        return bool(found)

    return leave_out


def one_plus_weight(model):
    if not model.config.model_type.startswith("gemma"):
        return False
    return changed_weights(lambda weight: weight - 1, "norm")(model)


def biases(model):
    found = [value for name, value in model.named_parameters() if name.endswith("bias") and "vision" not in name]
    for value in found:
        value.data.zero_()
    return bool(found)


def embedding_scale(model):
    found = [module for _, module in parts(model, "embed_tokens") if hasattr(module, "embed_scale")]
    for module in found:
        module.embed_scale.fill_(1.0)
    return bool(found)


def interleaved_rotary(model):
    """Pairs the first half with the second, as most families do."""
    code = sys.modules[type(model).__module__]
    if model.config.model_type not in ("cohere", "cohere2"):
        return False
    own = code.rotate_half
    code.rotate_half = lambda value: torch.cat((-value.chunk(2, -1)[1], value.chunk(2, -1)[0]), -1)
    [(_, rotary)] = parts(model, "rotary_emb")
    forward = rotary.forward
    rotary.forward = lambda *args, **more: tuple(torch.cat((table[..., ::2],) * 2, -1) for table in forward(*args, **more))
    model.undo = lambda: setattr(code, "rotate_half", own)
    return True


def no_rotary_in_global_layers(model):
    if model.config.model_type != "cohere2":
        return False
    for _, module in parts(model, "self_attn"):
        module.sliding_window = module.sliding_window or model.config.max_position_embeddings
    return True


def swapped_halves(weight):
    return torch.cat(weight.chunk(2, 0)[::-1], 0)


def heads_apart(model):
    """Reads GPT-NeoX's fused rows as all queries, all keys, all values."""
    found = [module for _, module in parts(model, "query_key_value")]
    heads = getattr(model.config, "num_attention_heads", None)
    for module in found:
        for value in (module.weight, module.bias):
            shape = value.shape
            value.data = value.data.reshape(3, heads, -1, *shape[1:]).transpose(0, 1).reshape(shape)
    return bool(found)


def transposed_conv1d(model):
    """Reads the one square weight as [out, in]; the others' shapes would show it."""
    return model.config.model_type == "gpt2" and changed_weights(lambda weight: weight.T.contiguous(), "attn.c_proj")(model)


SWITCHES = {
    "1 + w": one_plus_weight,
    "q and k norms": without_norms("q_norm", "k_norm"),
    "norm after attention": norm_after_attention,
    "norm after the MLP": without_norms("post_feedforward_layernorm"),
    "biases": biases,
    "embedding scale": embedding_scale,
    "learned positions": changed_weights(torch.zeros_like, "wpe"),
    "interleaved rotary": interleaved_rotary,
    "no rotary in global layers": no_rotary_in_global_layers,
    "gate before up": changed_weights(swapped_halves, "gate_up_proj"),
    "fused rows by head": heads_apart,
    "Conv1D": transposed_conv1d,
}
