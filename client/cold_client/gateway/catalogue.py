"""The models that the gateway offers: the server's adapters and its base model."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any

from .._client import AsyncClient
from .._exceptions import AdapterNotFound, ServerUnavailable
from .._protocol import MODEL
from .._types import Model

_FRESH_S = 10.0
_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # what the server takes as a name


@dataclass(frozen=True, slots=True)
class Served:
    """One model of the API.

    Attributes:
        id: its name.
        adapter: the adapter that it stands for; None is the base model.
        base: id of the base model under an adapter; None for the base model itself.
        max_context: tokens of prompt and output together, if the server says.
        created: seconds since the epoch at which this gateway began to offer it.
    """

    id: str
    adapter: str | None
    base: str | None
    max_context: int | None
    created: int

    def card(self) -> dict[str, Any]:
        """The model as OpenAI lists it; `parent` and `max_model_len` are named as in vLLM."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "cold-server",
            "parent": self.base,
            "max_model_len": self.max_context,
        }


class Catalogue:
    """Knows what the server serves, and asks again after ten seconds or for an unknown name."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._created = int(time.time())
        self._served: dict[str, Served] = {}
        self._folder: Served | None = None  # stands for any adapter
        self._asked_s = -_FRESH_S

    async def all(self) -> list[Served]:
        """What the server serves now. Raises ServerUnavailable."""
        models = await self._client.models()
        cold = next((m for m in models if m.name == MODEL and m.state == "READY"), None)
        if cold is None:
            raise ServerUnavailable("the model is not ready")
        served = served_by(cold, self._created)
        self._served = {model.id: model for model in served}
        of_folder = Served("", "", cold.base_model or "base", cold.max_context, self._created)
        self._folder = of_folder if cold.adapters_dir else None
        self._asked_s = time.monotonic()
        return served

    async def find(self, name: str) -> Served:
        """The model of that id. Raises AdapterNotFound or ServerUnavailable.

        Where the server reads adapters from a folder, it alone knows whether there is one.
        """
        if name not in self._served or time.monotonic() - self._asked_s > _FRESH_S:
            await self.all()
        if name not in self._served and self._folder is not None and _ADAPTER.fullmatch(name):
            return replace(self._folder, id=name, adapter=name)
        if name not in self._served:
            known = ", ".join(self._served)
            raise AdapterNotFound(f"model: no model {name[:64]!r}; served are: {known}")
        return self._served[name]


def served_by(cold: Model, created: int) -> list[Served]:
    """The base model and the adapters; an adapter that has the base model's name hides it."""
    base = cold.base_model or "base"
    adapters = [Served(name, name, base, cold.max_context, created) for name in cold.adapters]
    if base in cold.adapters:
        return adapters
    return [Served(base, None, None, cold.max_context, created), *adapters]
