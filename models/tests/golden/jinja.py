"""Writes jinja.json: what transformers makes of chat templates, one construct each, and of templates in the style of real ones.

    python jinja.py        # needs transformers 5.24 (and its jinja2)

Each case is rendered for several chats: `contexts`. A rendering is a text, or null where Jinja2 fails. The current date is fixed.
"""

import datetime
import json
from pathlib import Path

from transformers.utils import chat_template_utils as chats

DATE = datetime.datetime(2024, 7, 26)
TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Current weather <of> a city's \"centre\"",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Größe & Ort"}, "days": {
        "type": "integer", "enum": [1, 2.5, None, True]}}, "required": ["city"]}}}
CALL = {"role": "assistant", "content": "", "reasoning_content": "look it up", "tool_calls": [
    {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}]}
USER = {"role": "user", "content": "  why is the sky blue? <b>\"x\"</b> it's "}
CONTEXTS = {
    "one turn": dict(messages=[USER], add_generation_prompt=True),
    "answered": dict(messages=[{"role": "system", "content": "Be brief.\n"}, USER,
                               {"role": "assistant", "content": "<think>\nhm\n</think>\n\nscattering 😀"}], add_generation_prompt=False),
    "tools": dict(messages=[USER, CALL, {"role": "tool", "name": "weather", "content": "{\"t\": 21.5}", "tool_call_id": "call00001"}],
                  tools=[TOOL], add_generation_prompt=True),
    "variables": dict(messages=[USER, {"role": "assistant", "content": "blue", "name": None}, {"role": "user", "content": "thanks"}],
                      add_generation_prompt=True, enable_thinking=False, documents=[{"title": "Sky", "text": "It is blue."}],
                      numbers={"float": 1e16, "small": 0.00001, "int": 3, "list": [1.0, "a", None, True]}),
}
TOKENS = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")

