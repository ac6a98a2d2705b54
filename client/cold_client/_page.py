"""One prompt as a picture: a comparison as an HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from ._types import Piece, Request, TokenContrast

_STRONG = 4.0  # nats between expert and base that get the full colour
_NONE, _ABOVE, _BELOW = (242, 244, 247), (110, 168, 228), (240, 160, 96)


@dataclass(frozen=True, slots=True)
class Answer:
    """One decoding's answer.

    Attributes:
        title: what it is called.
        summary: how long it took and the like.
        pieces: as they came.
    """

    title: str
    summary: str
    pieces: Sequence[Piece]


def page(request: Request, answers: Sequence[Answer], beta: float | None) -> str:
    """The page; the last answer is CoLD's, with its contrast.

    Args:
        beta: with which it was decoded, None if that is not known.
    """
    folder = files("cold_client")
    *others, cold = answers
    tokens = [*_tokens(cold.pieces)]
    cards = [_card(a, escape("".join(piece.text for piece in a.pieces))) for a in others]
    cards.append(_card(cold, "".join(_span(text, token) for text, token in tokens)))
    rows = (_row(n, text, token, beta) for n, (text, token) in enumerate(tokens, 1))
    return Template(folder.joinpath("page.html").read_text("utf-8")).substitute(
        style=folder.joinpath("page.css").read_text("utf-8"),
        prompt=escape(_prompt(request)),
        cards="\n".join(cards),
        rows="\n".join(rows),
        score=f"score (β {beta:g})" if beta is not None else "score",
        below=_colour(-1),
        above=_colour(1),
    )


def _tokens(pieces: Iterable[Piece]) -> Iterable[tuple[str, TokenContrast]]:
    """Each token and its text; that of several which came at once is with the last of them."""
    for piece in pieces:
        count = len(piece.contrast)
        texts = [""] * (count - 1) + [piece.text] * bool(count)
        yield from zip(texts, piece.contrast, strict=True)


def _prompt(request: Request) -> str:
    if request.text_input is not None:
        return request.text_input
    if request.messages is not None:
        return "\n".join(f"{m['role']}: {m['content']}" for m in request.messages)
    return " ".join(map(str, request.input_ids or ()))


def _card(answer: Answer, text: str) -> str:
    return (
        f'<article><h2>{escape(answer.title)}</h2><p class="summary">{escape(answer.summary)}</p>'
        f'<div class="text">{text}</div></article>'
    )


def _span(text: str, token: TokenContrast) -> str:
    if not text:
        return ""
    kind = ' class="changed"' if token.changed else ""
    told = f"expert {_percent(token.expert_log_prob)}, base {_percent(token.base_log_prob)}"
    if token.changed:
        told += f", the expert alone: {_shown(token.expert_text)}"
    colour = _colour(_contrast(token) / _STRONG)
    return f'<span{kind} style="background:{colour}" title="{escape(told)}">{escape(text)}</span>'


def _row(number: int, text: str, token: TokenContrast, beta: float | None) -> str:
    contrast = round(_contrast(token), 2) + 0.0  # no -0.00
    cells = [
        f"<td>{number}</td>",
        f'<td class="token"><code>{escape(_shown(text))}</code></td>',
        _bar(token.expert_log_prob, "expert"),
        _bar(token.base_log_prob, "base"),
        f'<td><b style="background:{_colour(contrast / _STRONG)}">{contrast:+.2f}</b></td>',
        f"<td>{token.valid_count}</td>",
        f"<td>{_score(token, beta)}</td>",
        f'<td class="token">{_alone(token)}</td>',
    ]
    kind = "changed" if token.changed else "contested" if token.valid_count > 1 else "settled"
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _bar(log_prob: float, kind: str) -> str:
    width = round(100 * math.exp(log_prob), 1)
    return (
        f'<td class="bar"><i class="{kind}" style="width:{width}px"></i>'
        f"<span>{_percent(log_prob)}</span></td>"
    )


def _score(token: TokenContrast, beta: float | None) -> str:
    if beta is None:
        return ""
    return f"{token.expert_log_prob + beta * _contrast(token):.2f}"


def _alone(token: TokenContrast) -> str:
    if not token.changed:
        return '<span class="same">the same</span>'
    return f"<code>{escape(_shown(token.expert_text))}</code>"


def _contrast(token: TokenContrast) -> float:
    return token.expert_log_prob - token.base_log_prob


def _shown(text: str) -> str:
    """A token whose spaces can be seen."""
    return text.replace(" ", "·").replace("\n", "⏎") or "(no text)"


def _percent(log_prob: float) -> str:
    share = 100 * math.exp(log_prob)
    return f"{share:.1f} %" if share >= 0.1 else f"{share:.1g} %"


def _colour(share: float) -> str:
    """Blue above 0, orange below, readable under dark text."""
    end, weight = (_ABOVE if share > 0 else _BELOW), min(1.0, abs(share))
    red, green, blue = (round(n + weight * (e - n)) for n, e in zip(_NONE, end, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
