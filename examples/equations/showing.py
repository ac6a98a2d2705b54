"""A contest as tables on a terminal, or as plain text where there is none."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from equations.contest import DECODINGS, Answer, Contest, Decoding, Speed
from equations.data import Problem

TITLES: dict[Decoding, str] = {
    "base": "base, no adapter",
    "greedy": "adapter, greedy",
    "cold": "adapter, CoLD",
}
_CHANGED = "bold black on yellow"
_LONGEST = 60  # characters of an answer; the base's go on and on


def show_problems(console: Console, contest: Contest, count: int) -> None:
    """Some problems in full; up to half of them are not answered alike by greedy and CoLD."""
    differing = contest.differing()
    shown = differing[: count // 2]
    shown += [i for i in range(len(contest.problems)) if i not in differing][: count - len(shown)]
    table = Table("problem, and the right answer", expand=True, show_lines=True)
    for decoding in DECODINGS:
        table.add_column(TITLES[decoding])
    for column, ratio in zip(table.columns, (5, 3, 2, 2), strict=True):
        column.ratio = ratio
    for i in shown:
        cells = [_answer(contest.answers[d][i], coloured=console.is_terminal) for d in DECODINGS]
        table.add_row(_problem(contest.problems[i]), *cells)
    console.print(table)
    mark = "coloured" if console.is_terminal else "in brackets"
    console.print(
        f"Tokens that contrast changed are {mark}. Greedy and CoLD answer {len(differing)} of "
        f"{len(contest.problems)} problems differently.\n"
    )


def show_score(console: Console, contest: Contest) -> None:
    """How many each gets right, and what contrast won and lost."""
    items = len(contest.problems)
    table = Table("held-out problems answered rightly", "", "")
    for decoding in DECODINGS:
        right = contest.right(decoding)
        table.add_row(TITLES[decoding], f"{right} of {items}", "█" * right)
    console.print(table)
    pairs = zip(contest.answers["greedy"], contest.answers["cold"], strict=True)
    outcomes = [(greedy.is_right, cold.is_right) for greedy, cold in pairs]
    won, lost = outcomes.count((False, True)), outcomes.count((True, False))
    console.print(f"CoLD against greedy: {won} won, {lost} lost. {_verdict(won, lost)}\n")


def show_speed(console: Console, speeds: dict[Decoding, Speed], tokens: int) -> None:
    """Time to the first token, and per token after it."""
    table = Table(f"one request at a time, {tokens} tokens", "first token", "each further token")
    for column in table.columns[1:]:
        column.justify = "right"
    for decoding, speed in speeds.items():
        table.add_row(TITLES[decoding], f"{speed.ttft_ms:.0f} ms", f"{speed.ms_per_token:.1f} ms")
    console.print(table)


def _problem(problem: Problem) -> Text:
    numbers = ", ".join(f"number{i} = {value:g}" for i, value in enumerate(problem.numbers))
    return Text.assemble(
        problem.question,
        "\n",
        (f"{problem.equation} = {problem.answer:g}", "bold"),
        f"  ({numbers})",
    )


def _answer(answer: Answer, *, coloured: bool) -> Text:
    text = Text()
    for piece in answer.pieces:
        changed = any(token.changed for token in piece.contrast)
        shown = piece.text if coloured or not changed else _bracketed(piece.text)
        text.append(shown, _CHANGED if changed else None)
    text.truncate(_LONGEST, overflow="ellipsis")
    right = answer.is_right
    return Text.assemble(("✓ " if right else "✗ ", "green" if right else "red"), text)


def _bracketed(text: str) -> str:
    word = text.strip()
    return text.replace(word, f"[{word}]") if word else text


def _verdict(won: int, lost: int) -> str:
    if won > lost:
        return "So few items prove nothing: docs/study.md has hundreds."
    return (
        "As it was trained, this adapter has nothing to gain from contrast with its own base; "
        "docs/study.md shows where contrast gains."
    )
