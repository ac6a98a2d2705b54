"""Which ops torch is asked to start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Of these torch needs values before it can go on, so that it waits for the device.
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class Launches(TorchDispatchMode):
    """Watches a block; `names` are those of the ops, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        """Those that wait for the device."""
        return [name for name in self.names if any(wait in name for wait in _WAITS)]
