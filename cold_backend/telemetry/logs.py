"""What a process writes to its log: text, or a JSON object a line. It never waits for that."""

from __future__ import annotations

import atexit
import json
import logging
import os

from cold_backend.telemetry.lines import LineWriter

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_STANDARD_ERROR = 2
_FLUSH_S = 1.0  # what the last lines get

_writer = LineWriter(_STANDARD_ERROR)
atexit.register(_writer.flush, _FLUSH_S)


def set_up_log(model: str, form: str) -> None:
    """Sends this process's log to standard error.

    Args:
        model: whose process it is.
        form: `text` or `json`.
    """
    hold_standard_files()
    handler = LineHandler(_writer)
    handler.setFormatter(JsonLines(model) if form == "json" else TextLines(model))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def say(text: str) -> None:
    """Writes a line to standard error, soon; neither waits nor fails."""
    pass_on(text.encode(errors="backslashreplace"))


def pass_on(line: bytes) -> None:
    """Like `say`, for what another process said."""
    _writer.put(line)


def dropped_lines() -> int:
    """How many lines this process could not write."""
    return _writer.dropped


def hold_standard_files() -> None:
    """Opens standard files that are closed as the null device.

    The next file that is opened would else have their number, and get what is meant for them.
    """
    for fd in range(_STANDARD_ERROR + 1):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free


class LineHandler(logging.Handler):
    """Hands records to a writer; one that cannot be formatted is dropped."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            text = self.format(record)
        except Exception:
            text = f"a line of the log could not be written: {str(record.msg)[:200]!r}"
        self._writer.put(text.encode(errors="backslashreplace"))


class TextLines(logging.Formatter):
    """`model: message key=value key=value`."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without a traceback."""
        fields = (f" {name}={_shown(value)}" for name, value in _extra(record).items())
        return super().formatMessage(record) + "".join(fields)


class JsonLines(logging.Formatter):
    """One JSON object: time (seconds since 1970), level, model, message and the record's fields."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "model": self._model,
            "message": record.getMessage(),
        } | _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _shown(value: object) -> str:
    """A value on one line that cannot be taken for another field: clients choose some of them."""
    plain = str(value)
    quoted = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in json.dumps(plain, ensure_ascii=False)
    )
    return quoted if quoted != f'"{plain}"' or set(" =") & set(plain) else plain


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and v is not None}
