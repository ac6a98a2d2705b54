"""What a model's process and cold-server tell each other, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cold_backend.config import Settings
from cold_backend.errors import ConfigError
from cold_backend.serving import lifeline


def arguments(**parameters: Path) -> dict[str, str]:
    """As tritonserver gives them to `initialize`."""
    values = {name: {"string_value": str(path)} for name, path in parameters.items()}
    return {"model_name": "cold", "model_config": json.dumps({"parameters": values})}


def test_what_cannot_be_served_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "set_up_log", lambda *_: None)
    monkeypatch.setattr(lifeline, "collect_from_now_on", lambda: None)
    args = arguments(settings=tmp_path / "settings.json", problem=tmp_path / "problem")
    Settings(base_model="m").save(tmp_path / "settings.json")
    with lifeline.starting(args) as settings:
        assert settings.base_model == "m"
    assert not (tmp_path / "problem").exists()
    with pytest.raises(ConfigError), lifeline.starting(args):
        raise ConfigError("base_model: m has no weights")
    assert (tmp_path / "problem").read_text() == "base_model: m has no weights"


def test_a_byte_asks_to_drain_and_the_end_to_stop(tmp_path: Path) -> None:
    pipe = tmp_path / "lifeline"
    os.mkfifo(pipe)
    args = arguments(lifeline=pipe)
    drained, stopped = threading.Event(), threading.Event()
    end = os.open(pipe, os.O_RDWR)
    lifeline.when_server_stops(args, drained.set, stopped.set)
    os.write(end, b"d")
    assert drained.wait(10)
    assert not stopped.is_set()
    os.close(end)
    assert stopped.wait(10)
    lifeline.say_stopped(args)
    lifeline.say_stopped(args)
    assert not pipe.exists()


def test_a_process_ends_with_its_engine() -> None:
    code = (
        "import threading, time\n"
        "from cold_backend.serving.lifeline import vital\n"
        "def engine():\n"
        "    with vital():\n"
        "        raise ValueError('it is broken')\n"
        "threading.Thread(target=engine).start()\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "it is broken" in done.stderr
