"""The order of tests, and what `make test-fast` keeps out."""

from __future__ import annotations

import itertools
import re
import subprocess

import pytest

from tests.conftest import ROOT
from tests.order import FAST_FOLDERS, group_of, is_fast


def test_a_fast_test_cannot_start_a_server(request: pytest.FixtureRequest) -> None:
    assert is_fast(request.node)
    for command in (["/opt/tritonserver"], ["/bin/sh", "-c", 'exec "$0"', "/opt/bin/tritonserver"]):
        with pytest.raises(RuntimeError, match="mark it with `server`"):
            subprocess.run(command)
    assert subprocess.run(["true"]).returncode == 0


def test_what_is_fast_is_chosen_by_what_it_uses(request: pytest.FixtureRequest) -> None:
    """Of all that is collected in this run."""
    for item in request.session.items:
        if item.get_closest_marker("fast"):
            assert "base_model" not in getattr(item, "fixturenames", ()), item
            assert not item.get_closest_marker("server"), item
            assert not item.get_closest_marker("needs"), item


def test_the_fast_folders_are_those_of_the_makefile() -> None:
    (line,) = re.findall(r"^\t\$\(PYTEST\) -m fast (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert tuple(f"{folder}/" for folder in line.split()) == FAST_FOLDERS


def test_a_group_is_not_interrupted_by_another(request: pytest.FixtureRequest) -> None:
    """What its fixtures start would be started twice."""
    groups = [
        group for group, _ in itertools.groupby(map(group_of, request.session.items)) if group
    ]
    assert len(groups) == len({*groups})
