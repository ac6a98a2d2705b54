from __future__ import annotations

import dataclasses
import sys
import types

import pytest

import cold_client
from cold_client._protocol import INPUTS
from cold_client._transport import scheme_and_target


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(cold_client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert cold_client.__all__ == sorted(public | {"__version__"})


def test_the_docstring_draws_every_exception() -> None:
    drawn = sys.modules["cold_client._exceptions"].__doc__ or ""
    for error in cold_client.ColdClientError.__subclasses__():
        assert f"── {error.__name__} " in drawn
        assert error.__name__ in cold_client.__all__


def test_a_request_has_every_input_of_the_protocol() -> None:
    names = {field.name for field in dataclasses.fields(cold_client.Request)}
    assert names | {"stream"} == set(INPUTS)


def test_an_unknown_parameter_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        cold_client.Request(text_input="a", alhpa=0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://h", ("grpc", "h:8001")),
        ("grpc://h:9", ("grpc", "h:9")),
        ("http://h/", ("http", "h:8000")),
        ("https://h", ("https", "h:443")),
        ("grpcs://h", ("grpcs", "h:443")),
        ("grpc://[::1]:9", ("grpc", "[::1]:9")),
    ],
)
def test_url(url: str, expected: tuple[str, str]) -> None:
    assert scheme_and_target(url) == expected


@pytest.mark.parametrize("url", ["", "h:8001", "ftp://h", "grpc://", "http://h/v2", "grpc://h:x"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(cold_client.InvalidRequest) as caught:
        cold_client.Client(url)
    assert caught.value.field == "url"


def test_a_closed_client_says_so() -> None:
    client = cold_client.Client("http://127.0.0.1:1")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()
