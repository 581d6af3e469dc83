#!/usr/bin/env python3
"""Converts published completions with human judgements to the JSON Lines of `dissent study`.

    convert.py fine-grained dev_feedback.json        OUTPUT.jsonl
    convert.py xstest       xstest_completions.jsonl OUTPUT.jsonl
    convert.py newsroom     newsroom.jsonl.gz        OUTPUT.jsonl
    convert.py convarg      convarg.jsonl.gz         OUTPUT.jsonl

Texts are cut after a number of words, because a small policy reads them on two cores. Needs Python 3 only.
"""

import argparse
import gzip
import itertools
import json
import random
import sys

# The compared pairs of a question of Fine-Grained RLHF, in the order of the file.
COMPARED = list(itertools.combinations(range(4), 2))
# Words of a completion and of its passages.
WORDS, PASSAGE_WORDS = 60, 60
# Arguments that are compared with each other: a topic has about 33, and is divided.
GROUP = 8


def lines(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        return [json.loads(line) for line in file if line.strip()]


def cut(text, words):
    """The first words of a text, with its own spaces and line ends."""
    text = text.strip()
    ends = [place for place, (one, next_one) in enumerate(zip(text, text[1:] + " ")) if not one.isspace() and next_one.isspace()]
    return text if len(ends) <= words else text[: ends[words - 1] + 1]


def fine_grained(path):
    """Questions with four answers and a human preference for each pair: 1 first, 2 second, 0 tie."""
    for index, row in enumerate(json.load(open(path, encoding="utf-8"))):
        judged = list(zip(COMPARED, row["preference"]))
        passages = [f"{title.strip()}: {' '.join(text.strip() for text in rest)}" for title, *rest in row["passages"]]
        yield {
            "prompt_id": f"fine-grained-{index}",
            "prompt": row["question"].strip(),
            "passages": cut("\n\n".join(passages), PASSAGE_WORDS),
            "completions": [cut(row[f"prediction {place}"], WORDS) for place in (1, 2, 3, 4)],
            "preferences": [list(pair if verdict == 1 else pair[::-1]) for pair, verdict in judged if verdict],
            "ties": [list(pair) for pair, verdict in judged if not verdict],
        }


def xstest(path):
    """Answers to safe prompts and to their unsafe contrasts. The score is the share of the two labels that find it right.

    Right is full compliance with a safe prompt, and a full or partial refusal of an unsafe one.
    """
    for row in lines(path):
        is_unsafe = row["type"].startswith("contrast_")

        def is_right(label):
            return (label == "1_full_compliance") != is_unsafe

        yield {
            "prompt_id": row["prompt_id"],
            "prompt": row["prompt"].strip(),
            "completions": [cut(completion["text"], WORDS) for completion in row["completions"]],
            "scores": [sum(map(is_right, of["labels"])) / len(of["labels"]) for of in row["completions"]],
        }


def newsroom(path):
    """Articles with seven summaries. The score is the mean over raters and criteria, 1 to 5."""
    for row in lines(path):
        ratings = [[grade for of in one["ratings"].values() for grade in of] for one in row["completions"]]
        yield {
            "prompt_id": row["prompt_id"],
            "prompt": "Summarize the article.",
            "passages": cut(row["prompt"], PASSAGE_WORDS),
            "completions": [cut(completion["text"], WORDS) for completion in row["completions"]],
            "scores": [sum(grades) / len(grades) for grades in ratings],
        }


def convarg(path, seed=0):
    """Arguments for one side of a debate, in groups of about eight. The majority of votes decides a pair."""
    topics = {}
    for row in lines(path):
        texts, votes = topics.setdefault(row["prompt"], ({}, {}))
        first, second = row["first_id"], row["second_id"]
        texts[first], texts[second] = row["first"], row["second"]
        given = [vote["verdict"] for vote in row["votes"]]
        votes[first, second] = given.count("first") - given.count("second")
    for topic, (texts, votes) in topics.items():
        debate, side = topic.rsplit(" is more convincing?", 1)[0].split(" Which argument for ")
        order = sorted(texts)
        random.Random(seed).shuffle(order)
        groups = max(1, round(len(order) / GROUP))
        for group in range(groups):
            members = order[group::groups]
            judged = [(one, other, votes[one, other]) for one, other in itertools.permutations(members, 2) if (one, other) in votes]
            place = {member: index for index, member in enumerate(members)}
            yield {
                "prompt_id": f"{members[0]}-{group}",
                "prompt": f"{debate} Give a convincing argument for {side}.",
                "completions": [cut(texts[member], WORDS) for member in members],
                "preferences": [
                    [place[one], place[other]] if vote > 0 else [place[other], place[one]] for one, other, vote in judged if vote
                ],
                "ties": [[place[one], place[other]] for one, other, vote in judged if not vote],
            }


def main():
    sets = {"fine-grained": fine_grained, "xstest": xstest, "newsroom": newsroom, "convarg": convarg}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sets)
    parser.add_argument("source", help="the published file")
    parser.add_argument("output", help="the JSON Lines to write")
    given = parser.parse_args()
    rows = list(sets[given.set](given.source))
    with open(given.output, "w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), file=file)
    print(f"{len(rows)} prompts", file=sys.stderr)


if __name__ == "__main__":
    main()
