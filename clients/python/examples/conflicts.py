"""Plots the conflicts of an experiment, and judges the comparisons that wait.

python conflicts.py http://127.0.0.1:9464 tone-demo conflicts.png       needs pandas, pyarrow and matplotlib
"""

import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dissent_client import Client

url, experiment, picture = sys.argv[1:4]
client = Client(url, token=os.environ.get("DISSENT_TOKEN"))

conflicts = client.table(experiment, "conflicts").dropna(subset=["z_reward", "z_logprob"])
figure, axes = plt.subplots(figsize=(6, 5))
points = axes.scatter(conflicts["z_logprob"], conflicts["z_reward"], c=conflicts["pacs"], cmap="coolwarm", s=14)
axes.axline((0, 0), slope=1, linestyle="--", color="grey")
axes.set_xlabel("z of the log-probability")
axes.set_ylabel("z of the reward")
figure.colorbar(points, label="PACS")
figure.savefig(picture, dpi=120)
print(f"{len(conflicts)} completions in {picture}")

# A stand-in for people: the shorter completion is better.
judgements = [
    {
        "round": row["round"],
        "comparison": row["comparison"],
        "annotator": "shorter",
        "verdict": "first" if len(row["first"]) <= len(row["second"]) else "second",
    }
    for row in client.comparisons(experiment, annotator="shorter", limit=1000)
]
if judgements:
    print(f"{client.judge(experiment, judgements)['new']} judgements recorded")
