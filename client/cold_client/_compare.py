"""One prompt decoded three ways, side by side: the base, the expert alone, and CoLD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from ._client import Client
from ._page import Answer, page
from ._types import Piece, Request, Result

_TITLES: dict[Literal["base", "greedy", "cold"], str] = {
    "base": "base",
    "greedy": "expert, greedy",
    "cold": "CoLD",
}
_CHANGED = "bold black on yellow"
_CONTRAST: dict[str, Any] = {"return_contrast": True}
_ALONE: dict[str, Any] = {"return_contrast": None} | {
    one.name: None for one in fields(Request) if one.name.startswith("amateur_")
}
_BETA = 0.5  # the server's, unless an adapter has its own


class Comparison:
    """Runs the three requests, one after another so that their times can be compared."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self._pieces: dict[str, list[Piece]] = {decoding: [] for decoding in _TITLES}

    def run(self, client: Client, request: Request) -> None:
        """Fills in the results. Raises what `Client.stream` raises."""
        for decoding in _TITLES:
            of_contrast = _CONTRAST if decoding == "cold" else _ALONE
            variant = replace(request, decoding=decoding, **of_contrast)
            with client.stream(variant) as pieces:
                for piece in pieces:
                    self._pieces[decoding].append(piece)
                self.results[decoding] = pieces.result()

    def page(self, request: Request, beta: float | None) -> str:
        """An HTML page, when all has been run; `beta` is None if it is not known."""
        answers = [
            Answer(title, self._summary(decoding), self._pieces[decoding])
            for decoding, title in _TITLES.items()
        ]
        return page(request, answers, beta)

    def table(self) -> Table:
        """What there is so far, in three columns; may be called while `run` runs."""
        table = Table(
            *_TITLES.values(),
            expand=True,
            caption=Text.assemble(("highlighted", _CHANGED), ": not what the expert would choose"),
            show_footer=True,
        )
        for column, decoding in zip(table.columns, _TITLES, strict=True):
            column.ratio = 1
            column.footer = self._summary(decoding)
        table.add_row(*(self._text(decoding) for decoding in _TITLES))
        return table

    def plain(self) -> str:
        """The results one below the other, without any colour."""
        return "\n\n".join(
            f"== {title} ==\n{self.results[decoding].text}\n-- {self._summary(decoding)}"
            for decoding, title in _TITLES.items()
        )

    def _text(self, decoding: str) -> Text:
        text = Text()
        for piece in tuple(self._pieces[decoding]):
            changed = any(token.changed for token in piece.contrast)
            text.append(piece.text, _CHANGED if changed else None)
        return text

    def _summary(self, decoding: str) -> str:
        result = self.results.get(decoding)
        if result is None:
            return "…"
        summary = f"{result.num_output_tokens} tokens"
        if result.ms_per_token is not None:
            summary += f", {result.ms_per_token:.1f} ms/token"
        if decoding == "cold":
            summary += f", {result.num_contested} contested, {result.num_changed} changed"
        return summary


def beta_of(client: Client, request: Request) -> float | None:
    """What the server decodes with; None if it does not say, or if every token has its own."""
    defaults = _defaults(client, request)
    if (request.beta_rule or (defaults or {}).get("beta_rule")) == "divergence":
        return None
    if request.beta is not None or defaults is None:
        return request.beta
    return float(defaults.get("beta", _BETA))


def _defaults(client: Client, request: Request) -> Mapping[str, Any] | None:
    """Those of the request's adapter, of which several have none; None if they are not known."""
    if request.lora_names is not None:
        return {}
    for model in client.models():
        adapter = request.lora_name or model.default_adapter
        if adapter in model.adapters:
            return model.adapter_defaults.get(adapter, {})
    return None
