#!/usr/bin/env python3
"""Trains a reward model on HH-RLHF rows with TRL and with dissent, with the same settings. Compares the accuracies on
held-out pairs.

    python3 tests/parity/hh_reward.py --data hh-rlhf/test.jsonl.gz
    python3 tests/parity/hh_reward.py --data hh-rlhf/test.jsonl.gz --order tone --steps 150 --lr 5e-4 --max-length 96

The data (MIT licence) are at github.com/anthropics/hh-rlhf and are not part of this project. Both sides begin with the same
adapter and see the same pairs in the same order. By default people's judgements decide the chosen completion: TRL gets each
transcript as turns, dissent gets the transcript itself. With `--order tone` the more positive last completion (VADER) is
chosen, and both sides get the same plain text. examples/proxy-reward was trained in this way.
"""

import argparse
import gzip
import json
import random
import sys
from pathlib import Path

import parity

MARKS = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
POINTS = 2.0
# Pairs with a smaller difference of VADER scores are left out.
TONE_MARGIN = 0.1
# Texts in a batch of peft.
EVALUATION_BATCH = 16
# The input of the tone model. TRL ends plain texts with the end-of-turn token.
TONE_TEXT = "Question: {prompt}\n\nAnswer: {completion}"


def turns(transcript: str) -> list[dict]:
    """Splits a transcript into messages like dissent: contents are kept, except for the one space after the colon. A marker
    of the current speaker is part of the content."""
    messages, rest = [], transcript
    while rest:
        mark = next(mark for mark in MARKS if rest.startswith(mark))
        text = rest[len(mark) :]
        ends = [position for other in MARKS if other != mark and (position := text.find(other)) >= 0]
        end = min(ends, default=len(text))
        messages.append({"role": MARKS[mark], "content": text[:end].removeprefix(" ")})
        rest = text[end:]
    return messages


def usable(row: dict) -> bool:
    """Returns whether both completions follow the same prompt and are not empty."""
    chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
    return (
        len(chosen) == len(rejected) > 1
        and chosen[:-1] == rejected[:-1]
        and all(side[-1]["role"] == "assistant" for side in (chosen, rejected))
        and all(message["content"] for message in chosen + rejected)
        and chosen[-1] != rejected[-1]
    )


def conversation(row: dict) -> dict:
    chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def accuracy(base: Path, adapter: Path, rows: list[dict]) -> float:
    """Returns the percentage of pairs whose chosen completion has the higher reward, by peft."""
    import peft
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side="right")
    model = peft.PeftModel.from_pretrained(parity.load_base("reward", base), adapter).eval()
    # Pairs of similar length share a batch, with little padding.
    rows = sorted(rows, key=lambda row: tokens(tokenizer, row))
    texts = [rendered(tokenizer, row, side) for row in rows for side in ("chosen", "rejected")]
    rewards = []
    for start in range(0, len(texts), EVALUATION_BATCH):
        batch = tokenizer(
            texts[start : start + EVALUATION_BATCH], add_special_tokens=False, padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            rewards += model(**batch).logits[:, 0].tolist()
    right = [chosen > rejected for chosen, rejected in zip(rewards[::2], rewards[1::2])]
    return 100 * sum(right) / len(right)


def by_people(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Returns the rows for dissent, and those for TRL."""
    kept = [row for row in rows if usable(row)]
    return kept, [conversation(row) for row in kept]


def by_tone(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Returns pairs whose more positive last completion is chosen: the rows for dissent, and the texts for TRL."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    tone = SentimentIntensityAnalyzer().polarity_scores
    pairs = []
    for row in filter(usable, rows):
        question = turns(row["chosen"])[-2]["content"].strip()
        answers = [turns(row[side])[-1]["content"].strip() for side in ("chosen", "rejected")]
        scores = [tone(answer)["compound"] for answer in answers]
        if abs(scores[0] - scores[1]) < TONE_MARGIN:
            continue
        best = scores.index(max(scores))
        pairs.append({"prompt": question, "chosen": answers[best], "rejected": answers[1 - best]})
    text = lambda pair, side: TONE_TEXT.format(prompt=pair["prompt"], completion=pair[side])  # noqa: E731
    return pairs, [{side: text(pair, side) for side in ("chosen", "rejected")} for pair in pairs]


def rendered(tokenizer, row: dict, side: str) -> str:
    """Returns the model's input for one side of a row."""
    if isinstance(row[side], str):
        return row[side] + tokenizer.eos_token
    return tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)


def tokens(tokenizer, row: dict) -> int:
    return max(len(tokenizer(rendered(tokenizer, row, side))["input_ids"]) for side in ("chosen", "rejected"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--order", choices=("people", "tone"), default="people")
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--dissent", type=Path, help="the program; built in release mode if omitted")
    arguments = parser.parse_args()
    parity.WORK.mkdir(parents=True, exist_ok=True)
    parity.own_environment(__file__)
    import transformers

    dissent = arguments.dissent or parity.built()
    base = parity.base_model(arguments.layers)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    raw = [json.loads(line) for line in gzip.open(arguments.data, "rt")]
    both = list(zip(*(by_tone if arguments.order == "tone" else by_people)(raw)))
    both = [pair for pair in both if tokens(tokenizer, pair[1]) <= arguments.max_length]
    random.Random(0).shuffle(both)
    held_out, train = both[: arguments.held_out], both[arguments.held_out :]
    print(f"{len(train)} pairs to train on, {len(held_out)} held out", flush=True)
    seen = [train[index % len(train)] for index in range(arguments.steps * arguments.batch_size)]
    as_text = ["--template", TONE_TEXT + tokenizer.eos_token] if arguments.order == "tone" else []

    adapter = parity.first_adapter("reward", base)
    trainer, theirs = parity.trainer_of("reward", base, adapter, [theirs for _, theirs in seen], arguments)
    trainer.train()
    trainer.model.save_pretrained(parity.WORK / "hh-trl")
    lines = parity.write(parity.WORK / "hh.jsonl", [mine for mine, _ in seen])
    mine, output = parity.ours("reward", dissent, base, adapter, lines, arguments, as_text)
    held = parity.write(parity.WORK / "hh-held-out.jsonl", [mine for mine, _ in held_out])
    said = parity.run(
        dissent, "eval", "reward", "--base", base, "--adapter", output, "--data", held, "--json", *as_text
    )
    rows = [theirs for _, theirs in held_out]
    of_theirs = accuracy(base, parity.WORK / "hh-trl", rows)
    of_ours = accuracy(base, output, rows)
    print(f"last losses: TRL {sum(theirs[-10:]) / 10:.4f}, dissent {sum(mine[-10:]) / 10:.4f}")
    print(f"output of dissent eval reward: {said.strip()}")
    print(f"held-out pairwise accuracy by peft: adapter of TRL {of_theirs:.2f} %, of dissent {of_ours:.2f} %")
    sys.exit(0 if of_ours >= of_theirs - POINTS else 1)


if __name__ == "__main__":
    main()
