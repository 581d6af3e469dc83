"""Collects chat templates of real models, renders them as transformers does, and compares with Dissent's rendering.

    pip install transformers trl            # transformers 5.24, trl 1.16
    python templates.py corpus.jsonl [FOLDER …]
    DISSENT_TEMPLATE_CORPUS=$PWD/corpus.jsonl cargo nextest run -p dissent-models --run-ignored only real_templates

The templates are those of the package trl, and those in the folders: `*.jinja`, and `chat_template` in
`tokenizer_config.json`. Nothing of them is kept in the repository.
"""

import json
import sys
from pathlib import Path

import trl

GOLDEN = Path(__file__).parents[2] / "models/tests/golden"
sys.path.insert(0, str(GOLDEN))
import jinja  # noqa: E402

TURNS = {
    "system": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}], "add_generation_prompt": True},
    "thinking": {"messages": [{"role": "user", "content": "Hi!"}], "add_generation_prompt": True, "enable_thinking": False},
    "several": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},
                             {"role": "assistant", "content": "d"}], "add_generation_prompt": False},
    "no tools": {"messages": [{"role": "user", "content": "Hi!"}], "tools": [], "add_generation_prompt": True},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi!"}]}], "add_generation_prompt": True},
}


def templates(folders):
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja")):
        yield f"trl/{path.name}", path.read_text()
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*.jinja")):
            yield str(path.relative_to(folder.parent)), path.read_text()
        for path in sorted(folder.rglob("tokenizer_config.json")):
            found = json.loads(path.read_text()).get("chat_template")
            named = {"default": found} if isinstance(found, str) else {entry["name"]: entry["template"] for entry in found or []}
            for name, template in named.items():
                yield f"{path.parent.relative_to(folder.parent)}/{name}", template


def main(output, folders):
    jinja.chats.datetime = jinja.Fixed
    jinja.CONTEXTS.update(TURNS)
    rows, names = [], set()
    for name, template in templates(folders):
        names.add(name)
        for chat, text in jinja.renderings(template).items():
            context = {**jinja.TOKENS, **jinja.CONTEXTS[chat]}
            rows.append({"name": f"{name} ({chat})", "template": template, "context": context, "rendering": text})
    Path(output).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    failed = sum(row["rendering"] is None for row in rows)
    print(f"{len(names)} templates, {len(rows)} renderings, of which Jinja2 fails at {failed}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
