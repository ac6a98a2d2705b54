"""What a model process writes to its log: text, or a JSON object a line."""

from __future__ import annotations

import json
import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up_log(model: str, form: str) -> None:
    """Sends this process's log to standard error.

    Args:
        model: whose process it is.
        form: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(model) if form == "json" else TextLines(model))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


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
