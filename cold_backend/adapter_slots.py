"""Which adapter each adapter index of the models stands for."""

from __future__ import annotations

from collections.abc import Sequence

from cold_backend.adapter_catalogue import ServedAdapter
from cold_backend.contract import AdapterChange


class AdapterSlots:
    """Gives adapters an index in the models while sequences use them.

    The first indices belong to adapters that the models have from the start. The others take
    those that are asked for; the one that has been unused for longest makes way for a new one.

    Args:
        fixed: names, by index.
        room: how many others the models hold, at least as many as sequences run.
    """

    def __init__(self, fixed: Sequence[str] = (), room: int = 0) -> None:
        self._fixed = {name: index for index, name in enumerate(fixed)}
        self._free = list(reversed(range(len(fixed), len(fixed) + room)))
        self._held: dict[int, ServedAdapter] = {}  # longest unused first
        self._users: dict[int, int] = {}
        self._changes: dict[int, AdapterChange] = {}

    def __len__(self) -> int:
        """Adapters that the models hold."""
        return len(self._fixed) + len(self._held)

    def take(self, adapter: ServedAdapter) -> int:
        """The adapter's index, -1 for the base model alone, until `give_back`."""
        if not adapter.path:
            return self._fixed[adapter.name] if adapter.name else -1
        index = next((i for i, held in self._held.items() if held == adapter), None)
        if index is None:
            index = self._place(adapter)
        self._users[index] = self._users.get(index, 0) + 1
        return index

    def give_back(self, index: int) -> None:
        """Says that a sequence is done with an index."""
        if index in self._users:
            self._users[index] -= 1
            self._held[index] = self._held.pop(index)

    def take_changes(self) -> list[AdapterChange]:
        """What the models must load before the next step."""
        changes = [*self._changes.values()]
        self._changes.clear()
        return changes

    def reload(self) -> None:
        """Has everything loaded again: nobody knows what the models hold after a failed step."""
        for index, adapter in self._held.items():
            self._changes[index] = AdapterChange(index, adapter.name, adapter.path)

    def _place(self, adapter: ServedAdapter) -> int:
        if self._free:
            index, evicts = self._free.pop(), ""
        else:
            index = next(i for i in self._held if not self._users[i])
            evicts = self._held.pop(index).name
        self._held[index] = adapter
        self._users[index] = 0
        self._changes[index] = AdapterChange(index, adapter.name, adapter.path, evicts)
        return index