STYLES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are "
    "a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "headers, tools and a date": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "none" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system<|end_header|>\\n\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '<|end_header|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|end_header|>\\n\\n' }}
{%- endif %}
""",
    "thinking and tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "turns of model and user": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
""",
    "channels, macros and a date": """{#- types of parameters -#}
{%- macro render_type(param) -%}
    {%- if param.enum -%}
        {{- param.enum | map('string') | join(' | ') -}}
    {%- elif param.type == "array" -%}
        {{- render_type(param['items']) + "[]" -}}
    {%- elif param.type is defined and param.type is iterable and param.type is not string and param.type is not mapping -%}
        {{- param.type | join(" | ") -}}
    {%- else -%}
        {{- param.type -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro render_tools(namespace_name, tools) -%}
    {{- "namespace " + namespace_name + " {\\n\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + tool.description + "\\ntype "+ tool.name + " = " }}
        {%- if tool.parameters and tool.parameters.properties %}
            {{- "(_: {\\n" }}
            {%- for param_name, param_spec in tool.parameters.properties.items() %}
                {{- param_name }}
                {%- if param_name not in (tool.parameters.required or []) -%}{{- "?" }}{%- endif -%}
                {{- ": " + render_type(param_spec) }}
                {%- if not loop.last %}{{- ",\\n" }}{%- else %}{{- "\\n" }}{%- endif -%}
            {%- endfor %}
            {{- "}) => any;\\n\\n" }}
        {%- endif -%}
    {%- endfor %}
    {{- "} // namespace " + namespace_name }}
{%- endmacro -%}
{%- macro system_message() -%}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\\n" }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- system_message() }}{{- "<|end|>" }}
{%- if tools -%}{{- "<|start|>developer<|message|>" + render_tools("functions", tools) + "<|end|>" }}{%- endif -%}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message %}
            {%- set tool_call = message.tool_calls[0].function %}
            {%- if message.thinking %}{{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif %}
            {{- "<|start|>assistant to=functions." + tool_call.name + " <|message|>" + tool_call.arguments|tojson + "<|call|>" }}
            {%- set last_tool_call.name = tool_call.name %}
        {%- elif loop.last and not add_generation_prompt %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
        {%- else %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
            {%- set last_tool_call.name = none %}
        {%- endif %}
    {%- elif message.role == 'tool' -%}
        {{- "<|start|>functions." + last_tool_call.name + " to=assistant<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "instructions in brackets": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}{{- raise_exception("ids have 9 characters") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {% generation %}{{- " " + message["content"]|trim + eos_token}}{% endgeneration %}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}
        {%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
    {%- endif %}
{%- endfor %}""",
    "iterable tools": "{% if tools is iterable and tools | length > 0 %}{{ tools | length }} tools{% else %}no tools{% endif %} {{ messages[0].content }}",
}
ONE = {
    # values and tests
    "iterable": "{{ tools is iterable }}{{ messages is iterable }}{{ 'a' is iterable }}{{ {} is iterable }}{{ 3 is iterable }}{{ x is iterable }}{{ none is iterable }}{{ range(2) is iterable }}",
    "sequence": "{{ tools is sequence }}{{ messages is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ 3 is sequence }}{{ x is sequence }}{{ none is sequence }}{{ (1, 2) is sequence }}{{ range(2) is sequence }}{{ ([1] + [2]) is sequence }}",
    "mapping": "{{ messages[0] is mapping }}{{ messages is mapping }}{{ 'a' is mapping }}{{ x is mapping }}{{ none is mapping }}",
    "callable": "{{ raise_exception is callable }}{{ x is callable }}{{ 'a' is callable }}{{ 1 is callable }}",
    "other tests": "{{ 1 is number }}{{ true is number }}{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}{{ 1 is boolean }}{{ 3 is odd }}{{ 4 is even }}{{ 4 is divisibleby 2 }}{{ 'a' is lower }}{{ 'A' is upper }}{{ 'a' is in ['a'] }}{{ 1 is sameas 1 }}{{ none is none }}{{ false is false }}{{ true is true }}{{ '' is string }}",
    "defined": "{{ tools is defined }}{{ tools is none }}{{ documents is defined }}{{ x is undefined }}{{ bos_token is defined }}{{ unk_token is defined }}{{ additional_special_tokens is defined }}{{ strftime_now is defined }}{{ enable_thinking is defined }}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}",
    "print": "{{ messages }}{{ true }}{{ none }}{{ 1.0 }}{{ [1, 'a', none] }}{{ {'k': true} }}{{ (1, 2) }}{{ (1,) }}",
    "floats": "{{ 1e16 }} {{ 0.00001 }} {{ 1/3 }} {{ 1e300 }} {{ 100000.0 }} {{ [1e16, 0.1] }} {{ {'a': 1e-7} }} {{ numbers }}",
    "floats as text": "{{ 1e16 | string }} {{ [1e22, 2.5] | join(',') }}",
    "quotes": "{{ [\"it's\", 'say \"hi\"', 'n\\nl', 'é', 'it\\'s \"x\"', '\\u200b\\u00a0\\u0301'] }}",
    "integers": "{{ 10 ** 20 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 8 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ true + 1 }} {{ 7.5 // 2 }}",
    "comparisons": "{{ 1 < 2 < 3 }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}{{ [1] == [1] }}{{ none == x }}{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ 'x' not in 'abc' }}",
    "logic": "{{ none or 'x' }}{{ '' and 'y' }}{{ not [] }}{{ 'x' if false }}{{ 'a' if 0 else 'b' }}",
    "undefined": "[{{ x }}][{{ messages[0].nothing }}][{{ x | default('d') }}][{{ '' | default('e', true) }}][{{ none | default('f') }}][{{ 'a' in x }}][{{ x | length }}]",
    "none attribute": "[{{ none.foo }}][{{ 'a'.foo }}]",
    "undefined attribute": "{{ foo.bar }}",
    "undefined plus": "{{ 'a' + x }}",
    "none plus": "{{ 'a' + none }}",
    "int plus": "{{ 'a' + 1 }}",
    "slices": "{{ messages[-1].role }}{{ messages[0].content[2:-3] }}{{ [1,2,3,4][::2] }}{{ 'abcdef'[::-1] }}{{ 'abc'[-1] }}{{ messages[::-1][0].role }}",
    "concatenation": "{{ 'a' ~ 1 ~ none ~ messages[0].role + 'b' }}{{ '-' * 5 }}{{ [1] * 2 }}{{ [1] + [2] }}",
    "percent": "{{ '%s' % messages[0].role }}",
    "format": "{{ '%s:%d:%.2f' | format(messages[0].role, 3, 1.5) }}{{ '{}-{}'.format('a', 'b') }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{a}'.format(a=1) }}{{ '{:.2f}'.format(1.234) }}",
    # tojson
    "tojson": "{{ messages | tojson }}{{ {'a': 1.0, 'b': [true, none], 'é': 'ü'} | tojson }}{{ 1e20 | tojson }}{{ 0.1 | tojson }}{{ (1, 2) | tojson }}{{ [] | tojson }}{{ {} | tojson }}",
    "tojson texts": "{{ 'é😀\\u2028</script>&\\'\"\\\\\\n\\t\\x08\\x0c\\x1b\\x7f' | tojson }}{{ 'é😀\\x7f\\u2028' | tojson(ensure_ascii=true) }}",
    "tojson indent": "{{ messages[0] | tojson(indent=4) }}{{ [1, [2, {}], {'a': []}] | tojson(indent=2) }}{{ [1, {'a': 2}] | tojson(indent=0) }}{{ [1] | tojson(indent='--') }}",
    "tojson separators": "{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }}{{ {'b': [1, 2]} | tojson(separators=(';', '='), indent=1) }}",
    "tojson sort_keys": "{{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=false) }}",
    "tojson positions": "{{ {'é': [1]} | tojson(true, 1) }}{{ {'b': 1, 'a': 2} | tojson(false, none, (',', ':'), true) }}",
    "tojson keys": "{{ {1: 'a', 2.5: 'b', true: 'c', none: 'd'} | tojson }}",
    "tojson undefined": "{{ x | tojson }}",
    # methods of texts
    "case": "{{ messages[0].content.title() }}{{ \"they're o'neill x2y\".title() }}{{ 'aBc'.upper() }}{{ 'aBc'.lower() }}{{ 'aBC'.capitalize() }}{{ 'aBc'.swapcase() }}",
    "strip": "{{ '  a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'abc'.removeprefix('a') }}|{{ 'abc'.removesuffix('c') }}",
    "split": "{{ 'a b c'.split(' ', 1) }}{{ ' a  b '.split() }}{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a  b c '.rsplit(none, 1) }}{{ 'a\nb\n'.splitlines() }}{{ 'a,b'.partition(',') }}{{ 'a,b,c'.rpartition(',') }}{{ 'ab'.partition('x') }}{{ 'ab'.rpartition('x') }}",
    "find": "{{ messages[0].content.find('sky') }}{{ 'abc'.find('x') }}{{ 'banana'.count('a') }}{{ 'banana'.rfind('a') }}{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('b', 'c')) }}",
    "pad": "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}[{{ 'ab'.center(5) }}][{{ 'abc'.center(6, '*') }}][{{ 'a'.ljust(3) }}][{{ 'a'.rjust(3, '.') }}]",
    "kinds": "{{ '12'.isdigit() }}{{ 'a'.isalpha() }}{{ 'ab'.islower() }}{{ 'AB'.isupper() }}{{ ' '.isspace() }}{{ 'a1'.isalnum() }}",
    "replace": "{{ 'aaa'.replace('a', 'b', 2) }}{{ 'x'.join(['1', '2']) }}",
    "mapping methods": "{{ {'a': 1}.keys() | list }}{{ {'a': 1}.values() | list }}{{ {'a': 1}.items() | list }}{{ messages[0].get('x') is none }}{{ messages[0].get('x', 'd') }}",
    # filters
    "escape": "{{ messages[0].content | e }}{{ \"<a href='x'>&\" | escape }}{{ '<' | forceescape }}",
    "pprint": "{{ messages | pprint }}",
    "text filters": "{{ ' a ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'abc' | upper }}|{{ 'aBC' | capitalize }}|{{ 'hello wORLD (x) a-b' | title }}|{{ 'a\nb' | indent(2) }}|{{ 'a\n\nb' | indent(2, true) }}|{{ 'abc' | replace('b', 'x') }}|{{ 'abc' | reverse }}|{{ 'ab' | list }}",
    "rare text filters": "{{ 'hello big world' | truncate(9) }}|{{ 'hello big world' | truncate(9, true, '…', 0) }}|{{ 'hello' | truncate(3) }}|{{ 'a b_c, d' | wordcount }}|{{ '<p>a  <b>b</b><!-- x --></p> c' | striptags }}|{{ 'a b/ü&' | urlencode }}|{{ {'a b': '/1'} | urlencode }}|{{ {'a': 1, 'b': none, 'c': '<'} | xmlattr }}|{{ 'a' | center(5) }}|",
    "numbers": "{{ '3' | int + 1 }} {{ 3.7 | int }} {{ 'x' | int(5) }} {{ '2.5' | float }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.4 | round(0, 'ceil') }} {{ -1 | abs }} {{ [1, 2] | sum }} {{ [3, 1] | max }} {{ [3, 1] | min }}",
    "sequences": "{{ [3, 1, 2] | sort }}{{ ['b', 'A'] | sort }}{{ [1, 2, 3] | reverse | list }}{{ ['a', 'b', 'A'] | unique | list }}{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2] | first }}{{ [1, 2] | last }}{{ [[1, 2], [3]] | map('length') | list }}",
    "attributes": "{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ (messages | rejectattr('role', 'eq', 'system') | list)[0].role }}{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') | map(attribute='a') | list }}{{ [{'a': 1}, {'a': 2}] | join(',', attribute='a') }}{{ [0, 1, 2] | select | list }}{{ [1, 2, 3] | select('odd') | list }}{{ [1, 2] | map('string') | list }}",
    "dictionaries": "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}{{ dict(a=1, b=2) }}{{ dict(a=1, **{'c': 2}) }}{{ {'items': 1}['items'] }}",
    "groupby": "{% for k, g in messages | groupby('role') %}{{ k }}:{{ g | length }};{% endfor %}",
    # statements
    "loop": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.length }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% else %}none{% endfor %}",
    "loop filter": "{% for m in messages if m.role == 'system' %}x{% else %}none{% endfor %}{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{% continue %}{% endfor %}",
    "recursive loop": "{% for m in [{'c': [{'c': []}]}] recursive %}<{{ loop(m.c) }}>{% endfor %}",
    "scopes": "{% set a = 1 %}{% for i in [1] %}{% set a = 2 %}{% endfor %}{{ a }}{% if true %}{% set b = 2 %}{% endif %}{{ b }}{% with c = 3 %}{{ c }}{% endwith %}{{ c }}{% for i in [1] %}{% endfor %}{{ i is defined }}",
    "namespace": "{% set ns = namespace(x='', l=[]) %}{% for m in messages %}{% set ns.x = ns.x + m.role %}{% set ns.l = ns.l + [1] %}{% endfor %}{{ ns.x }}{{ ns.l }}",
    "macro": "{% macro f(m, x='d') %}[{{ m.role }}{{ x }}]{% endmacro %}{{ f(messages[0]) }}{{ f(messages[0], x='y') }}{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in{% endcall %}{% macro g() %}{{ h() }}{% endmacro %}{% macro h() %}x{% endmacro %}{{ g() }}",
    "implicit arguments": "{% macro f(a) %}{{ a }}{{ kwargs }}{{ varargs }}{% endmacro %}{{ f(1) }}",
    "unpacking": "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "blocks of text": "{% set x %}{{ messages[0].role }}!{% endset %}{{ x }}{% filter upper %}a{{ x }}{% endfilter %}{% set y | upper %}q{% endset %}{{ y }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }} {% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation scope": "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}",
    "generation elsewhere": "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endgeneration %}{% endraw %}{{ '{% endgeneration %}' }}",
    "raw": "{% raw %}{{ x }}{% if %}{% endraw %}",
    "white space": "{%- for m in messages %}\n  {{- m.role }}\n  x {{ m.role -}}\n{% endfor %}\n\n\n",
    "lines": "a\n   {# c #}\nb {#- c -#} d\n    {% if true %}\ne\n    {%+ if true %}f{% endif +%}\ng {{- 'x' -}} h{% endif %}\n",
    "newlines": "a\r\n{% if true %}\r\n{{ 'b\r\nc' }}\r\n{% endif %}\r\nd\re\r\n",
    "trailing newlines": "{{ messages[0].role }}\n\n",
    "escapes": "{{ '\\u2581\\n\\t\\x41\\\\' }}{{ \"a'b\" }}{{ 'a' +\n 'b' }}",
    "braces": "{{ {'a': {'b': 1}} }}{{ '}}' }}{{ \"%}\" }}",
    "joiner and cycler": "{% set j = joiner(',') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
    "range": "{{ range(3) | list }}{{ range(0, 10, 3) | list }}{% for i in range(2) %}{{ i }}{% endfor %}",
    "date": "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A %-d %B %y, %H:%M:%S %j %p %I') }}|{{ strftime_now('%Y-%m-%d') }}",
    "raise": "{% if messages[0].role == 'user' %}{{ raise_exception('no') }}{% endif %}x",
    "include": "{% include 'x' %}",
    "append": "{% set x = [] %}{% set _ = x.append(1) %}{{ x }}",
    "unknown filter": "{{ 'a' | nothing }}",
}


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def renderings(template):
    texts = {}
    for name, context in CONTEXTS.items():
        context = {**TOKENS, "tools": None, "documents": None, **context}
        messages = context.pop("messages")
        try:
            # As apply_chat_template: null keys are left out.
            messages = chats._normalize_chat_messages(messages)
            (text,), _ = chats.render_jinja_template([messages], chat_template=template, **context)
        except Exception:
            text = None
        texts[name] = text
    return texts


def main():
    chats.datetime = Fixed
    cases = [{"name": name, "template": template, "renderings": renderings(template)} for name, template in {**STYLES, **ONE}.items()]
    golden = {"tokens": TOKENS, "contexts": CONTEXTS, "cases": cases}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
