from __future__ import annotations

import io
import json
import math
from collections.abc import Generator
from dataclasses import fields, replace
from typing import Any

import pytest
from rich.console import Console

from cold_client import (
    AdapterNotFound,
    Health,
    InvalidRequest,
    Model,
    Piece,
    ProtocolError,
    Request,
    RequestCancelled,
    RequestTimeout,
    ServerError,
    ServerUnavailable,
    TokenContrast,
    cli,
)

from .fake_grpc import HANG, FakeServer, piece

CHANGED = TokenContrast(-1.0, math.nan, 3, changed=True)
SAME = TokenContrast(-1.0, -2.0, 1, changed=False)


class FakeTransport:
    """Answers every request with the same pieces, or raises what is among them."""

    def __init__(self, *script: Piece | BaseException) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.streamed: list[bool] = []
        self.ready = True
        self.ended = 0

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        self.requests.append(request)
        self.streamed.append(stream)
        try:
            for item in self.script:
                if isinstance(item, BaseException):
                    raise item
                yield item if request.return_contrast else replace(item, contrast=())
        finally:
            self.ended += 1

    def health(self, *, timeout_s: float) -> Health:
        return Health(live=True, ready=self.ready, model_ready=self.ready)

    def models(self, *, timeout_s: float) -> list[Model]:
        cold = Model(
            name="cold",
            version="1",
            state="READY",
            adapters=("x", "y"),
            default_adapter="y",
            base_model="base",
            max_context=9,
        )
        return [cold, Model(name="other", state="UNAVAILABLE", reason="broken")]

    def close(self) -> None:
        pass


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport(
        Piece(text="one ", token_ids=(1,), contrast=(SAME,)),
        Piece(text="two", token_ids=(2,), contrast=(CHANGED,), finish_reason="stop"),
    )


def test_generate_streams_text(
    transport: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", "hi"], transport=transport) == 0
    assert capsys.readouterr().out == "one two\n"
    assert transport.requests == [Request(text_input="hi")]
    assert transport.streamed == [True]


def test_generate_at_once(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "hi", "--no-stream"], transport=transport) == 0
    assert capsys.readouterr().out == "one two\n"
    assert transport.streamed == [False]


