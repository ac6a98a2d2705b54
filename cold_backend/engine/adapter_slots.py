"""Which adapter each adapter index of the models stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import AdapterChange, AdapterReport
from cold_backend.errors import UnknownAdapterError


class AdapterSlots:
    """Gives adapters an index in the models while sequences use them.

    The first indices belong to adapters that the models have from the start. The others take
    those that are waited for: the models are told of them, load them beside the steps, and report.
    The one that has been unused for longest makes way for a new one, an older version of the same
    first of all.

    Args:
        fixed: names, by index.
        room: how many others the models hold, at least as many as sequences run.
    """

    def __init__(self, fixed: Sequence[str] = (), room: int = 0) -> None:
        self._fixed = {name: index for index, name in enumerate(fixed)}
        self._room = room
        self._free = list(reversed(range(len(fixed), len(fixed) + room)))
        self._held: dict[int, ServedAdapter] = {}  # longest unused first
        self._users: dict[int, int] = {}
        self._loading: dict[int, AdapterChange] = {}
        self._untold: set[int] = set()  # of those, what the models do not know of yet

    def __len__(self) -> int:
        """Adapters that the models hold."""
        return len(self._fixed) + len(self._held) - len(self._loading)

    @property
    def is_loading(self) -> bool:
        """Whether the models have not reported on all that they have to load."""
        return bool(self._loading)

    def can_hold(self, names: Sequence[str]) -> bool:
        """Whether there is room for all of these at once, if there is any for others than fixed."""
        return not self._room or len({*names} - self._fixed.keys()) <= self._room

    def is_ready(self, adapter: ServedAdapter) -> bool:
        """Whether the models have it, so that it can be taken."""
        if not adapter.path:
            return True
        index = self._index(adapter)
        return index is not None and index not in self._loading

    def has_place(self, adapter: ServedAdapter) -> bool:
        """Whether it is in the models, or on its way into them."""
        return not adapter.path or self._index(adapter) is not None

    def has(self, indices: Iterable[int]) -> bool:
        """Whether the models have what indices stand for."""
        return self._loading.keys().isdisjoint(indices)

    def prepare(self, wanted: Iterable[ServedAdapter]) -> None:
        """Has adapters loaded for which there is room now.

        Args:
            wanted: what sequences wait for, in the order of their turns. Another makes way for one
                of them only if it is not used and not wanted sooner.
        """
        distinct = dict.fromkeys(adapter for adapter in wanted if adapter.path)
        soonest = [*islice(distinct, self._room)]
        for number, adapter in enumerate(soonest):
            if self._index(adapter) is None:
                index = self._place_for(adapter, soonest[:number], soonest[number + 1 :])
                if index is None:
                    return
                self._put(index, adapter)

    def take(self, adapters: Sequence[ServedAdapter]) -> tuple[int, ...]:
        """The indices of adapters that are ready, until `give_back`."""
        for adapter in adapters:
            if not self.is_ready(adapter):
                raise ValueError(f"adapter {adapter.name} is not ready")
        indices = tuple(map(self._taken, adapters))
        for index in self._users.keys() & indices:
            self._users[index] += 1
        return indices

    def give_back(self, indices: Iterable[int]) -> None:
        """Says that a sequence is done with indices."""
        for index in self._users.keys() & indices:
            self._users[index] -= 1
            self._held[index] = self._held.pop(index)
            if not self._users[index] and self._is_outdated(index):
                self._drop(index)

    def take_changes(self) -> list[AdapterChange]:
        """What the models must be told to load with the next step."""
        changes = [self._loading[index] for index in sorted(self._untold)]
        self._untold.clear()
        return changes

    def reload(self) -> None:
        """Has the models told of everything again: after a failed step nobody knows what they hold.

        They load only what they do not have, and report on all of it.
        """
        for index, adapter in self._held.items():
            if index not in self._loading:
                self._loading[index] = _change(index, adapter)
        self._untold = {*self._loading}

    def settle(self, report: AdapterReport) -> AdapterChange | None:
        """Takes in what the models say of an adapter.

        Returns:
            The change that is done with, or None if that is none any more.
        """
        change = self._loading.get(report.index)
        if change is None or (change.name, change.stamp) != (report.name, report.stamp):
            return None
        del self._loading[report.index]
        self._untold.discard(report.index)
        if report.problem:
            self._drop(report.index)
        return change

    def give_up(self) -> None:
        """Forgets what is being loaded and not used."""
        for index in [*self._loading]:
            if not self._users[index]:
                del self._loading[index]
                self._untold.discard(index)
                self._drop(index)

    def _taken(self, adapter: ServedAdapter) -> int:
        index = self._index(adapter) if adapter.path else self._fixed.get(adapter.name)
        if index is None:
            raise UnknownAdapterError("lora_name", f"no adapter {adapter.name!r}")
        return index

    def _index(self, adapter: ServedAdapter) -> int | None:
        return next((index for index, held in self._held.items() if held == adapter), None)

    def _place_for(
        self, adapter: ServedAdapter, sooner: list[ServedAdapter], later: list[ServedAdapter]
    ) -> int | None:
        unused = [
            index
            for index, held in self._held.items()
            if not self._users[index] and index not in self._loading and held not in sooner
        ]
        older = [index for index in unused if self._held[index].name == adapter.name]
        if not older and self._free:
            return self._free.pop()
        unwanted = [index for index in unused if self._held[index] not in later]
        return next(iter([*older, *unwanted, *reversed(unused)]), None)

    def _put(self, index: int, adapter: ServedAdapter) -> None:
        evicted = self._held.pop(index, None)
        self._held[index] = adapter
        self._users[index] = 0
        self._loading[index] = _change(index, adapter, evicted.name if evicted else "")
        self._untold.add(index)

    def _is_outdated(self, index: int) -> bool:
        """Whether a newer version of the same adapter is here."""
        name = self._held[index].name
        return any(held.name == name and other != index for other, held in self._held.items())

    def _drop(self, index: int) -> None:
        del self._held[index], self._users[index]
        self._free.append(index)


def _change(index: int, adapter: ServedAdapter, evicts: str = "") -> AdapterChange:
    return AdapterChange(index, adapter.name, adapter.path, adapter.stamp, evicts)
