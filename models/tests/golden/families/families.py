"""Configurations of the tiny models, one per family or variant, with the edits that leave out one feature each.

Sizes are as small as each feature permits. Scalars lie far from 1 and windows below the sequences' length, so that a forward pass
that ignores one of them is seen.
"""

from dataclasses import dataclass, fields

BASE = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
    tie_word_embeddings=False,
)
GPT2 = dict(
    vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_ctx=64, bos_token_id=0, eos_token_id=1, pad_token_id=2
)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


@dataclass
class Family:
    """One tiny model.

    `twin` is what the configuration of its GGUF file changes: what llama.cpp's format cannot say. None without such a file.
    `edits` are pairs of a name and a change of config.json that leaves out that feature; `same` are other spellings of it.
    `qk` scales the weights of queries and keys. `targets` are LoRA's modules, `modules` what PEFT is given instead.
    `bare` and `rename` change the tensors' names, `buffers` adds those of older files.
    """

    name: str
    model: str
    settings: dict
    dtype: str = "BF16"
    twin: dict | None = None
    edits: tuple = ()
    same: tuple = ()
    qk: float = 2.0
    targets: tuple = ("q_proj", "v_proj")
    modules: str | None = None
    bare: bool = False
    buffers: bool = False
    rename: tuple = ()
    note: str | None = None


def family(name, model, *, base=BASE, without=(), **given):
    """A family of the base's settings and those given; what `Family` names is an option of it."""
    options = {field.name for field in fields(Family)} & given.keys()
    settings = {**base, **{key: value for key, value in given.items() if key not in options}}
    kept = {key: value for key, value in settings.items() if key not in without}
    return Family(name, model, kept, **{key: given[key] for key in options})


def change(remove=(), **pointers):
    """A change of config.json: JSON pointers to set (`a__b` is `/a/b`) and to remove."""
    return dict(
        set={"/" + key.replace("__", "/"): value for key, value in pointers.items()}, remove=["/" + key for key in remove]
    )


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
SHORT, LONG = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
GEMMA3_ROPES = dict(full_attention=rope("linear", 100000.0, factor=8.0), sliding_attention=rope("default", 1000.0))
GEMMA3 = dict(
    head_dim=16,
    num_attention_heads=2,
    num_key_value_heads=1,
    sliding_window=8,
    tie_word_embeddings=True,
    hidden_activation="gelu_pytorch_tanh",
    rope_parameters=GEMMA3_ROPES,
)
GEMMA3_OLD = dict(
    remove=["rope_parameters"],
    rope_theta=100000.0,
    rope_local_base_freq=1000.0,
    rope_scaling=dict(rope_type="linear", factor=8.0),
)
GEMMA3_WHOLE = dict(
    text_config=dict(
        {k: v for k, v in BASE.items() if "token_id" not in k},
        **GEMMA3,
        num_hidden_layers=3,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    vision_config=dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    ),
    mm_tokens_per_image=4,
    image_token_id=95,
    boi_token_index=93,
    eoi_token_index=94,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)
CAPS = dict(query_pre_attn_scalar=48, attn_logit_softcapping=2.0, final_logit_softcapping=1.5)

# PEFT's names would reach the vision part too.
TEXT_ONLY = r".*language_model.*\.(q|v)_proj"

