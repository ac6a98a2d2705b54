"""Reading adapters fails for a time, or hangs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cold_backend.adapters import catalogue
from cold_backend.errors import (
    AdapterUnreadableError,
)
from tests.unit.adapter_folder import WEIGHTS, Folder


@pytest.mark.parametrize("call", ["stat", "open", "preadv"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_passing_error_is_tried_again(
    call: str, code: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    good_call = getattr(os, call)

    def fail(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name == "reader":
            raise OSError(code, "x")
        return good_call(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        for _ in range(2):
            with pytest.raises(AdapterUnreadableError, match=os.strerror(code)) as caught:
                folder.find("math")
            assert str(folder.path) not in str(caught.value)
    assert folder.find("math")


def test_a_file_that_is_cut_short_while_it_is_read_is_tried_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder.math / WEIGHTS
    whole, read = weights.read_bytes(), os.preadv

    def cut(descriptor: int, buffers: Any, offset: int) -> int:
        if offset > 10_000:
            os.truncate(weights, 10_000)
        return read(descriptor, buffers, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", cut)
        with pytest.raises(AdapterUnreadableError, match="changed while it was read"):
            folder.find("math")
    weights.write_bytes(whole)
    assert folder.find("math")


class Hanging:
    """The system's call of a name hangs on a path, until `go`."""

    def __init__(self, call: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        good_call = getattr(os, call)

        def hang(target: Any, *arguments: Any, **options: Any) -> Any:
            if str(target).startswith(str(path)) and threading.current_thread().name == "reader":
                assert self.go.wait(20)
            return good_call(target, *arguments, **options)

        monkeypatch.setattr(os, call, hang)


def test_a_name_that_hangs_is_given_up_and_no_other_waits(
    folder: Folder, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "READ_LIMIT_S", 0.2)
    for number in range(34):
        shutil.copytree(good, folder.path / f"slow{number}")
    hanging = Hanging("stat", folder.path / "slow", monkeypatch)
    first, again = folder.catalogue.reading("slow0"), folder.catalogue.reading("slow0")
    assert folder.find("math")
    for reading in (first, again):
        with pytest.raises(AdapterUnreadableError, match=r"was not read within 0\.2 s; try again"):
            reading.result(20)
    assert "an earlier read of it has not come back" in folder.problem("slow0")
    # More of them than there are threads.
    for start in range(1, 30, 4):
        assert start > 15 or folder.find("math")
        readings = [folder.catalogue.reading(f"slow{start + number}") for number in range(4)]
        assert all(isinstance(r.exception(20), AdapterUnreadableError) for r in readings)
    assert "16 others have not come back" in folder.problem("other")
    assert folder.catalogue.known("fixed")
    hanging.go.set()
    for name in ("math", "slow0", "slow32"):
        for _ in range(100):
            try:
                assert folder.find(name)
                break
            except AdapterUnreadableError:
                time.sleep(0.05)
        else:
            pytest.fail(f"{name} is not read again")


def test_a_known_adapter_is_served_while_its_files_hang(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LOOK_LIMIT_S", 0.2)
    served = folder.find("math")
    hanging = Hanging("stat", folder.math, monkeypatch)
    assert folder.catalogue.known("math") is None
    assert folder.find("math") is served
    assert folder.catalogue.known("math") is served  # at once
    hanging.go.set()
    deadline_s = time.monotonic() + 20
    while folder.catalogue.known("math") is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert folder.find("math") == served


def test_a_changed_adapter_is_waited_for_although_an_older_one_is_known(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "LOOK_LIMIT_S", 0.2)
    served = folder.find("math")
    os.utime(folder.math / WEIGHTS, ns=(1, 1))
    hanging = Hanging("open", folder.math / WEIGHTS, monkeypatch)
    reading = folder.catalogue.reading("math")
    with pytest.raises(TimeoutError):
        reading.result(0.6)
    hanging.go.set()
    assert reading.result(20) != served
