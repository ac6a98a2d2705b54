"""An adapter's cold.json in a running server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cold_client import Client, InvalidRequest, Request
from cold_client.cli import main
from tests.server.test_supervision import cold_server

pytestmark = pytest.mark.server


def copy(adapter: Path, target: Path, tuned: dict[str, object]) -> Path:
    shutil.copytree(adapter, target)
    (target / "cold.json").write_text(json.dumps(tuned))
    return target


def test_the_server_decodes_as_the_adapter_says(
    base_model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = copy(adapter, tmp_path / "fixed", {"alpha": 0.05, "beta": 3})
    folder = tmp_path / "folder"
    copy(adapter, folder / "greedy", {"decoding": "greedy", "tuning": {"items": 5}})
    copy(adapter, folder / "broken", {"betta": 3})
    with (
        cold_server(base_model, fixed, "--adapters-dir", str(folder)) as server,
        Client(server.grpc) as client,
    ):

        def ask(**fields: object) -> tuple[int, ...]:
            request = Request(text_input="A farmer has 12 cows", max_tokens=16, **fields)  # type: ignore[arg-type]
            return client.generate(request).token_ids

        strong = ask(decoding="cold", alpha=0.05, beta=3.0)
        greedy = ask(decoding="greedy")
        assert ask() == strong != greedy
        assert ask(beta=0.0) == ask(decoding="greedy") == greedy
        assert ask(lora_name="greedy") == greedy
        assert ask(lora_name="greedy", decoding="cold", alpha=0.05, beta=3.0) == strong
        with pytest.raises(InvalidRequest, match=r"lora_name: .*cold\.json: betta: unknown key"):
            ask(lora_name="broken")
        assert main(["models", "--url", server.http]) == 0
        assert (
            "defaults of equations: decoding cold, alpha 0.05, beta 3.0" in capsys.readouterr().out
        )
