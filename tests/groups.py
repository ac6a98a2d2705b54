"""Tests that need a program beside the server: groups that are left out where it is not, by name.

A test says `needs("helm")`. Where a program is missing, its tests are left out, and the run's last
block names the groups and why. With COLD_TEST_GROUPS=all (CI) nothing may be missing: the run does
not start then.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections import Counter

import pytest

# Each program that a test may need, and the name of the tests that need it.
GROUPS = {
    "bwrap": "pods",
    "chromedriver": "pages",
    "chromium": "pages",
    "docker-compose": "compose",
    "haproxy": "proxy",
    "helm": "chart",
    "prometheus": "prometheus",
    "promtool": "rules",
}
# What must end with 0 for a program to be of use: some machines forbid what it does.
_PROBES = {"bwrap": ("--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "true")}
_LEFT_OUT = pytest.StashKey[Counter[tuple[str, str]]]()
_WANTED = "COLD_TEST_GROUPS"
_HOW = "deploy/install-test-tools.sh, as root on Debian or Ubuntu, installs what is missing."

running: pytest.Item | None = None


def needs(*programs: str) -> pytest.MarkDecorator:
    """Marks a test, or as `pytestmark` a file, that starts these programs."""
    unknown = set(programs) - set(GROUPS)
    if unknown:
        raise ValueError(f"no group of tests needs {', '.join(sorted(unknown))}")
    return pytest.mark.needs(*programs)


def find(program: str) -> str:
    """The path of a program that the running test says that it needs; fails it otherwise."""
    if running is not None and program not in _needed(running):
        pytest.fail(f"this test starts {program} and is not marked with needs({program!r})")
    found = located(program)
    if found is None:
        pytest.fail(f"{program} is not installed; deploy/install-test-tools.sh does it")
    return found


def located(program: str) -> str | None:
    """The program's path, if it is installed."""
    # Where Debian keeps daemons, which is not on everybody's PATH.
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@functools.cache
def obstacle(program: str) -> str:
    """Why the program is of no use here; empty if it is."""
    path = located(program)
    if path is None:
        nowhere = program == "helm" and platform.machine() != "x86_64"
        return f"{program} is not installed" + " (there is none for this processor)" * nowhere
    if program not in _PROBES:
        return ""
    probe = subprocess.run([path, *_PROBES[program]], capture_output=True, text=True, check=False)
    lines = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
    said = lines[-1].removeprefix(f"{program}: ").split(". ")[0]
    return f"{program} does not work here ({said})" if probe.returncode else ""


def _needed(item: pytest.Item) -> list[str]:
    return [program for mark in item.iter_markers("needs") for program in mark.args]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(programs): starts these programs (tests/groups.py)")
    config.stash[_LEFT_OUT] = Counter()
    if os.environ.get(_WANTED) == "all" and not hasattr(config, "workerinput"):
        missing = [f"{group}: {why}" for name, group in GROUPS.items() if (why := obstacle(name))]
        if missing:
            lines = "\n".join([*missing, _HOW])
            raise pytest.UsageError(f"{_WANTED} is all, and tests would be left out:\n{lines}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> object:
    global running
    running = item
    try:
        return (yield)
    finally:
        running = None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = config.stash[_LEFT_OUT]
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        reasons = [(GROUPS[name], why) for name in _needed(item) if (why := obstacle(name))]
        left_out.update(reasons[:1])
        (dropped if reasons else kept).append(item)
    if dropped:
        items[:] = kept
        config.hook.pytest_deselected(items=dropped)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Where pytest-xdist runs tests in several processes, one of them tells what it left out.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = [[*key, n] for key, n in session.config.stash[_LEFT_OUT].items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: pytest.Session) -> None:
    told = getattr(node, "workeroutput", {}).get("left_out", [])
    node.config.stash[_LEFT_OUT] = Counter({(group, why): n for group, why, n in told})


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left_out = config.stash[_LEFT_OUT]
    if left_out:
        terminalreporter.section(f"left out: {left_out.total()} of the tests", yellow=True)
        for line in _lines(left_out):
            terminalreporter.line(line)


def _lines(left_out: Counter[tuple[str, str]]) -> list[str]:
    groups = [
        f"{group}: {n} test{'s' * (n > 1)}, for {why}"
        for (group, why), n in sorted(left_out.items())
    ]
    return [*groups, _HOW]