@pytest.mark.parametrize("more", [[], ["--no-stream"]])
def test_generate_json(
    transport: FakeTransport, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert cli.main(["generate", "hi", "--json", "--contrast", *more], transport=transport) == 0
    got = json.loads(capsys.readouterr().out)
    assert (got["text"], got["token_ids"], got["finish_reason"]) == ("one two", [1, 2], "stop")
    assert got["contrast"][1]["base_log_prob"] is None  # JSON has no NaN
    assert got["ms_per_token"] > 0


def test_every_flag_reaches_the_request(transport: FakeTransport) -> None:
    options = [field for field in fields(Request) if field.metadata["option"]]
    values: dict[str, Any] = {
        field.name: str(number) if field.metadata["datatype"] == "BYTES" else number
        for number, field in enumerate(options, 1)
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    flags += ["--stop=a", "--stop=b", "--bad-word=c", "--ignore-eos", "--adapter=x", "--chat"]
    flags += ["--mix=x:0.5", "--mix=y", "--decoding=beam", "--echo", "--log-probs", "--contrast"]
    flags += ["--beam-width=6", "--length-penalty=-0.5", "--early-stopping=never"]
    assert cli.main(["generate", "hi", *flags], transport=transport) == 0
    amateur = values.pop("amateur_text_input")
    assert transport.requests == [
        Request(
            messages=[{"role": "user", "content": "hi"}],
            amateur_messages=[{"role": "user", "content": amateur}],
            lora_name="x",
            lora_names=["x", "y"],
            lora_scales=[0.5, 1.0],
            decoding="beam",
            beam_width=6,
            length_penalty=-0.5,
            early_stopping="never",
            stop_words=["a", "b"],
            bad_words=["c"],
            ignore_eos=True,
            exclude_input_in_output=False,
            return_log_probs=True,
            return_contrast=True,
            **values,
        )
    ]


def test_a_dash_reads_standard_input(
    transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from\nstdin"))
    assert cli.main(["generate", "-"], transport=transport) == 0
    assert transport.requests[0].text_input == "from\nstdin"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("alpha: no"), 2),
        (AdapterNotFound("no"), 2),
        (ServerUnavailable("no"), 3),
        (RequestTimeout("no"), 4),
        (ServerError("no"), 1),
        (ProtocolError("no"), 1),
        (RequestCancelled("no"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    transport = FakeTransport(Piece(text="one"), error)
    assert cli.main(["generate", "hi"], transport=transport) == code
    captured = capsys.readouterr()
    assert captured.out == "one"
    assert captured.err == f"cold: {error}\n"


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_an_interrupt_closes_the_stream(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    transport = FakeTransport(Piece(text="one"), KeyboardInterrupt())
    assert cli.main([command, "hi"], transport=transport) == 130
    assert transport.ended == 1
    assert capsys.readouterr().err == ""


def test_an_interrupt_cancels_on_the_server(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    server.script = [piece("a", 1), HANG]
    monkeypatch.setattr("sys.stdout", Interrupted())
    assert cli.main(["generate", "hi", "--url", server.url]) == 130
    assert server.cancelled.wait(5)


@pytest.mark.parametrize(
    "argv", [[], ["generate"], ["generate", "hi", "--alpha", "x"], ["serve"], ["compare"]]
)
def test_bad_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: cold" in capsys.readouterr().err


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n  {code} " in out for code in (0, 1, 2, 3, 4, 130))


def test_a_bad_url_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["health", "--url", "ftp://x"]) == 2
    assert capsys.readouterr().err.startswith("cold: url: ")


def test_compare_in_plain_text(
    transport: FakeTransport, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--beta", "2", "--amateur-last-tokens", "3"]
    assert cli.main(["compare", "hi", *how], transport=transport) == 0
    out = capsys.readouterr().out
    assert out.startswith("== base ==\none two\n-- 2 tokens, ")
    assert "== expert, greedy ==\none two\n" in out
    assert out.endswith("ms/token, 1 contested, 1 changed\n")
    assert [request.decoding for request in transport.requests] == ["base", "greedy", "cold"]
    assert [request.return_contrast for request in transport.requests] == [None, None, True]
    assert {request.beta for request in transport.requests} == {2.0}
    assert [request.amateur_last_tokens for request in transport.requests] == [None, None, 3]


def test_compare_json(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "hi", "--json"], transport=transport) == 0
    got = json.loads(capsys.readouterr().out)
    assert list(got) == ["base", "greedy", "cold"]
    assert got["cold"]["num_contested"] == got["cold"]["num_changed"] == 1


def test_compare_on_a_terminal(
    transport: FakeTransport, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminal() -> Console:
        return Console(force_terminal=True, width=150, color_system="standard", _environ={})

    monkeypatch.setattr(cli, "Console", terminal)
    assert cli.main(["compare", "hi"], transport=transport) == 0
    last = capsys.readouterr().out.split("base")[-1]
    assert "CoLD" in last
    assert "1 contested, 1 changed" in " ".join(last.split())
    assert last.count("\x1b[1;30;43mtwo") == 1  # of three columns, only CoLD's is highlighted


def test_models(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"], transport=transport) == 0
    assert capsys.readouterr().out == (
        "cold 1 READY\n  adapters: x, y (default)\n  base model: base\n"
        "  max context: 9 tokens\nother UNAVAILABLE broken\n"
    )
    assert cli.main(["models", "--json"], transport=transport) == 0
    assert json.loads(capsys.readouterr().out)[0]["adapters"] == ["x", "y"]


def test_health(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["health"], transport=transport) == 0
    assert capsys.readouterr().out == "live: yes\nready: yes\nmodel_ready: yes\n"
    transport.ready = False
    assert cli.main(["health", "--json"], transport=transport) == 3
    assert json.loads(capsys.readouterr().out) == {
        "live": True,
        "ready": False,
        "model_ready": False,
    }