FAMILIES = [
    family(
        "llama",
        "LlamaForCausalLM",
        twin=change(),
        tie_word_embeddings=True,
        rope_parameters=rope("llama3", 10000.0, **LLAMA3),
        edits=[
            ("llama3 rope", change(rope_parameters__rope_type="default")),
            ("rope factor", change(rope_parameters__factor=2.0)),
            ("theta", change(rope_parameters__rope_theta=500000.0)),
            ("epsilon", change(rms_norm_eps=0.02)),
        ],
        same=[("version 4", change(["rope_parameters"], rope_theta=10000.0, rope_scaling=dict(rope_type="llama3", **LLAMA3)))],
    ),
    family(
        "qwen2",
        "Qwen2ForCausalLM",
        twin=change(["layer_types"], use_sliding_window=False),
        rope_parameters=rope(theta=1e6),
        sliding_window=8,
        use_sliding_window=True,
        max_window_layers=1,
        layer_types=["full_attention", "sliding_attention"],
        edits=[
            ("window", change(layer_types=["full_attention"] * 2)),
            ("window + 1", change(sliding_window=9)),
            ("window everywhere", change(layer_types=["sliding_attention"] * 2)),
            ("theta", change(rope_parameters__rope_theta=1e4)),
        ],
        same=[("version 4", change(["rope_parameters", "layer_types"], rope_theta=1e6))],
    ),
    family(
        "qwen2_yarn",
        "Qwen2ForCausalLM",
        twin=change(),
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters=rope("yarn", 100.0, factor=4.0, original_max_position_embeddings=24),
        max_position_embeddings=96,
        edits=[
            ("yarn", change(rope_parameters__rope_type="default")),
            ("yarn factor", change(rope_parameters__factor=2.0)),
            ("attention factor", change(rope_parameters__attention_factor=1.0)),
            ("original context", change(rope_parameters__original_max_position_embeddings=64)),
        ],
        same=[
            (
                "version 4",
                change(
                    ["rope_parameters"],
                    rope_theta=100.0,
                    rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=24),
                ),
            )
        ],
    ),
    family(
        "qwen3",
        "Qwen3ForCausalLM",
        twin=change(),
        head_dim=16,
        rope_parameters=rope(theta=1e6),
        edits=[("theta", change(rope_parameters__rope_theta=1e4)), ("epsilon", change(rms_norm_eps=0.02))],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e6))],
    ),
    family(
        "mistral",
        "MistralForCausalLM",
        twin=change(sliding_window=None),
        sliding_window=8,
        head_dim=16,
        num_attention_heads=3,
        num_key_value_heads=1,
        rope_parameters=rope(theta=1e4),
        edits=[
            ("window", change(sliding_window=None)),
            ("window + 1", change(sliding_window=9)),
            ("theta", change(rope_parameters__rope_theta=1e6)),
        ],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4))],
    ),
    family(
        "ministral",
        "MinistralForCausalLM",
        dtype="F32",
        sliding_window=8,
        head_dim=16,
        num_hidden_layers=3,
        rope_parameters=rope(theta=1e4),
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        edits=[
            ("window", change(layer_types=["full_attention"] * 3)),
            ("window + 1", change(sliding_window=9)),
            ("window everywhere", change(layer_types=["sliding_attention"] * 3)),
        ],
    ),
    family(
        "gemma",
        "GemmaForCausalLM",
        twin=change(),
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        hidden_act="gelu_pytorch_tanh",
        rope_parameters=rope(),
        edits=[("activation", change(hidden_act="silu")), ("theta", change(rope_parameters__rope_theta=1e6))],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4)), ("gelu means tanh", change(hidden_act="gelu"))],
    ),
    family(
        "gemma2",
        "Gemma2ForCausalLM",
        twin=change(query_pre_attn_scalar=16),
        qk=5.0,
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=3,
        sliding_window=8,
        tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh",
        rope_parameters=rope(),
        **CAPS,
        edits=[
            ("window", change(layer_types=["full_attention"] * 3)),
            ("window + 1", change(sliding_window=9)),
            ("window everywhere", change(layer_types=["sliding_attention"] * 3)),
            ("softcap", change(attn_logit_softcapping=None)),
            ("final softcap", change(final_logit_softcapping=None)),
            ("query scalar", change(query_pre_attn_scalar=16)),
            ("activation", change(hidden_activation="gelu")),
        ],
        same=[("version 4", change(["rope_parameters", "layer_types"], rope_theta=1e4))],
    ),
    family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        twin=change(query_pre_attn_scalar=16),
        **GEMMA3,
        num_hidden_layers=6,
        query_pre_attn_scalar=48,
        edits=[
            ("window", change(layer_types=["full_attention"] * 6)),
            ("window + 1", change(sliding_window=9)),
            ("window everywhere", change(layer_types=["sliding_attention"] * 6)),
            ("query scalar", change(query_pre_attn_scalar=16)),
            ("activation", change(hidden_activation="gelu")),
            ("second rope", change(rope_parameters__sliding_attention=GEMMA3_ROPES["full_attention"])),
            ("linear factor", change(rope_parameters__full_attention__factor=1.0)),
        ],
        same=[
            (
                "version 4",
                change(
                    ["layer_types", *GEMMA3_OLD["remove"]],
                    sliding_window_pattern=6,
                    **{k: v for k, v in GEMMA3_OLD.items() if k != "remove"},
                ),
            )
        ],
    ),
    family(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        base={},
        modules=TEXT_ONLY,
        **GEMMA3_WHOLE,
        edits=[
            ("window", change(text_config__layer_types=["full_attention"] * 3)),
            ("window + 1", change(text_config__sliding_window=9)),
            ("second rope", change(text_config__rope_parameters__sliding_attention=GEMMA3_ROPES["full_attention"])),
            ("query scalar", change(text_config__query_pre_attn_scalar=16)),
        ],
        note="Text part of a multimodal model: the tensors of vision_tower and multi_modal_projector are to be skipped.",
    ),
    family(
        "gemma3_renamed",
        "Gemma3ForConditionalGeneration",
        dtype="F32",
        base={},
        modules=TEXT_ONLY,
        rename=[
            ("language_model.model.", "model.language_model."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ],
        **GEMMA3_WHOLE,
        note="As `gemma3`, with the tensors' other names.",
    ),
    family(
        "phi3",
        "Phi3ForCausalLM",
        twin=change(),
        sliding_window=8,
        rope_parameters=rope(),
        targets=("qkv_proj",),
        edits=[("window", change(sliding_window=None)), ("window + 1", change(sliding_window=9))],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4, rope_scaling=None))],
    ),
    family(
        "phi4_mini",
        "Phi3ForCausalLM",
        twin=change(),
        num_attention_heads=2,
        num_key_value_heads=1,
        original_max_position_embeddings=24,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        targets=("qkv_proj",),
        rope_parameters=rope(
            "longrope", partial_rotary_factor=0.75, short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=24
        ),
        edits=[
            ("longrope", change(rope_parameters__rope_type="default")),
            ("long factors", change(rope_parameters__long_factor=SHORT)),
            ("short factors", change(rope_parameters__short_factor=LONG)),
            ("attention factor", change(rope_parameters__attention_factor=1.0)),
        ],
        same=[
            (
                "version 4",
                change(
                    ["rope_parameters"],
                    rope_theta=1e4,
                    partial_rotary_factor=0.75,
                    rope_scaling=dict(type="longrope", short_factor=SHORT, long_factor=LONG),
                ),
            )
        ],
        note="Row 0 is longer than the original context and takes the long factors, row 1 the short ones. `long` holds the figures of "
        "row 1 with long factors, as a session with a longer limit computes it. LoRA gradients take long factors for both rows.",
    ),
    family(
        "olmo2",
        "Olmo2ForCausalLM",
        twin=change(),
        rope_parameters=rope(),
        edits=[("epsilon", change(rms_norm_eps=0.02))],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4))],
    ),
    family(
        "olmo3",
        "Olmo3ForCausalLM",
        twin=change(),
        sliding_window=8,
        num_hidden_layers=3,
        rope_parameters=rope(),
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        edits=[
            ("window", change(layer_types=["full_attention"] * 3)),
            ("window + 1", change(sliding_window=9)),
            ("window everywhere", change(layer_types=["sliding_attention"] * 3)),
        ],
    ),
    family(
        "smollm3",
        "SmolLM3ForCausalLM",
        twin=change(),
        num_hidden_layers=4,
        tie_word_embeddings=True,
        rope_parameters=rope(theta=2e4),
        edits=[("NoPE", change(no_rope_layers=[1, 1, 1, 1]))],
        same=[("version 4", change(["rope_parameters"], rope_theta=2e4)), ("interval", change(["no_rope_layers"]))],
    ),
    family(
        "smollm3_varied",
        "SmolLM3ForCausalLM",
        dtype="F32",
        num_hidden_layers=3,
        rope_parameters=rope(theta=2e4),
        no_rope_layers=[0, 1, 0],
        no_rope_layer_interval=2,
        edits=[("NoPE", change(no_rope_layers=[1, 1, 1])), ("NoPE of the interval", change(["no_rope_layers"]))],
    ),
    family(
        "granite",
        "GraniteForCausalLM",
        twin=change(),
        embedding_multiplier=6.0,
        residual_multiplier=0.22,
        attention_multiplier=0.8,
        logits_scaling=4.0,
        tie_word_embeddings=True,
        rope_parameters=rope(),
        edits=[
            ("embedding multiplier", change(embedding_multiplier=1.0)),
            ("residual multiplier", change(residual_multiplier=1.0)),
            ("attention multiplier", change(attention_multiplier=8**-0.5)),
            ("logits scaling", change(logits_scaling=1.0)),
        ],
    ),
    family(
        "cohere",
        "CohereForCausalLM",
        twin=change(),
        logit_scale=0.25,
        use_qk_norm=True,
        tie_word_embeddings=True,
        rope_parameters=rope(),
        edits=[("logit scale", change(logit_scale=1.0))],
    ),
    family(
        "cohere_plain",
        "CohereForCausalLM",
        twin=change(),
        logit_scale=0.25,
        use_qk_norm=False,
        tie_word_embeddings=True,
        rope_parameters=rope(),
        edits=[("logit scale", change(logit_scale=1.0)), ("theta", change(rope_parameters__rope_theta=1e6))],
    ),
    family(
        "cohere2",
        "Cohere2ForCausalLM",
        twin=change(),
        rotary_pct=1.0,
        logit_scale=0.25,
        sliding_window=8,
        head_dim=8,
        num_hidden_layers=4,
        tie_word_embeddings=True,
        rope_parameters=rope(),
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        edits=[
            ("window + 1", change(sliding_window=9)),
            ("window", change(sliding_window=256)),
            ("logit scale", change(logit_scale=1.0)),
            ("NoPE and window of layer 3", change(layer_types=["sliding_attention"] * 4)),
        ],
        same=[("version 4", change(["rope_parameters", "layer_types"], rope_theta=1e4, sliding_window_pattern=4))],
    ),
    family(
        "gpt2",
        "GPT2LMHeadModel",
        twin=change(),
        base=GPT2,
        targets=("c_attn",),
        edits=[("activation", change(activation_function="gelu"))],
    ),
    family(
        "gpt2_bare",
        "GPT2LMHeadModel",
        n_inner=48,
        dtype="F32",
        base=GPT2,
        targets=("c_attn",),
        bare=True,
        buffers=True,
        note="As older files hold it: names without `transformer.`, and the buffers attn.bias and attn.masked_bias, to be skipped.",
    ),
    family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        twin=change(["rope_parameters"], rotary_pct=0.5, rotary_emb_base=10000),
        without=("num_key_value_heads",),
        targets=("query_key_value",),
        use_parallel_residual=True,
        rope_parameters=rope(partial_rotary_factor=0.5),
        edits=[
            ("activation", change(hidden_act="gelu_new")),
            ("parallel residual", change(use_parallel_residual=False)),
            ("partial rotary", change(rope_parameters__partial_rotary_factor=1.0)),
        ],
        same=[("version 4", change(["rope_parameters"], rotary_pct=0.5, rotary_emb_base=10000))],
    ),
    family(
        "gpt_neox_sequential",
        "GPTNeoXForCausalLM",
        dtype="F32",
        without=("num_key_value_heads",),
        targets=("query_key_value",),
        use_parallel_residual=False,
        rope_parameters=rope(partial_rotary_factor=0.5),
        edits=[("sequential residual", change(use_parallel_residual=True))],
    ),
    family(
        "starcoder2",
        "Starcoder2ForCausalLM",
        twin=change(sliding_window=None),
        sliding_window=8,
        use_bias=True,
        tie_word_embeddings=True,
        rope_parameters=rope(),
        edits=[
            ("window", change(sliding_window=None)),
            ("window + 1", change(sliding_window=9)),
            ("activation", change(hidden_act="gelu")),
        ],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4))],
    ),
    family(
        "stablelm",
        "StableLmForCausalLM",
        twin=change(["rope_parameters"], rope_theta=1e4, partial_rotary_factor=0.5),
        use_qkv_bias=True,
        use_parallel_residual=False,
        rope_parameters=rope(partial_rotary_factor=0.5),
        edits=[("partial rotary", change(rope_parameters__partial_rotary_factor=1.0))],
        same=[("version 4", change(["rope_parameters"], rope_theta=1e4, partial_rotary_factor=0.5))],
    ),
    family(
        "stablelm_parallel",
        "StableLmForCausalLM",
        dtype="F32",
        use_parallel_residual=True,
        rope_parameters=rope(partial_rotary_factor=0.25),
        edits=[("partial rotary", change(rope_parameters__partial_rotary_factor=1.0))],
    ),
]
