"""Which tests run in one process, and in what order.

Under pytest-xdist (`-n 3`), groups of tests are spread over processes. What is dear is made once in
a group: a server, and what a file's fixtures start. The longest come first, so that the processes
end together. Tests without a group go wherever there is time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# They kill servers, or fill the machine: never beside each other.
_ALONE = (
    "tests/server/test_supervision.py",
    "tests/load/test_faults.py",
    "tests/programs/test_load_tests.py",
    "tests/deploy/test_replicas.py",
    "tests/deploy/test_chart_server.py",
)
# They start all that they need themselves.
_APART = ("tests/kernels/test_devices.py", "tests/fuzz/test_fuzz.py")
_GROUPS = "groups.json"  # each test's, in the folder of a run
_running: pytest.Item | None = None
_FROM_BEHIND = "server ensemble"
_LONGEST = (
    "server fused",
    "alone",
    "server ensemble",
    "tests/server/test_lifecycle.py",
    "tests/server/test_tracing.py",
    "tests/server/test_adapters_dir.py",
    "tests/evaluation/test_grid.py",
    "tests/server/test_defaults.py",
    "",
)
# Their names are in the Makefile too: only these are looked through.
FAST_FOLDERS = ("tests/unit/", "tests/kernels/", "tests/load/", "tests/evaluation/")


def is_fast(item: pytest.Item) -> bool:
    """Whether a test belongs to `make test-fast`: without server, model or further programs."""
    fixtures = getattr(item, "fixturenames", ())
    return (
        item.nodeid.startswith(FAST_FOLDERS)
        and not any(item.get_closest_marker(name) for name in ("server", "slow", "needs"))
        and "base_model" not in fixtures
    )


def group_of(item: pytest.Item) -> str:
    """The name of a test's group; empty if it has none."""
    file = item.nodeid.partition("::")[0]
    parameters = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    if "server" in parameters:
        return f"server {parameters['server']}"
    if file in _ALONE:
        return "alone"
    if "implementation" in parameters:
        return f"{file} {parameters['implementation']}"
    return "" if file in _APART else file


def _refuse_servers(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or _running is None or not is_fast(_running):
        return
    if any(str(part).endswith("tritonserver") for part in arguments[1]):
        raise RuntimeError("a test of `make test-fast` starts a server: mark it with `server`")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(_refuse_servers)
    config.addinivalue_line("markers", "fast: part of `make test-fast` (tests/order.py)")


def pytest_itemcollected(item: pytest.Item) -> None:
    if is_fast(item):
        item.add_marker("fast")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    global _running
    _running = item
    try:
        return (yield)
    finally:
        _running = None


# Last: after pytest has put tests with the same server side by side.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = len(_LONGEST)
    rank = {group: place for place, group in enumerate(_LONGEST)}
    groups = {item.nodeid: group_of(item) for item in items}
    first: dict[str, int] = {}
    for group in groups.values():
        first.setdefault(group, len(first))
    number = {item.nodeid: number for number, item in enumerate(items)}

    def turn(item: pytest.Item) -> tuple[int, int, int]:
        group = groups[item.nodeid]
        # Both executions are held against one reference, which remembers: from both ends, neither
        # process computes what the other one does at the same time.
        within = number[item.nodeid] * (-1 if group == _FROM_BEHIND else 1)
        return rank.get(group, others), first[group], within

    items.sort(key=turn)
    if hasattr(config, "workerinput"):
        part = Path(config.option.basetemp).with_suffix(".groups")
        part.write_text(json.dumps(groups))
        part.rename(part.with_name(_GROUPS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Scheduling(config, log)


class Scheduling(LoadScopeScheduling):
    """A group to a process, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._groups: dict[str, str] = {}

    def schedule(self) -> None:
        if not self._groups:
            # The processes collect, not this one; it knows the names of tests alone.
            run: Path = self.config._tmp_path_factory.getbasetemp()
            self._groups = json.loads((run / _GROUPS).read_text())
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._groups[nodeid] or nodeid
