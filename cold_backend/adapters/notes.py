"""What an operator should know of an adapter that is served all the same."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path, PurePosixPath

from cold_backend.adapters.files import CONFIG, AdapterFile
from cold_backend.errors import ConfigError

# A training program saves them along. They would change what tokens mean, for one adapter alone.
_OF_THE_BASE = frozenset(
    (
        *("added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt"),
        *("chat_template.jinja", "chat_template.json", "generation_config.json"),
    )
)
_MOST_FILES = 1000
_HUB_FOLDER = "models--"  # of a hub's cache: models--OWNER--NAME/snapshots/REVISION


def find_notes(name: str, path: Path, base_model: str) -> list[str]:
    """What is noteworthy of an adapter, a line each.

    Args:
        name: of the adapter.
        path: its directory, which has been read.
        base_model: directory of the base model that it is served with.
    """
    notes = []
    try:
        with os.scandir(path) as entries:
            ignored = sorted({e.name for e in islice(entries, _MOST_FILES)} & _OF_THE_BASE)
        with AdapterFile(name, path, CONFIG) as file:
            trained_on = file.read_json().get("base_model_name_or_path")
    except (OSError, ConfigError):
        return []
    if ignored:
        notes.append(
            f"adapter {name}: {', '.join(ignored)} in its directory: ignored, the base model's "
            "tokenizer, chat template and end of sequence are used"
        )
    if isinstance(trained_on, str) and trained_on and not _is_of(trained_on, Path(base_model)):
        notes.append(
            f"adapter {name}: {CONFIG} says that it was trained on {trained_on[:128]!r}; it is "
            f"served with {Path(base_model).name!r}"
        )
    return notes


def _is_of(trained_on: str, base_model: Path) -> bool:
    """Whether the names are alike; where the base model was when the adapter was trained does not
    matter."""
    names = {path.name for path in (base_model, base_model.resolve())}
    for part in base_model.resolve().parts:
        if part.startswith(_HUB_FOLDER):
            names.add(part.rsplit("--", 1)[-1])
    trained_on = trained_on.replace("\\", "/")
    theirs = {PurePosixPath(trained_on).name}
    theirs |= {p.rsplit("--", 1)[-1] for p in trained_on.split("/") if p.startswith(_HUB_FOLDER)}
    return bool({*map(_plain, names)} & {*map(_plain, theirs)})


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
