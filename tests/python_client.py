"""The Python client against a server: python_client.py URL FILE, where FILE has a configuration and its uploads."""

import json
import sys
import threading

from dissent_client import Client, Refused

url, made = sys.argv[1:3]
client = Client(url)
with open(made, encoding="utf-8") as file:
    new = json.load(file)

# The files are uploaded: their hashes suffice.
client._json("POST", "/api/v1/experiments", body={**new, "start": True})
followed = []


def follow() -> None:
    followed.extend(client.events("lab", after=0))


follower = threading.Thread(target=follow)
follower.start()
waits = lambda: client.experiment("lab")["overview"]["state"] == "waits_for_people"
while not waits():
    pass
comparisons = client.comparisons("lab", annotator="ann")
assert comparisons and "first_reward" not in comparisons[0], comparisons
judgements = [
    {"round": row["round"], "comparison": row["comparison"], "annotator": "ann", "verdict": "first"}
    for row in comparisons
]
try:
    client.judge("lab", [{**judgements[0], "comparison": 9999}])
    raise AssertionError("an unknown comparison is judged")
except Refused as refused:
    assert (refused.status, refused.problem["line"]) == (409, 1), refused.problem
told = client.judge("lab", judgements)
assert told["new"] == len(judgements), told
assert client.judge("lab", judgements[:1])["already_there"] == 1
follower.join(120)
versions = [event["version"] for event in followed]
assert versions == list(range(1, len(versions) + 1)), versions
assert followed[-1]["event_type"] == "experiment.finished", followed[-1]

pairs = list(client.rows("lab", "pairs", verdict="first"))
assert len(pairs) == len(judgements), pairs
strong = list(client.rows("lab", "conflicts", pacs__gte=0.5))
assert strong and all(row["pacs"] >= 0.5 for row in strong)
assert client.parquet("lab", "conflicts")[:4] == b"PAR1"
assert client.state("lab", at=20)["overview"]["events"] <= 20
assert client.fork("lab", "other", at=20, settings=["conflict.budget=3"])["experiment"] == "other"
assert {row["experiment"] for row in client.experiments()} == {"lab", "other"}
assert client.order("other", "cancel", reason="enough")["state"] in ("cancelled", "finished")
