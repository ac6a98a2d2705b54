"""The safetensors files of a model directory, and what transformers found in them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from cold_backend.errors import ConfigError

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PLAIN = ("F64", "F32", "F16", "BF16")
_NAMED = 5  # of the keys in an error
_ROW = re.compile(r"^(\S+)\s*\|\s*(?:MISSING|MISMATCH|CONVERSION)\b", re.MULTILINE)

_log = logging.getLogger(__name__)
_transformers = logging.getLogger("transformers.modeling_utils")


def check_files(folder: Path) -> int:
    """Checks that all files are there, whole, and hold plain numbers.

    Returns:
        How many tensors they hold.

    Raises:
        ConfigError: one is not, or there are none.
    """
    names = [_WHOLE] if (folder / _WHOLE).is_file() else _shards(folder)
    count = 0
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"base_model: {folder}: {_INDEX} names {name}, which is not there")
        try:
            # Reads the header, which must fit the file's length.
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    count += 1
                    kind = file.get_slice(key).get_dtype()
                    if key.endswith("weight") and kind not in _PLAIN:
                        raise ConfigError(
                            f"base_model: {folder}: {key} holds {kind}; quantised weights are not "
                            "supported"
                        )
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"base_model: {folder}: {name} is broken: {error}") from error
    return count


def _shards(folder: Path) -> list[str]:
    if not (folder / _INDEX).is_file():
        raise ConfigError(f"base_model: {folder} has no {_WHOLE}; other formats are not read")
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        names = {*index["weight_map"].values()}
        dict(index["metadata"])  # transformers wants it
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"base_model: {folder}: {_INDEX} is broken") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ConfigError(f"base_model: {folder}: {_INDEX} names a file outside the directory")
    return sorted(names)


class LoadReport(logging.Filter):
    """What transformers says of weights that do not fit, a table for a terminal.

    A context manager: within it the table is kept instead of written, and an error that only points
    to the table is replaced.

    Raises:
        ConfigError: weights could not be made into those of the model; names them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._table = ""

    def __enter__(self) -> LoadReport:
        _transformers.addFilter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _transformers.removeFilter(self)
        if isinstance(error, RuntimeError) and (keys := _ROW.findall(self._table)):
            raise ConfigError(f"base_model: weights do not fit the model: {_some(keys)}") from error

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is written."""
        text = record.getMessage()
        if "LOAD REPORT" not in text:
            return True
        self._table += text
        return False


def check_found(model: nn.Module, found: dict[str, Any]) -> None:
    """Checks what `from_pretrained` made up for or left out.

    Args:
        model: as loaded.
        found: its `output_loading_info`.

    Raises:
        ConfigError: weights are missing, have another shape, or belong to a layer of the model that
            has no place for them.
    """
    if found["missing_keys"]:
        raise ConfigError(f"base_model: weights are missing: {_some(found['missing_keys'])}")
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        raise ConfigError(
            f"base_model: {key} has the shape {[*stored]}, {[*wanted]} in config.json's model"
        )
    if found["error_msgs"]:
        raise ConfigError(f"base_model: {str(found['error_msgs'][0])[:200]}")
    lost = [key for key in found["unexpected_keys"] if _would_matter(key, model)]
    if lost:
        raise ConfigError(f"base_model: config.json's model has no place for {_some(lost)}")
    if found["unexpected_keys"]:
        _log.warning("weights that the model does not use: %s", _some(found["unexpected_keys"]))


def _would_matter(key: str, model: nn.Module) -> bool:
    """Whether a key belongs to a layer that the model has, or to one more of a list of layers."""
    modules = dict(model.named_modules())
    layer = modules.get(key.rpartition(".")[0])
    if layer is not None and [*layer.parameters(recurse=False)]:
        return True
    parts = key.split(".")
    heads = (".".join(parts[:at]) for at, part in enumerate(parts) if part.isdecimal())
    return any(isinstance(modules.get(head), nn.ModuleList) for head in heads)


def _some(keys: Iterable[str]) -> str:
    """The first of them."""
    names = sorted({*keys})
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
