"""Which adapters the models hold, and when a sequence may use one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import AdapterChange, AdapterReport
from cold_backend.engine.adapter_slots import AdapterSlots


def served(name: str, version: int = 1) -> ServedAdapter:
    return ServedAdapter(name, f"/{name}", (version,))


def report(change: AdapterChange, problem: str = "") -> AdapterReport:
    return AdapterReport(change.index, change.name, change.stamp, problem)


def loaded(slots: AdapterSlots, *adapters: ServedAdapter) -> list[AdapterChange]:
    """Has them loaded, as far as there is room; returns the changes."""
    slots.prepare(adapters)
    changes = slots.take_changes()
    for change in changes:
        assert slots.settle(report(change)) == change
    return changes


def used(slots: AdapterSlots, adapter: ServedAdapter) -> int:
    loaded(slots, adapter)
    return taken(slots, adapter)


def taken(slots: AdapterSlots, adapter: ServedAdapter) -> int:
    (index,) = slots.take([adapter])
    return index


_STEPS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(1, 2), st.integers(0, 2), st.integers(0, 4)),
    max_size=60,
)


@given(_STEPS)
def test_adapters_in_use_keep_their_index(steps: list[tuple[str, int, int, int]]) -> None:
    """At most three run; what the models hold is what indices stand for, whatever fails."""
    slots = AdapterSlots(["fixed"], 3)
    running: list[tuple[ServedAdapter, int]] = []
    models: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, version, oldest, luck in steps:
        if len(running) == 3:
            slots.give_back([running.pop(oldest)[1]])
        adapter = served(name, version)
        slots.prepare([adapter])
        if luck == 1:
            slots.reload()
        for change in slots.take_changes():
            if models.get(change.index) != (change.name, change.stamp):
                assert change.index not in {index for _, index in running}
            models[change.index] = (change.name, change.stamp)
            fails = luck == 0 and change.index not in {index for _, index in running}
            slots.settle(report(change, "broken" if fails else ""))
        assert not slots.is_loading
        assert luck == 0 or slots.is_ready(adapter)
        if slots.is_ready(adapter):
            index = taken(slots, adapter)
            running.append((adapter, index))
        assert all(models[index] == (a.name, a.stamp) for a, index in running)
        assert all(index > 0 and slots.has([index]) for _, index in running)
    assert len(slots) <= 4


def test_nothing_is_taken_before_the_models_have_it() -> None:
    slots = AdapterSlots([], 2)
    a = served("a")
    assert not slots.is_ready(a)
    slots.prepare([a])
    assert slots.is_loading and len(slots) == 0
    (change,) = slots.take_changes()
    assert not slots.take_changes()
    assert not slots.is_ready(a) and not slots.has([change.index])
    assert slots.settle(AdapterReport(change.index, "a", (7,))) is None
    assert slots.settle(report(change)) == change
    assert slots.settle(report(change)) is None
    assert slots.take([a]) == (change.index,)
    assert len(slots) == 1


def test_the_longest_unused_makes_way() -> None:
    slots = AdapterSlots([], 2)
    for name in "aba":
        slots.give_back([used(slots, served(name))])
    assert used(slots, served("c")) == used(slots, served("c"))
    (change,) = loaded(slots, served("d"))
    assert (change.name, change.evicts) == ("d", "a")
    slots.reload()
    assert not slots.is_ready(served("c"))
    assert {change.name for change in slots.take_changes()} == {"c", "d"}


def test_who_waits_longer_keeps_what_is_loaded_for_it() -> None:
    slots = AdapterSlots([], 2)
    loaded(slots, served("a"), served("b"))
    assert not loaded(slots, served("a"), served("b"), served("c"))
    (change,) = loaded(slots, served("b"), served("c"), served("a"))
    assert (change.name, change.evicts) == ("c", "a")
    slots.take([served("b")])
    assert loaded(slots, served("d"))[0].evicts == "c"
    slots.take([served("d")])
    assert not loaded(slots, served("e"))  # both are in use
    assert not slots.is_loading


def test_an_older_version_takes_no_place_longer_than_it_is_used() -> None:
    slots = AdapterSlots([], 3)
    old, new = served("a", 1), served("a", 2)
    loaded(slots, served("b"))
    unused = loaded(slots, old)[0].index
    (change,) = loaded(slots, new)
    assert (change.index, change.evicts) == (unused, "a")
    first, second = taken(slots, new), taken(slots, new)
    newest = served("a", 3)
    assert used(slots, newest) not in (first, unused)
    assert len(slots) == 3
    slots.give_back([first])
    assert slots.is_ready(new)
    slots.give_back([second])
    assert not slots.is_ready(new)
    assert slots.is_ready(newest) and slots.is_ready(served("b"))
    assert len(slots) == 2


def test_what_could_not_be_loaded_is_loaded_again() -> None:
    slots = AdapterSlots([], 1)
    a = served("a")
    slots.prepare([a])
    (change,) = slots.take_changes()
    slots.settle(report(change, "an error"))
    assert not slots.is_loading and not slots.is_ready(a) and len(slots) == 0
    (again,) = loaded(slots, a)
    assert again == change
    assert slots.is_ready(a)


def test_what_nobody_uses_is_forgotten_when_steps_fail() -> None:
    slots = AdapterSlots([], 2)
    index = used(slots, served("a"))
    slots.prepare([served("b")])
    slots.reload()
    slots.give_up()
    assert [change.name for change in slots.take_changes()] == ["a"]
    assert not slots.has([index])
    assert loaded(slots, served("b"))


def test_indices_of_the_fixed() -> None:
    slots = AdapterSlots(["x", "y"], 0)
    assert slots.take([ServedAdapter(name) for name in ("y", "x")]) == (1, 0)
    assert slots.take([]) == ()
    slots.give_back([1])
    slots.prepare([ServedAdapter("x"), served("a")])
    assert not slots.take_changes()
