"""Answers that contrast made right or wrong, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cold_eval.colours import colour
from cold_eval.decodings import GREEDY
from cold_eval.items import Item, Task
from cold_eval.report import by_decoding, common_items
from cold_eval.results import Result
from cold_eval.statistics import Summary

_SHOWN_FIRST = 20  # of the decoding that is open
_SHOWN = 8
_STRONG = 4.0  # nats between expert and base that get the full colour
_PROMPT_LENGTH = 1200


def flip_groups(
    task: Task, results: Sequence[Result], summaries: Mapping[str, Summary], first: str
) -> list[dict[str, Any]]:
    """For each decoding the answers whose score differs from greedy's.

    Args:
        first: the decoding that is shown open and at length.
    """
    found = by_decoding(results, task.name)
    items = {*common_items({name: found[name] for name in summaries})}
    names = sorted((name for name in summaries if name != GREEDY.name), key=lambda n: n != first)
    of_task = [item for item in task.items if item.id in items]
    groups = (
        _group(of_task, name, found[GREEDY.name], found[name], name == first) for name in names
    )
    return [group for group in groups if group["flips"]]


def _group(
    items: Sequence[Item],
    name: str,
    greedy: Mapping[str, Result],
    other: Mapping[str, Result],
    first: bool,
) -> dict[str, Any]:
    differing = [i for i in items if other[i.id].score != greedy[i.id].score]
    won = [item for item in differing if other[item.id].score > greedy[item.id].score]
    lost = [item for item in differing if item not in won]
    limit = _SHOWN_FIRST if first else _SHOWN
    # As many of either kind, as far as there are.
    some = min(len(won), max(limit // 2, limit - len(lost)))
    shown = won[:some] + lost[: limit - some]
    return {
        "name": name,
        "is_open": first,
        "won": len(won),
        "lost": len(lost),
        "hidden": len(differing) - len(shown),
        "flips": [_flip(item, greedy[item.id], name, other[item.id]) for item in shown],
    }


def _flip(item: Item, greedy: Result, name: str, other: Result) -> dict[str, Any]:
    is_won = other.score > greedy.score
    best = max(greedy.score, other.score)
    expected = item.choices[int(item.answer)] if item.choices else item.answer
    return {
        "item": item.id,
        "tone": "gain" if is_won else "loss",
        "verdict": "won" if is_won else "lost",
        "prompt": _prompt(item),
        "expected": expected,
        "sides": [
            _side(GREEDY.name, greedy, best),
            _side(name, other, best),
        ],
    }


def _side(name: str, result: Result, best: float) -> dict[str, Any]:
    tokens = _tokens(result)
    answer = result.answer or "(no answer)"
    if result.votes:
        answer += f" ({result.votes.get(answer, 0)} of {sum(result.votes.values())} votes)"
    return {
        "name": name,
        "answer": answer if answer.strip() != result.text.strip() else "",
        "is_right": result.score == best,
        "tokens": tokens or [{"text": result.text, "is_changed": False, "colour": "", "title": ""}],
    }


def _tokens(result: Result) -> list[dict[str, Any]]:
    if not result.expert:
        return []
    changed = set(result.changed)
    columns = zip(result.pieces, result.expert, result.base, strict=True)
    return [
        {
            "text": text,
            "is_changed": at in changed,
            "colour": colour((expert - base) / _STRONG),
            "title": f"log-probability: expert {expert:.2f}, base {base:.2f}",
        }
        for at, (text, expert, base) in enumerate(columns)
        if text
    ]


def _prompt(item: Item) -> str:
    text = item.prompt if isinstance(item.prompt, str) else item.prompt[-1]["content"]
    # What is asked comes last; worked examples come before it.
    return text if len(text) <= _PROMPT_LENGTH else f"… {text[-_PROMPT_LENGTH:]}"
