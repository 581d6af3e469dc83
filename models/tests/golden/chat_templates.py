"""Writes chat_templates.json: what transformers makes of chat templates that use what real ones use.

    python chat_templates.py        # needs transformers
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATES = {
    "markers": "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
               "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}\n",
    "blocks on their own lines": """{% for message in messages %}
    {% if message['role'] == 'user' %}
        {# what the person said #}
[INST] {{ message['content'] | trim }} [/INST]
    {% elif message['role'] == 'assistant' %}
  {{ message.content.strip() }}</s>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
>
{% endif %}
""",
    "white space control": "{%- for m in messages -%}\n  {{- m.content -}}\n  |  {% if not loop.last %} , {%- endif +%}\n x"
                           "{%- endfor -%}\n end ",
    "alternation": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
                   "{{ raise_exception('roles must alternate') }}{% endif %}{{ loop.index }}:{{ m['content'] }};{% endfor %}",
    "system message": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
                      "{% else %}{% set rest = messages %}{% set system = 'none' %}{% endif %}{{ system }}/{{ rest | length }}"
                      "/{{ messages[-1].role }}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% if m.role == 'user' %}"
                 "{% set ns.found = true %}{% set ns.n = ns.n + (m.content | length) %}{% endif %}{% endfor %}"
                 "{{ ns.found }} {{ ns.n }}",
    "macro": "{% macro turn(role, text='') %}<{{ role | upper }}>{{ text }}</{{ role }}>{% endmacro %}"
             "{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}{{ turn('x') }}",
    "json": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}{{ {'a': [1, 2.5, none, true], 'é<&>': '\"'} | tojson }}",
    "tests": "{{ tools is defined }}{{ tools is none }}{{ strftime_now is defined and false }}{{ messages[0].content is string }}"
             "{{ messages is iterable }}{{ messages[0].name is defined }}{{ messages[0] is mapping }}{{ 1 is odd }}",
    "python methods": "{{ messages[0].content.split(' ')[-1] }}|{{ messages[0].content.startswith('W') }}|"
                      "{{ messages[0].content.replace('e', 'E') }}|{{ messages[0].content.rstrip('?').lower().title() }}|"
                      "{% for k, v in messages[0].items() %}{{ k }}={{ v | length }},{% endfor %}{{ messages[0].get('x', 'y') }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|"
               "{{ nothing | default('d') }}|{{ [3, 1, 2] | sort | first }}|{{ 'a-b' | replace('-', '+') }}|{{ ' x ' | trim }}|{{ 7 // 2 }}{{ 7 % 4 }}",
    "conditions": "{{ 'yes' if add_generation_prompt else 'no' }}{% for m in messages if m.role == 'user' %}{{ m.content }}"
                  "{% else %}nobody{% endfor %}{% if 'user' in messages | map(attribute='role') | list and not false %}!{% endif %}",
    "generation tags": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
                       "{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
                     "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
}
PROMPT, ANSWER = "Why here & now, éh?", "  Because <so>.\n"


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    cases = []
    for name, template in TEMPLATES.items():
        user = {"role": "user", "content": PROMPT}
        answer = {"role": "assistant", "content": ANSWER}

        def render(messages, generate):
            return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=generate)

        cases.append({"name": name, "template": template, "prompt": render([user], True), "whole": render([user, answer], False)})
    golden = {"prompt": PROMPT, "answer": ANSWER, "cases": cases}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1))


main()
