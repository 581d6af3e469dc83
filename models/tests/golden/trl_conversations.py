"""Writes trl_conversations.json: the tokens and labels that TRL's SFTTrainer makes of conversations, to compare with.

    python trl_conversations.py        # needs trl, transformers and tokenizers
"""

import json
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer

TURN = "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') + '<|im_end|>' + '\n' }}"
END = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + END
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}" + TURN +
    "{% endif %}{% endfor %}" + END
)
# White space around the marks, which must stay as Jinja2 leaves it.
SPACED = """{%- for m in messages %}
    {%- if m.role == 'assistant' %}
<|im_start|>assistant
        {%- generation %}
 {{ m.content }}<|im_end|>
        {% endgeneration -%}
    {%- else %}
<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{%- endif %}"""
TOOLS = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ('/' + m.name if m.name else '') + '\n' }}"
    "{% if m.reasoning_content and enable_thinking is not false %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + END
)


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
TALKS = [
    {"messages": [turn("user", "why?"), turn("assistant", "because"), turn("user", "how?"), turn("assistant", "so it is")]},
    {"messages": [turn("system", "be brief"), turn("user", "sky?"), turn("assistant", "blue")]},
]
CALLS = [
    {"messages": [turn("user", "weather?"), turn("assistant", "let me look", tool_calls=[CALL])]},
    {"messages": [turn("user", "weather?"), turn("assistant", None, tool_calls=[CALL]), turn("tool", "20", name="weather"),
                  turn("assistant", "20 degrees")], "tools": [{"type": "function", "function": {"name": "weather"}}]},
    {"messages": [turn("user", "q"), turn("assistant", "a", reasoning_content="hm")]},
    {"messages": [turn("user", "q"), turn("assistant", "a", reasoning_content="hm")],
     "chat_template_kwargs": {"enable_thinking": False}},
]


def tokenizer(chat_template):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(["so it is blue because the sky is blue"], trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<begin>", "<end>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<begin>", eos_token="<end>", pad_token="<end>", chat_template=chat_template)


def labels(row, made, assistant_only):
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, dataset_text_field="text",
                           assistant_only_loss=assistant_only, eos_token=None, packing=False,
                           truncation_mode="keep_start", shuffle_dataset=False)
    itself = SimpleNamespace(_tokenizer=made, completion_only_loss=False, chat_template=None, args=args)
    data = SFTTrainer._prepare_dataset(itself, Dataset.from_list([row]), made, args, False, None, dataset_name="rows")[0]
    ids = data["input_ids"]
    wanted = data.get("labels")
    if wanted is None and assistant_only:
        wanted = [token if mask else -100 for token, mask in zip(ids, data["assistant_masks"], strict=True)]
    return ids, wanted or ids


def main():
    cases = []
    for template, rows, marked in [(PLAIN, TALKS, False), (MARKED, TALKS, True), (SPACED, TALKS, True), (TOOLS, CALLS, False)]:
        made = tokenizer(template)
        case = {"tokenizer": made.backend_tokenizer.to_str(), "chat_template": template, "rows": []}
        for row in rows:
            expected = {"row": row, "all": labels(row, made, False)}
            if marked:
                expected["assistant"] = labels(row, made, True)
            case["rows"].append(expected)
        cases.append(case)
    text = json.dumps({"cases": cases}, separators=(",", ":"), ensure_ascii=True)
    Path(__file__).with_suffix(".json").write_text(text + "\n")


main()
