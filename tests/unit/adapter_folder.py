"""A folder with an adapter, and what finds it there, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.adapters.loader import AdapterLoader
from cold_backend.adapters.served import ServedAdapter
from cold_backend.adapters.store import AdapterStore
from cold_backend.config import Settings
from cold_backend.errors import (
    ColdError,
)
from cold_backend.models.checkpoint import empty_model, load_config

WEIGHTS, CONFIG, DEFAULTS = "adapter_model.safetensors", "adapter_config.json", "cold.json"
FILES = (WEIGHTS, CONFIG, DEFAULTS)


class Folder:
    """A folder with the adapter `math`, and the catalogue over it."""

    def __init__(self, base: Path, good: Path, root: Path) -> None:
        self.path = root / "folder"
        self.math = self.path / "math"
        shutil.copytree(good, self.math)
        fixed = shutil.copytree(good, root / "outside")
        settings = Settings(
            base_model=str(base), adapters={"fixed": str(fixed)}, adapters_dir=str(self.path)
        )
        self.loader = AdapterLoader(empty_model(load_config(str(base))), max_rank=8)
        self.loads = 0
        load = self.loader.load

        def counted(name: str, path: str) -> Any:
            self.loads += 1
            return load(name, path)

        self.loader.load = counted  # type: ignore[method-assign]
        self.store = AdapterStore(self.loader, 1 << 20)
        self.catalogue = AdapterCatalogue(settings, self.store)

    def find(self, name: str) -> ServedAdapter:
        """As a request would, some time after the last one."""
        served = self.catalogue.known(name)
        return served or self.catalogue.reading(name).result(20)

    def problem(self, name: str = "math") -> str:
        with pytest.raises(ColdError) as caught:
            self.find(name)
        return str(caught.value)
