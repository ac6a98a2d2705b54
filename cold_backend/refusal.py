"""What cannot be used is refused in one line, whatever a library made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cold_backend.errors import ConfigError

_LONGEST = 300
# Their texts were written for users; others are only understood with the type in front.
_PLAIN = (ConfigError, NotImplementedError, ValueError, OSError)


class UnsupportedError(NotImplementedError):
    """What a model's code asks for is not done here; the text says what."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Makes any exception of the block a ConfigError.

    Args:
        what: begins its text; names the setting.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The beginning of an exception's text."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    text = lines[0] if isinstance(error, _PLAIN) else f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
